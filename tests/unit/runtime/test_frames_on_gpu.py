"""Frames prepared on the GPU of a made-up Jetson that runs the CUDA kernels: who prepares, what is sent, what fails."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_jetson import Jetson, tones
from fake_tensorrt import engine_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeface import Embedder, load_engine
from edgeface.errors import (
    ConfigurationError,
    EngineError,
    InferenceError,
    InputError,
    MissingDependencyError,
)
from edgeface.manifest import ARCFACE_112
from edgeface.pad import LivenessSpec
from edgeface.runtime import tensorrt_trials
from edgeface.runtime.fake import FakeEngine
from edgeface.runtime.frame import Align, HeldFrame, Letterbox
from edgeface.runtime.reload import ReloadableEngine
from edgeface.runtime.tensorrt import TensorRtEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEMPLATE = np.array(ARCFACE_112, np.float32)


def picture(height: int = 120, width: int = 160, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def points(count: int = 2) -> Any:
    return TEMPLATE[None] * 0.8 + np.arange(count, dtype=np.float32)[:, None, None] * 20


def maps(tensor: Any) -> dict[str, Any]:
    """A detector of one map: what it was given, a number for each cell of 32 pixels."""
    height, width = tensor.shape[2:]
    return {"out": tensor.reshape(3, height // 32, 32, width // 32, 32).mean((2, 4)).reshape(1, -1)}


@pytest.fixture
def finder(jetson: Jetson) -> Path:
    """An engine file of a detector that takes 32 x 32 to 96 x 128 px."""
    jetson.trt.networks["maps"] = maps
    content = engine_file(
        input_name="data", low=(1, 3, 32, 32), high=(1, 3, 96, 128), outputs=["out"], network="maps"
    )
    return jetson.write(
        content, name="maps.fp32.plan", kind="detector", head="yunet", dimension=0, template=(), input_size=None,
        max_batch=1, outputs={"cls_8": "out"},
    )  # fmt: skip


def load(path: Path, **options: Any) -> TensorRtEngine:
    engine = load_engine(path, **options)
    assert isinstance(engine, TensorRtEngine)
    return engine


def right(engine: TensorRtEngine, work: Letterbox | Align) -> bool:
    """Whether the network got on the GPU what the CPU would have given it."""
    tensor = np.empty(work.shape, np.float32)
    work.fill(tensor, engine.manifest.preprocessing)
    wanted = (maps if engine.manifest.kind == "detector" else tones)(tensor)["out"]
    outputs = engine.run_frame(work)
    assert outputs is not None
    return all(np.array_equal(got, wanted) for got in outputs.values())


# Who prepares -------------------------------------------------------------------------------------------------------
def test_without_kernels_the_cpu_prepares_and_says_why(jetson: Jetson) -> None:
    with jetson.load() as engine:
        assert not engine.prepares_frames
        assert "there are no CUDA kernels: the build left no note" in engine.prepare_reason
        assert engine.run_frame(Align(HeldFrame(picture()), points(), TEMPLATE, (112, 112))) is None
    with pytest.raises(MissingDependencyError, match="there are no CUDA kernels"):
        jetson.load(prepare="gpu")


def test_both_ways_are_measured_on_a_frame_of_the_size_given(jetson: Jetson, finder: Path) -> None:
    jetson.build_kernels()
    with load(finder, frame_size=(100, 140)) as engine:
        assert engine.prepare_reason.startswith("measured at load on 100 x 140 px: cpu ")
        runs = tensorrt_trials.TRIALS + tensorrt_trials.WARM_UP
        assert jetson.cuda.calls["cuLaunchKernel"] == runs


@pytest.mark.parametrize(("gpu_takes", "chosen"), [(0.5, True), (2.0, False)])
def test_the_faster_way_is_chosen(
    jetson: Jetson, monkeypatch: pytest.MonkeyPatch, gpu_takes: float, chosen: bool
) -> None:
    jetson.build_kernels()
    monkeypatch.setattr("edgeface.runtime.tensorrt_trials.medians_ms", lambda *sides: [1.0, gpu_takes][: len(sides)])
    with jetson.load(memory="copied", frame_size=(100, 140)) as engine:
        assert engine.prepares_frames == chosen
        measured = f"measured at load on 100 x 140 px: cpu 1.000 ms, gpu {gpu_takes:.3f} ms"
        assert engine.prepare_reason == f"{measured}, where the detector has sent the frame to the GPU"
    with jetson.load(memory="copied", prepare="cpu") as engine:
        assert (engine.prepares_frames, engine.prepare_reason) == (False, "asked for")


def test_an_engine_that_takes_no_such_frame(jetson: Jetson) -> None:
    jetson.build_kernels()
    content = engine_file(
        input_name="data", low=(1, 3, 96, 96), high=(1, 3, 96, 128), outputs=["out"], network="maps"
    )
    jetson.trt.networks["maps"] = maps
    path = jetson.write(content, kind="detector", head="yunet", dimension=0, template=(), input_size=None,
                        max_batch=1, outputs={"cls_8": "out"})  # fmt: skip
    with load(path, frame_size=(100, 1000)) as engine:
        assert "takes no input of (1, 3, 32, 128), which a frame of (100, 1000)" in engine.prepare_reason


@pytest.mark.parametrize(
    "options",
    [{"prepare": "GPU"}, {"frame_size": (10, 100)}, {"frame_size": 640}, {"frame_size": (640.0, 480)}],
)
def test_refuses_options_out_of_range(jetson: Jetson, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        jetson.load(**options)


def test_a_liveness_model_is_the_cpus(jetson: Jetson) -> None:
    jetson.build_kernels()
    spec = LivenessSpec(classes=("spoof", "live"), live="live", meaning="logits", crop="square", scale=2.7,
                        live_from=0.8, spoof_below=0.3)  # fmt: skip
    path = jetson.write(kind="liveness", liveness=spec, outputs={"scores": "out"}, dimension=0, template=())
    with load(path) as engine:
        assert (engine.prepares_frames, engine.prepare_reason) == (False, "a liveness model's crops are cut there")
    with pytest.raises(ConfigurationError, match="crops are cut on the CPU"):
        load(path, prepare="gpu")


def test_the_gpu_is_refused_for_a_model_of_the_cpu(model_home: Path) -> None:
    with pytest.raises(ConfigurationError, match="only a TensorRT engine takes frames prepared on the GPU"):
        load_engine(model_home / "models" / "sface.fp32.onnx", prepare="gpu")


# The numbers --------------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(32, 200), st.integers(32, 200), st.sampled_from(["bgr", "nv12"]), st.integers(1, 4))
def test_detection_and_alignment_are_the_cpus(
    jetson: Jetson, finder: Path, height: int, width: int, pixel_format: str, count: int
) -> None:
    jetson.build_kernels()
    frame = picture(height, width)
    if pixel_format == "nv12":
        height, width = height & ~1, width & ~1
        frame = picture(height * 3 // 2, width)[:, :, 0].copy()
    with (
        load(finder, prepare="gpu") as find,
        jetson.load(prepare="gpu") as embed,
        HeldFrame(frame, pixel_format=pixel_format) as held,
    ):
        assert right(find, Letterbox.fit(held, room=(96, 128), fixed=False))
        assert right(embed, Align(held, points(count), TEMPLATE, (112, 112)))


@pytest.mark.parametrize("memory", ["mapped", "copied"])
def test_a_frame_crosses_once(jetson: Jetson, finder: Path, memory: str) -> None:
    jetson.build_kernels()
    with load(finder, prepare="gpu", memory=memory) as find, jetson.load(prepare="gpu", memory=memory) as embed:
        for seed in range(3):
            with HeldFrame(picture(seed=seed)) as held:
                find.run_frame(Letterbox.fit(held, room=(96, 128), fixed=False))
                before = [jetson.cuda.calls[call] for call in ("cuMemcpyHtoDAsync", "cuMemAlloc", "cuMemHostAlloc")]
                embed.run_frame(Align(held, points(), TEMPLATE, (112, 112)))
                after = [jetson.cuda.calls[call] for call in ("cuMemcpyHtoDAsync", "cuMemAlloc", "cuMemHostAlloc")]
                assert np.subtract(after, before).tolist() == [1, 0, 0], "the faces' matrices, and nothing else"


def test_faces_alone_are_not_worth_sending_a_frame(jetson: Jetson) -> None:
    jetson.build_kernels()
    with jetson.load(prepare="gpu") as engine:
        engine._prepares_every_frame = False  # as `auto` has it when the GPU was faster
        embedder = Embedder(engine)
        launched = jetson.cuda.calls["cuLaunchKernel"]
        alone = embedder.embed(picture(), points())
        assert jetson.cuda.calls["cuLaunchKernel"] == launched
        engine._prepares_every_frame = True
        np.testing.assert_array_equal(embedder.embed(picture(), points()), alone)
        assert jetson.cuda.calls["cuLaunchKernel"] == launched + 2


def test_what_the_gpu_does_not_take_is_the_cpus(jetson: Jetson, finder: Path) -> None:
    """Another pixel format, a size outside the profile: as if there were no kernels."""
    jetson.build_kernels()
    with load(finder, prepare="gpu") as find:
        grey = HeldFrame(picture()[:, :, 0].copy(), pixel_format="gray")
        assert find.run_frame(Letterbox.fit(grey, room=(96, 128), fixed=False)) is None
        wide = HeldFrame(picture(64, 320))
        assert find.run_frame(Letterbox.fit(wide, room=(320, 320), fixed=False)) is None


# Exchange -----------------------------------------------------------------------------------------------------------
def test_an_exchange_between_alignment_and_network(
    jetson: Jetson, embedder_manifest: Callable[..., Any]
) -> None:
    """The work was the GPU's when it was prepared; the new engine does not take it, so the CPU does."""
    jetson.build_kernels()
    engine = jetson.load(prepare="gpu")
    held = ReloadableEngine(engine)
    embedder = Embedder(held)
    with HeldFrame(picture()) as frame:
        work = embedder.prepare(frame, points())
        assert isinstance(work, Align)
        on_gpu = embedder.run(work)
        held.exchange(FakeEngine(embedder_manifest(max_batch=4), lambda t: {"embedding": tones(t)["out"]}))
        assert not held.prepares_frames
        np.testing.assert_array_equal(embedder.run(work), on_gpu)
        assert isinstance(embedder.prepare(frame, points()), np.ndarray)
    held.close()


# The benchmark ------------------------------------------------------------------------------------------------------
def test_the_benchmark_compares_every_kernel(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeface.tools.bench import cuda

    jetson.build_kernels()
    monkeypatch.setattr(cuda, "QUEUED", 1)
    monkeypatch.setattr(cuda, "FACES", (1,))
    monkeypatch.setattr("edgeface.tools.bench.harness.milliseconds", lambda call, inner=1: call() or 1.0)
    found = list(cuda.rows(frame_size=(121, 160), memory="mapped", seconds=0.0))
    assert len(found) == 2 * 2 * 2
    assert {row.correctness for row in found} == {"equal in every bit"}
    assert all(row.extra is not None and row.extra["limit_ms"] > 0 for row in found if row.name.endswith("kernel"))


# Failures -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("call", ["cuModuleLoadDataEx", "cuModuleGetFunction", "cuLaunchKernel", "cuMemHostAlloc"])
def test_a_failure_while_loading(jetson: Jetson, call: str) -> None:
    """Whatever fails of the kernels leaves an engine that runs; asked for, it is an error. Nothing leaks."""
    jetson.build_kernels()
    with jetson.load(prepare="cpu", memory="copied"):
        used = jetson.cuda.calls[call]
    jetson.cuda.fail(call, after=used, why="no kernel image is available")
    with jetson.load(memory="copied", frame_size=(100, 140)) as engine:
        assert not engine.prepares_frames
        assert f"CUDA call {call} failed: no kernel image is available" in engine.prepare_reason
        np.testing.assert_array_equal(
            engine.run(np.ones((1, 3, 112, 112), np.float32))["embedding"],
            tones(np.ones((1, 3, 112, 112), np.float32))["out"],
        )
    if call != "cuLaunchKernel":  # nothing is launched at a load that measures nothing
        jetson.cuda.fail(call, after=used)
        with pytest.raises(EngineError, match=f"CUDA call {call} failed"):
            jetson.load(memory="copied", prepare="gpu")


@pytest.mark.parametrize("call", ["cuLaunchKernel", "cuMemcpyHtoDAsync", "cuMemHostAlloc", "cuStreamSynchronize"])
def test_a_failure_while_running(jetson: Jetson, finder: Path, call: str) -> None:
    jetson.build_kernels()
    with load(finder, prepare="gpu", memory="copied") as find:
        held = HeldFrame(picture())
        work = Letterbox.fit(held, room=(96, 128), fixed=False)
        jetson.cuda.fail(call)
        with pytest.raises(InferenceError, match=f"CUDA call {call} failed: out of memory; this run is lost"):
            find.run_frame(work)
        assert held.copy is None
        assert right(find, work)
        del held, work
        gc.collect()
