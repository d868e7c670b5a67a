"""The whole recogniser on a made-up Jetson: numbers by onnxruntime, choice of runtime, reloading."""

from __future__ import annotations

import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_jetson import BUILD, Jetson, convert, tones

from edgeface import Embedder, FaceRecognizer, Gallery, load_engine
from edgeface.errors import (
    ClosedError,
    ConfigurationError,
    EngineError,
    EngineIncompatibleError,
    InferenceError,
    InputError,
    MissingDependencyError,
    ModelNotFoundError,
)
from edgeface.runtime.choice import choose
from edgeface.runtime.fake import FakeEngine
from edgeface.runtime.reload import ReloadableEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeface.manifest import Manifest


def test_the_whole_recogniser_says_what_onnxruntime_says(
    jetson: Jetson, engines: Path, tmp_path: Path, photos: dict[str, Any]
) -> None:
    results = {}
    for runtime in ("onnxruntime", "auto"):
        with FaceRecognizer.open(tmp_path / f"{runtime}.gallery", runtime=runtime) as recognizer:
            recognizer.enroll("macron", photos["emmanuel_macron_2014"])
            recognizer.enroll("ardern", photos["jacinda_ardern_2018"])
            results[runtime] = [recognizer.recognize(photo)[0] for photo in photos.values()]
            if runtime == "auto":
                with ThreadPoolExecutor(3) as pool:
                    again = list(pool.map(lambda p: recognizer.recognize(p)[0], list(photos.values()) * 2))
    assert jetson.trt.executed > 12
    for ours, theirs in zip(results["auto"] + again, results["onnxruntime"] * 3, strict=True):
        assert (ours.name, ours.decision) == (theirs.name, theirs.decision)
        assert ours.similarity == pytest.approx(theirs.similarity, abs=1e-4)
        np.testing.assert_allclose(ours.box, theirs.box, atol=0.01)
    assert [r.name for r in results["auto"]] == [None, "macron", "macron", "ardern", "ardern", None]


def test_more_faces_than_the_largest_batch(jetson: Jetson, engines: Path, photos: dict[str, Any]) -> None:
    photo = photos["barack_obama_2005"]
    points = np.array([[[60, 60], [90, 60], [75, 75], [62, 92], [88, 92]]], np.float32)
    eleven = points + np.arange(11, dtype=np.float32)[:, None, None]
    with load_engine(engines / "sface.fp32.plan") as ours, load_engine(engines / "sface.fp32.onnx") as theirs:
        np.testing.assert_allclose(
            Embedder(ours).embed(photo, eleven), Embedder(theirs).embed(photo, eleven), atol=1e-5
        )


# Choice of the runtime ----------------------------------------------------------------------------------------------
def test_tensorrt_is_chosen_where_it_works(jetson: Jetson, engines: Path, tmp_path: Path) -> None:
    with FaceRecognizer.open(tmp_path / "a.gallery") as recognizer:
        for role, name in (("detector", "yunet"), ("embedder", "sface")):
            choice = recognizer.runtimes[role]
            assert (choice.runtime, choice.reason) == ("tensorrt", "an engine for this machine is there")
            assert choice.path == engines / f"{name}.fp32.plan"
        assert recognizer.embedder.engine.description.startswith("tensorrt 10.3.0 on Orin")


def test_no_engine_is_told_and_no_warning_off_the_board(
    jetson: Jetson, models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), FaceRecognizer.open(tmp_path / "a.gallery") as recognizer:
        choice = recognizer.runtimes["detector"]
    assert choice.runtime == "onnxruntime"
    assert "`edgeface build yunet --precision fp32 --target tensorrt --calibration FOLDER` makes one" in choice.reason
    assert [record.levelname for record in caplog.records if "CPU" in record.message] == ["INFO", "INFO"]


@pytest.mark.parametrize("missing", ["tensorrt", "pycuda.driver"])
def test_the_cpu_instead_of_an_engine_is_a_warning(
    jetson: Jetson,
    engines: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    missing: str,
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with caplog.at_level(logging.WARNING), FaceRecognizer.open(tmp_path / "a.gallery") as recognizer:
        choice = recognizer.runtimes["embedder"]
    assert choice.runtime == "onnxruntime"
    assert choice.reason.startswith("its TensorRT engine cannot run: ")
    assert f"sface runs on the CPU: {choice.reason}" in caplog.text


def test_an_engine_of_another_version_is_a_warning(jetson: Jetson, engines: Path, tmp_path: Path) -> None:
    convert(engines, "sface", build={**BUILD, "tensorrt": "8.6.1"})
    with FaceRecognizer.open(tmp_path / "a.gallery") as recognizer:
        assert recognizer.runtimes["detector"].runtime == "tensorrt"
        assert "built by TensorRT 8.6.1, here is 10.3.0" in recognizer.runtimes["embedder"].reason


def test_tensorrt_asked_for_takes_nothing_else(
    jetson: Jetson, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaceRecognizer.open(tmp_path / "a.gallery", runtime="tensorrt") as recognizer:
        assert recognizer.runtimes["detector"].reason == "asked for"
    with pytest.raises(ConfigurationError, match="a model for onnxruntime, but the runtime tensorrt was asked for"):
        choose(engines / "sface.fp32.onnx", runtime="tensorrt")
    with pytest.raises(ConfigurationError, match="a model for tensorrt, but the runtime onnxruntime"):
        choose(engines / "sface.fp32.plan", runtime="onnxruntime")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match="tensorrt cannot be imported"):
        FaceRecognizer.open(tmp_path / "a.gallery", runtime="tensorrt")
    (engines / "yunet.fp32.plan.json").unlink()
    with pytest.raises(ModelNotFoundError, match="edgeface build yunet --precision fp32 --target tensorrt --cal"):
        FaceRecognizer.open(tmp_path / "a.gallery", runtime="tensorrt")


def test_a_runtime_or_precision_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="runtime: expected one of auto, tensorrt, onnxruntime, got 'cuda'"):
        FaceRecognizer.open(tmp_path / "a.gallery", runtime="cuda")
    with pytest.raises(InputError, match="precision: expected one of fp32, fp16, mixed, int8, got 'int4'"):
        FaceRecognizer.open(tmp_path / "a.gallery", precision="int4")


def test_a_failure_of_the_second_engine_closes_the_first(jetson: Jetson, engines: Path, tmp_path: Path) -> None:
    jetson.trt.refuse["deserialize_cuda_engine"] = 2
    with pytest.raises(EngineIncompatibleError):
        FaceRecognizer.open(tmp_path / "a.gallery", runtime="tensorrt")
    assert jetson.cuda.memory_in_use() == 0


# Exchange -----------------------------------------------------------------------------------------------------------
def test_a_model_update_drops_no_frame(jetson: Jetson, engines: Path, tmp_path: Path, photos: dict[str, Any]) -> None:
    photo = photos["jacinda_ardern_2022"]
    stop = threading.Event()
    frames = [0, 0]

    def watch(number: int, recognizer: FaceRecognizer) -> None:
        while not stop.is_set():
            assert recognizer.recognize(photo)[0].name == "ardern"
            frames[number] += 1

    with FaceRecognizer.open(tmp_path / "a.gallery") as recognizer, ThreadPoolExecutor(2) as pool:
        recognizer.enroll("ardern", photos["jacinda_ardern_2018"])
        before = recognizer.embedder.engine
        assert isinstance(before, ReloadableEngine)
        first = before.current
        watching = [pool.submit(watch, number, recognizer) for number in range(2)]
        for _ in range(3):
            seen = list(frames)
            recognizer.reload()
            while not stop.wait(0.01) and any(now <= then for now, then in zip(frames, seen, strict=True)):
                if any(future.done() for future in watching):
                    break
        stop.set()
        for future in watching:
            future.result()
        assert before.current is not first
    with pytest.raises(ClosedError):
        first.run(np.zeros((1, 3, 112, 112), np.float32))


def test_a_lost_context_is_reloaded(jetson: Jetson, engines: Path, tmp_path: Path, photos: dict[str, Any]) -> None:
    photo = photos["barack_obama_2005"]
    with FaceRecognizer.open(tmp_path / "a.gallery") as recognizer:
        assert len(recognizer.recognize(photo)) == 1
        jetson.cuda.fail("cuStreamSynchronize", why="an illegal memory access was encountered", sticky=True)
        with pytest.raises(InferenceError, match="context is lost"):
            recognizer.recognize(photo)
        recognizer.reload()
        assert len(recognizer.recognize(photo)) == 1
        assert jetson.cuda.calls["cuDevicePrimaryCtxRetain"] == 2


def test_a_gpu_that_stays_lost_is_an_error_and_never_the_cpu(
    jetson: Jetson, engines: Path, tmp_path: Path, photos: dict[str, Any]
) -> None:
    """Only a new process helps then: the service must end for systemd, whatever `runtime` allows at the start."""
    photo = photos["barack_obama_2005"]
    jetson.cuda.held_elsewhere = True
    with FaceRecognizer.open(tmp_path / "a.gallery", runtime="auto") as recognizer:
        jetson.cuda.fail("cuStreamSynchronize", why="an illegal memory access was encountered", sticky=True)
        with pytest.raises(InferenceError, match="context is lost"):
            recognizer.recognize(photo)
        for _ in range(2):
            with pytest.raises(EngineError, match=r"cannot open the GPU Orin: .*illegal memory access"):
                recognizer.reload()
        assert {choice.runtime for choice in recognizer.runtimes.values()} == {"tensorrt"}
        jetson.cuda.broken = None
        recognizer.reload()
        assert len(recognizer.recognize(photo)) == 1
        assert {choice.reason for choice in recognizer.runtimes.values()} == {"an engine for this machine is there"}


def test_an_update_that_does_not_fit_leaves_the_old_engines(
    jetson: Jetson, engines: Path, tmp_path: Path, photos: dict[str, Any]
) -> None:
    with FaceRecognizer.open(tmp_path / "a.gallery", runtime="tensorrt") as recognizer:
        convert(engines, "sface", model_id="another@1/fp32")
        with pytest.raises(EngineIncompatibleError, match="model_id was 'sface"):
            recognizer.reload()
        convert(engines, "sface", build={**BUILD, "tensorrt": "9.9.9"})
        with pytest.raises(EngineIncompatibleError, match=r"9\.9\.9"):
            recognizer.reload()
        assert len(recognizer.recognize(photos["barack_obama_2005"])) == 1


def test_a_recogniser_of_ready_parts_cannot_reload(
    spot_detector: Callable[..., FakeEngine], embedder_manifest: Callable[..., Manifest], tmp_path: Path
) -> None:
    from edgeface import Detector
    from edgeface.policy import make_policy

    embedder = Embedder(FakeEngine(embedder_manifest(), tones))
    with Gallery.open(tmp_path / "a.gallery", model_id=embedder.model_id, dimension=8) as gallery:
        policy = make_policy(embedder.engine.manifest, threshold=0.5)
        recognizer = FaceRecognizer(Detector(spot_detector()), embedder, gallery, policy)
        with pytest.raises(ConfigurationError, match="made from ready engines"):
            recognizer.reload()


def test_exchange_refuses_a_smaller_batch(embedder_manifest: Callable[..., Manifest]) -> None:
    engine = ReloadableEngine(FakeEngine(embedder_manifest(max_batch=4), tones))
    with pytest.raises(EngineIncompatibleError, match="its largest batch is 2, that of the old one 4"):
        engine.exchange(FakeEngine(embedder_manifest(max_batch=2), tones))
    engine.exchange(FakeEngine(embedder_manifest(max_batch=8), tones))
    engine.close()
    engine.close()
    with pytest.raises(ClosedError):
        engine.exchange(FakeEngine(embedder_manifest(max_batch=8), tones))
    with pytest.raises(ClosedError):
        engine.run(np.zeros((1, 3, 112, 112), np.float32))
