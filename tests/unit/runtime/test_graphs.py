"""Runs recorded into CUDA graphs, on a made-up Jetson: when they are, what they give, and what fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_graphs import bindings
from fake_jetson import Jetson, tones

from edgeface import FaceRecognizer
from edgeface.errors import ConfigurationError, EngineError, InferenceError, InputError, MissingDependencyError
from edgeface.manifest import ARCFACE_112
from edgeface.runtime.frame import Align, HeldFrame

Batch = Any
RECORDING = ("cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate")


@pytest.fixture
def graphs(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> Jetson:
    """The machine with cuda-bindings."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", bindings(jetson.cuda))
    return jetson


def right(engine: Any, tensor: Any) -> bool:
    return bool(np.array_equal(engine.run(tensor)["embedding"], tones(tensor)["out"]))


@pytest.mark.parametrize("memory", ["mapped", "copied"])
def test_a_recorded_run_gives_the_same_numbers(graphs: Jetson, batch: Batch, memory: str) -> None:
    with graphs.load(graphs="auto", memory=memory, workers=2) as engine:
        assert (engine.records, engine.graphs_reason) == (True, "recorded at load")
        before = graphs.cuda.calls["cuGraphLaunch"]
        assert all(right(engine, batch(4, seed)) for seed in range(10))
        assert graphs.cuda.calls["cuGraphLaunch"] == before + 10


def test_another_shape_is_recorded_when_it_stays(graphs: Jetson, batch: Batch) -> None:
    """The strict stand-in refuses a recording of a context that was changed since."""
    with graphs.load(graphs="on") as engine:
        for launched, count in ((0, 2), (0, 2), (1, 2), (2, 2), (0, 3), (0, 4), (0, 4), (1, 4)):
            before = graphs.cuda.calls["cuGraphLaunch"] - max(launched - 1, 0)
            assert right(engine, batch(count, launched))
            assert graphs.cuda.calls["cuGraphLaunch"] - before == launched
        assert len(graphs.cuda.graphs) == 1


def test_runs_are_not_recorded_unless_asked(graphs: Jetson, batch: Batch) -> None:
    with graphs.load() as engine:
        assert (engine.records, engine.graphs_reason) == (False, "not asked for")
        assert all(right(engine, batch(4, seed)) for seed in range(5))
    assert graphs.cuda.calls["cuStreamBeginCapture"] == 0
    with pytest.raises(InputError, match="graphs: expected one of auto, off, on, got 'yes'"):
        graphs.load(graphs="yes")


def test_without_the_bindings(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with jetson.load(graphs="auto") as engine:
        assert not engine.records
        assert "CUDA graphs need the package cuda-bindings" in engine.graphs_reason
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[graphs\]'` in edgeface's folder"):
        jetson.load(graphs="on")


@pytest.mark.parametrize("call", RECORDING)
def test_a_run_that_cannot_be_recorded(
    graphs: Jetson, batch: Batch, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    graphs.cuda.fail(call)
    with graphs.load(graphs="auto") as engine:
        assert not engine.records
        assert "cannot be recorded" in engine.graphs_reason
        assert f"CUDA call {call} failed: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" in caplog.text
        assert all(right(engine, batch(4, seed)) for seed in range(5))
        assert graphs.cuda.graphs == []
    graphs.cuda.fail(call)
    with pytest.raises(EngineError, match="graphs='on', but a run of this network cannot be recorded"):
        graphs.load(graphs="on")


@pytest.mark.parametrize("refused", ["TensorRT", "a copy"])
def test_a_run_that_fails_while_it_is_recorded(graphs: Jetson, batch: Batch, refused: str) -> None:
    """The recording is ended, and the same run goes on without one."""
    with graphs.load(graphs="on", memory="copied") as engine:
        assert right(engine, batch(2, 0))
        assert right(engine, batch(2, 1))
        if refused == "TensorRT":
            graphs.trt.refuse["execute_async_v3"] = 1
        else:
            graphs.cuda.fail("cuMemcpyDtoHAsync")
        assert all(right(engine, batch(2, seed)) for seed in range(2, 6))
        assert graphs.cuda.graphs == []


def test_a_launch_that_fails_costs_one_run(graphs: Jetson, batch: Batch) -> None:
    with graphs.load(graphs="on") as engine:
        graphs.cuda.fail("cuGraphLaunch")
        with pytest.raises(InferenceError, match="CUDA call cuGraphLaunch failed"):
            engine.run(batch(4))
        assert all(right(engine, batch(4, seed)) for seed in range(5))
        assert len(graphs.cuda.graphs) == 1, "recorded again"


def test_a_lost_context_takes_its_graphs_with_it(graphs: Jetson, batch: Batch) -> None:
    engine = graphs.load(graphs="on")
    graphs.cuda.fail("cuStreamSynchronize", why="an illegal memory access was encountered", sticky=True)
    with pytest.raises(InferenceError, match="context is lost"):
        engine.run(batch(4))
    engine.close()
    with graphs.load(graphs="on") as again:
        assert right(again, batch(4))


def test_frames_prepared_on_the_gpu_run_as_graphs(graphs: Jetson) -> None:
    graphs.build_kernels()
    template = np.array(ARCFACE_112, np.float32)
    with graphs.load(graphs="on", prepare="gpu") as engine:
        before = graphs.cuda.calls["cuGraphLaunch"]
        for seed in range(4):
            picture = np.random.default_rng(seed).integers(0, 256, (120, 160, 3), np.uint8)
            with HeldFrame(picture) as frame:
                points = template[None] * 0.8 + np.arange(4, dtype=np.float32)[:, None, None] * 9
                work = Align(frame, points, template, (112, 112))
                tensor = np.empty(work.shape, np.float32)
                work.fill(tensor, engine.manifest.preprocessing)
                found = engine.run_frame(work)
                assert found is not None
                np.testing.assert_array_equal(found["embedding"], tones(tensor)["out"])
        assert graphs.cuda.calls["cuGraphLaunch"] == before + 4


def test_1000_runs_allocate_nothing(graphs: Jetson, batch: Batch) -> None:
    with graphs.load(graphs="on") as engine:
        tensors = [batch(4, seed) for seed in range(3)]
        calls = ("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuGraphInstantiate")
        before = [graphs.cuda.calls[call] for call in calls]
        for number in range(1000):
            engine.run(tensors[number % 3])
        assert [graphs.cuda.calls[call] for call in calls] == before


@pytest.mark.parametrize("asked", ["on", "auto", "off"])
def test_a_recogniser_asks_both_engines_for_graphs(
    graphs: Jetson, engines: Path, tmp_path: Path, photos: dict[str, Any], asked: str
) -> None:
    photo = photos["barack_obama_2005"]
    with FaceRecognizer.open(tmp_path / "a.gallery", graphs=asked) as recognizer:
        stages: list[Any] = [recognizer.detector.engine, recognizer.embedder.engine]
        assert [stage.current.records for stage in stages] == [asked != "off"] * 2
        first = recognizer.recognize(photo)[0].matches
        before = graphs.cuda.calls["cuGraphLaunch"]
        for _ in range(4):
            again = recognizer.recognize(photo)[0].matches
            np.testing.assert_array_equal(again.similarities, first.similarities)
        assert (graphs.cuda.calls["cuGraphLaunch"] > before) == (asked != "off")
        recognizer.reload()
        assert [stage.current.records for stage in stages] == [asked != "off"] * 2


def test_graphs_that_must_be_are_refused_on_the_cpu(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="only a TensorRT engine records runs into CUDA graphs"):
        FaceRecognizer.open(tmp_path / "a.gallery", graphs="on")
    FaceRecognizer.open(tmp_path / "a.gallery", graphs="auto").close()
