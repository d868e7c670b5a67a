"""The whole recogniser with frames prepared on the GPU of a made-up Jetson: the same people, boxes and similarities."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_jetson import Jetson

from edgeface import FaceRecognizer
from edgeface.errors import InferenceError, InputError

if TYPE_CHECKING:
    from pathlib import Path

KERNELS = 3  # launched for a frame with faces: the letterbox, the faces' positions, the faces


def test_the_gpu_prepares_what_the_cpu_prepares(
    jetson: Jetson, engines: Path, tmp_path: Path, photos: dict[str, Any]
) -> None:
    jetson.build_kernels()
    some = [photos[name] for name in ("emmanuel_macron_2025", "jacinda_ardern_2022", "rishi_sunak_2020")]
    results = {}
    for prepare in ("cpu", "gpu"):
        with FaceRecognizer.open(tmp_path / f"{prepare}.gallery", prepare=prepare) as recognizer:
            recognizer.enroll("ardern", photos["jacinda_ardern_2018"])
            launched = jetson.cuda.calls["cuLaunchKernel"]
            results[prepare] = [recognizer.recognize(photo)[0] for photo in some]
            launched = jetson.cuda.calls["cuLaunchKernel"] - launched
            assert launched == (KERNELS * len(some) if prepare == "gpu" else 0)
            if prepare == "gpu":
                with ThreadPoolExecutor(3) as pool:
                    results["threads"] = list(pool.map(lambda p: recognizer.recognize(p)[0], some))
                results["each"] = [found[0] for found in recognizer.recognize_each(some)]
                assert all(
                    recognizer.runtimes[role].frames == "prepared on the GPU: asked for"
                    for role in ("detector", "embedder")
                )
    for name in ("gpu", "threads", "each"):
        for ours, theirs in zip(results[name], results["cpu"], strict=True):
            assert (ours.name, ours.decision, ours.similarity) == (theirs.name, theirs.decision, theirs.similarity)
            np.testing.assert_array_equal(ours.box, theirs.box)
            np.testing.assert_array_equal(ours.landmarks, theirs.landmarks)


def test_why_the_cpu_prepares_is_said(jetson: Jetson, engines: Path, tmp_path: Path) -> None:
    with FaceRecognizer.open(tmp_path / "a.gallery") as recognizer:
        assert recognizer.runtimes["detector"].frames.startswith("prepared on the CPU: there are no CUDA kernels: ")
    with FaceRecognizer.open(tmp_path / "b.gallery", runtime="onnxruntime") as recognizer:
        assert recognizer.runtimes["detector"].frames == "prepared on the CPU, where the network runs"
    with pytest.raises(InputError, match="frame_size: expected"):
        FaceRecognizer.open(tmp_path / "c.gallery", frame_size=(1080,))  # type: ignore[arg-type]  # the mistake tested


def test_nothing_is_allocated_frame_after_frame(
    jetson: Jetson, engines: Path, tmp_path: Path, photos: dict[str, Any]
) -> None:
    jetson.build_kernels()
    calls = ("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuModuleLoadDataEx")
    largest = sorted(photos.values(), key=lambda photo: -photo.size)[:2]
    with FaceRecognizer.open(tmp_path / "a.gallery", prepare="gpu") as recognizer:
        for photo in largest:
            recognizer.recognize(photo)
        before = [jetson.cuda.calls[call] for call in calls]
        assert before[-1] == 1, "one module for both engines"
        for photo in largest:
            recognizer.recognize(photo)
        for _ in recognizer.recognize_each(largest):
            pass
        two_at_once = [jetson.cuda.calls[call] for call in calls]
        for _ in recognizer.recognize_each(largest):
            pass
        assert [jetson.cuda.calls[call] for call in calls] == two_at_once
        assert two_at_once[-1] == before[-1]


def test_an_iteration_that_is_given_up_gives_its_frames_back(
    jetson: Jetson, engines: Path, tmp_path: Path, photos: dict[str, Any]
) -> None:
    jetson.build_kernels()
    photo = photos["barack_obama_2005"]
    with FaceRecognizer.open(tmp_path / "a.gallery", prepare="gpu") as recognizer:
        seen = []
        for _ in range(3):
            for _found in recognizer.recognize_each([photo] * 3):
                break
            seen.append(jetson.cuda.memory_in_use())
        assert seen[1] == seen[-1]


def test_a_lost_context_is_reloaded(
    jetson: Jetson, engines: Path, tmp_path: Path, photos: dict[str, Any]
) -> None:
    jetson.build_kernels()
    photo = photos["barack_obama_2005"]
    with FaceRecognizer.open(tmp_path / "a.gallery", prepare="gpu") as recognizer:
        first = recognizer.recognize(photo)[0]
        jetson.cuda.fail("cuLaunchKernel", why="an illegal memory access was encountered", sticky=True)
        with pytest.raises(InferenceError, match="context is lost"):
            recognizer.recognize(photo)
        recognizer.reload()
        np.testing.assert_array_equal(recognizer.recognize(photo)[0].box, first.box)
        assert jetson.cuda.calls["cuDevicePrimaryCtxRetain"] == 2
        assert jetson.cuda.calls["cuModuleLoadDataEx"] == 2
