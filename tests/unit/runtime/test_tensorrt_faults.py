"""TensorRT engines when things go wrong: every call fails once, nothing leaks, and the message says it."""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_jetson import BUILD, Jetson, tones
from fake_tensorrt import FakeTensorRt, engine_file

from edgeface.engines.machine import find_machine
from edgeface.errors import (
    EdgefaceError,
    EngineError,
    EngineIncompatibleError,
    InferenceError,
    MissingDependencyError,
    ModelIntegrityError,
)
from edgeface.manifest import manifest_path
from edgeface.runtime import cuda, load_engine
from edgeface.runtime.tensorrt import PACKAGES, import_tensorrt

if TYPE_CHECKING:
    from pathlib import Path

Batch = Any
LOAD_CALLS = (
    "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent", "cuStreamCreate", "cuMemAlloc", "cuMemHostAlloc",
    "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuStreamSynchronize",
)  # fmt: skip
RUN_CALLS = ("cuCtxPushCurrent", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuStreamSynchronize")


# CUDA ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("call", LOAD_CALLS)
@pytest.mark.parametrize("after", [0, 1])
def test_loading_fails_cleanly_at_every_call(jetson: Jetson, batch: Batch, call: str, after: int) -> None:
    path = jetson.write()
    jetson.cuda.fail(call, after=after)
    # The context is retained once, and its second push is the first of closing: those two failures come too late.
    if after and call in ("cuDevicePrimaryCtxRetain", "cuCtxPushCurrent"):
        load_engine(path, memory="copied", workers=2).close()
    else:
        with pytest.raises(EngineError, match=f"CUDA call {call} failed: out of memory"):
            load_engine(path, memory="copied", workers=2)
    jetson.cuda.forgive()
    assert (jetson.cuda.memory_in_use(), jetson.cuda.retained) == (0, 0)
    with load_engine(path) as engine:  # and the next load works
        assert len(engine.run(batch(1))["embedding"]) == 1


@pytest.mark.parametrize("call", ["cuMemHostAlloc", "cuMemHostGetDevicePointer"])
def test_loading_with_mapped_memory_fails_cleanly(jetson: Jetson, call: str) -> None:
    jetson.cuda.fail(call, after=1)
    with pytest.raises(EngineError, match=call):
        jetson.load(memory="mapped")


@pytest.mark.parametrize("call", RUN_CALLS)
def test_a_run_that_fails_is_lost_alone(jetson: Jetson, batch: Batch, call: str) -> None:
    with jetson.load(memory="copied") as engine:
        engine.run(batch(2))
        jetson.cuda.fail(call, why="unspecified failure")
        with pytest.raises(InferenceError, match=f"tones: CUDA call {call} failed: unspecified failure; this run is"):
            engine.run(batch(3))
        tensor = batch(4, seed=9)
        np.testing.assert_array_equal(engine.run(tensor)["embedding"], tones(tensor)["out"])


@pytest.mark.parametrize(
    ("memory", "call"),
    [("copied", call) for call in RUN_CALLS] + [("mapped", call) for call in RUN_CALLS if "Memcpy" not in call],
)
def test_a_sticky_error_closes_and_opens_again(jetson: Jetson, batch: Batch, call: str, memory: str) -> None:
    engine = jetson.load(memory=memory)
    jetson.cuda.fail(call, why="an illegal memory access was encountered", sticky=True)
    with pytest.raises(InferenceError, match=r"illegal memory access .* the GPU's context is lost"):
        engine.run(batch(1))
    with pytest.raises(InferenceError, match=r"context was lost .*FaceRecognizer\.reload"):
        engine.run(batch(1))
    engine.close()
    with jetson.load(memory=memory) as again:
        assert len(again.run(batch(1))["embedding"]) == 1


def test_a_context_that_cannot_be_popped_once(jetson: Jetson, batch: Batch) -> None:
    """Pycuda ends the process when a thread ends with a context on its stack; so it must come off all the same."""
    engine = jetson.load()
    jetson.cuda.fail("cuCtxPopCurrent", why="an illegal memory access was encountered")
    engine.run(batch(1))
    assert jetson.cuda.stack() == []
    with pytest.raises(InferenceError, match="illegal memory access"):
        engine.run(batch(1))
    engine.close()


def test_control_c_leaves_nothing_on_the_stream(
    jetson: Jetson, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way still reads the frame's memory, which its holder gives back as soon as the run is left."""
    with jetson.load(memory="copied") as engine:
        with monkeypatch.context() as patch:

            def interrupted(self: Any, stream_handle: int) -> bool:
                raise KeyboardInterrupt

            patch.setattr(jetson.trt.module.IExecutionContext, "execute_async_v3", interrupted)
            with pytest.raises(KeyboardInterrupt):
                engine.run(batch(2))
        assert [stream.queue for stream in jetson.cuda.streams.values()] == [[]]
        assert len(engine.run(batch(2))["embedding"]) == 2


def test_faults_in_many_threads(jetson: Jetson, batch: Batch) -> None:
    """Every fifth run fails somewhere; the others have their own numbers, and the engine lives on."""
    with jetson.load(workers=2, memory="copied") as engine:

        def once(number: int) -> int:
            if number % 5 == 0:
                jetson.cuda.fail(RUN_CALLS[number // 5 % len(RUN_CALLS)], why="unspecified failure")
            tensor = batch(1 + number % 4, number)
            try:
                result = engine.run(tensor)["embedding"]
            except InferenceError:
                return 1
            np.testing.assert_array_equal(result, tones(tensor)["out"])
            return 0

        with ThreadPoolExecutor(6) as pool:
            failed = sum(pool.map(once, range(100)))
        assert 1 <= failed <= 20
        assert len(engine.run(batch(1))["embedding"]) == 1


# TensorRT -----------------------------------------------------------------------------------------------------------
def test_none_from_deserialise(jetson: Jetson) -> None:
    jetson.trt.refuse["deserialize_cuda_engine"] = 1
    with pytest.raises(EngineIncompatibleError) as caught:
        jetson.load()
    assert "TensorRT 10.3.0 refuses this engine: [fake] deserialize_cuda_engine fails as asked" in str(caught.value)
    assert "`edgeface build tones --precision fp32 --target tensorrt --calibration FOLDER`" in str(caught.value)


def test_no_room_for_an_execution_context(jetson: Jetson) -> None:
    jetson.trt.refuse["create_execution_context"] = 2
    with pytest.raises(EngineError, match=r"no execution context: .*fails as asked; is the GPU's memory full"):
        jetson.load(workers=2, memory="mapped")


@pytest.mark.parametrize("call", ["set_input_shape", "set_tensor_address", "execute_async_v3"])
def test_loading_when_tensorrt_says_no(jetson: Jetson, call: str) -> None:
    jetson.trt.refuse[call] = 1
    with pytest.raises(InferenceError, match=f"TensorRT's {call} failed: .*fails as asked"):
        jetson.load()


@pytest.mark.parametrize("call", ["set_input_shape", "execute_async_v3"])
def test_a_run_when_tensorrt_says_no(jetson: Jetson, batch: Batch, call: str) -> None:
    with jetson.load() as engine:
        jetson.trt.refuse[call] = 1
        with pytest.raises(InferenceError, match=f"TensorRT's {call} failed"):
            engine.run(batch(3))
        tensor = batch(3, seed=5)
        np.testing.assert_array_equal(engine.run(tensor)["embedding"], tones(tensor)["out"])


def test_tensorrts_errors_are_logged(jetson: Jetson, caplog: pytest.LogCaptureFixture) -> None:
    jetson.trt.refuse["deserialize_cuda_engine"] = 1
    with caplog.at_level(logging.ERROR, "edgeface.tensorrt"), pytest.raises(EngineIncompatibleError):
        jetson.load()
    assert "fails as asked" in caplog.text


# What does not fit --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tensorrt", "10.16.1", r"built by TensorRT 10\.16\.1, here is 10\.3\.0"),
        ("tensorrt", None, "does not say which TensorRT built it"),
        ("compute_capability", "7.2", r"built for compute capability 7\.2, the Orin has 8\.7"),
        ("device", "Thor", "built on the device Thor, here is Orin"),
    ],
)
def test_an_engine_for_something_else_is_refused_before_tensorrt_sees_it(
    jetson: Jetson, key: str, value: str | None, message: str
) -> None:
    jetson.trt.refuse["deserialize_cuda_engine"] = 1  # would be used up if it were called
    with pytest.raises(EngineIncompatibleError, match=message) as caught:
        load_engine(jetson.write(build={**BUILD, key: value}))
    assert "`edgeface build tones --precision fp32 --target tensorrt --calibration FOLDER`" in str(caught.value)
    assert "deserialize_cuda_engine" in jetson.trt.refuse


def test_an_engine_that_does_not_say_what_it_is_for_is_refused(jetson: Jetson) -> None:
    with pytest.raises(EngineIncompatibleError, match="does not say for which compute capability or device"):
        load_engine(jetson.write(build={"tensorrt": "10.3.0"}))


def test_what_edgeface_build_writes_is_understood(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    """Board and L4T as the builder reads them: the device tree's model, the line of /etc/nv_tegra_release."""
    from edgeface.runtime import tensorrt
    from edgeface.runtime.board import Board

    monkeypatch.setattr(tensorrt, "read_board", lambda: Board("NVIDIA Jetson Orin NX", "36.4.3", "6.2", "0"))
    line = "# R36 (release), REVISION: {}, GCID: 38968081, BOARD: generic"
    build = {"tensorrt": "10.3.0", "device": "NVIDIA-Jetson-Orin-NX", "jetpack": line.format("4.3")}
    load_engine(jetson.write(build=build)).close()
    with pytest.raises(EngineIncompatibleError, match=r"JetPack # R36 .*, here is 6\.2"):
        load_engine(jetson.write(build={**build, "jetpack": line.format("4.0")}))
    with pytest.raises(EngineIncompatibleError, match="built on the device NVIDIA-Jetson-AGX-Orin, here is Orin in a"):
        load_engine(jetson.write(build={**build, "device": "NVIDIA-Jetson-AGX-Orin"}))


def test_another_jetpack_is_refused(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeface.runtime import tensorrt
    from edgeface.runtime.board import Board

    monkeypatch.setattr(tensorrt, "read_board", lambda: Board("NVIDIA Jetson Orin NX", "36.4.3", "6.2", "0"))
    with pytest.raises(EngineIncompatibleError, match=r"built on JetPack 6\.1, here is 6\.2"):
        load_engine(jetson.write(build={**BUILD, "jetpack": "6.1"}))
    load_engine(jetson.write(build={**BUILD, "jetpack": "6.2"})).close()


def test_an_engine_older_than_its_float32_model_is_refused(jetson: Jetson) -> None:
    onnx = jetson.write(b"another onnx file", name="tones.fp32.onnx", runtime="onnxruntime")
    with pytest.raises(EngineIncompatibleError, match=r"sha256 aaaaaaaaaaaa, tones\.fp32\.onnx beside it has"):
        load_engine(jetson.write(build={**BUILD, "fp32_sha256": "a" * 64}))
    manifest_path(onnx).unlink()  # an engine may travel alone
    load_engine(jetson.write(build={**BUILD, "fp32_sha256": "a" * 64})).close()


def test_the_onnx_file_for_the_cpu_beside_an_engine_is_another_file(jetson: Jetson) -> None:
    """TensorRT compiles the strongly typed network, onnxruntime runs the plain one: both stand in one folder."""
    jetson.write(b"the same network for onnxruntime", name="tones.int8.onnx", runtime="onnxruntime")
    load_engine(jetson.write(name="tones.int8.plan", build={**BUILD, "onnx_sha256": "a" * 64})).close()


@pytest.mark.parametrize(
    ("build", "command"),
    [
        ({"asked": None}, "edgeface build tones --target tensorrt --calibration FOLDER"),
        ({"asked": "mixed"}, "edgeface build tones --precision mixed --target tensorrt --calibration FOLDER"),
        ({}, "edgeface build tones --precision fp32 --target tensorrt --calibration FOLDER"),
        ({"asked": None, "dla_core": 1}, "edgeface build tones --target tensorrt --dla 1 --calibration FOLDER"),
    ],
)
def test_the_command_that_rebuilds_is_the_one_that_built(jetson: Jetson, build: dict[str, Any], command: str) -> None:
    with pytest.raises(EngineIncompatibleError, match=f"`{command}`"):
        load_engine(jetson.write(build={**BUILD, **build, "tensorrt": "9.9.9"}))


def test_a_damaged_file_is_refused_before_tensorrt_sees_it(jetson: Jetson) -> None:
    path = jetson.write()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelIntegrityError, match="sha256"):
        load_engine(path)
    assert jetson.cuda.calls["cuDevicePrimaryCtxRetain"] == 0


def _other_signature(**changes: Any) -> bytes:
    given: dict[str, Any] = {
        "input_name": "data", "low": (1, 3, 112, 112), "high": (4, 3, 112, 112), "outputs": ["out"], "network": "tones",
    }  # fmt: skip
    return engine_file(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_name": "pixels"}, r"input 'data' and outputs \['out'\], the engine has \['pixels'\]"),
        ({"outputs": ["other"]}, r"the engine has \['data'\] and \['other'\]"),
        ({"not_float": ("out",)}, "expected float32 inputs and outputs, out are not"),
    ],
)
def test_an_engine_that_is_not_its_manifests(jetson: Jetson, changes: dict[str, Any], message: str) -> None:
    jetson.trt.networks["tones"] = lambda tensor: {"out": tones(tensor)["out"], "other": tones(tensor)["out"]}
    with pytest.raises(EngineIncompatibleError, match=message):
        load_engine(jetson.write(_other_signature(**changes)))


# What is not there --------------------------------------------------------------------------------------------------
def test_no_tensorrt(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"package tensorrt cannot be imported .*--system-site-packages"):
        jetson.load()


@pytest.mark.parametrize("broken", ["raise OSError('libnvinfer.so.1: no such file')", "import libs_of_tensorrt"])
def test_a_broken_package_is_told_before_an_absent_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: str
) -> None:
    for name in PACKAGES["tensorrt-rtx"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    monkeypatch.setitem(sys.modules, "libs_of_tensorrt", None)
    (tmp_path / "tensorrt_rtx.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    for ask in (import_tensorrt, find_machine):  # who runs engines, and who builds them
        with pytest.raises(MissingDependencyError, match=r"package tensorrt_rtx cannot be imported \(.*lib"):
            ask("tensorrt-rtx")


def test_no_pycuda(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(MissingDependencyError, match=r"pycuda is not installed; on a Jetson run `jetson/setup\.sh`"):
        jetson.load()


def test_no_gpu(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetson.cuda.module.Device, "count", staticmethod(lambda: 0))
    with pytest.raises(MissingDependencyError, match="finds no GPU; is CUDA_VISIBLE_DEVICES set"):
        jetson.load()


@pytest.mark.parametrize("package", ["tensorrt_rtx", "tensorrt_rtx_bindings"])
def test_tensorrt_rtx_runs_by_the_same_code(
    jetson: Jetson, batch: Batch, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """By either name: the wheels that our own message asks for bring `tensorrt_rtx_bindings` alone."""
    rtx = FakeTensorRt(jetson.cuda, version="1.7.1")
    rtx.networks["tones"] = tones
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, rtx.module if name == package else None)
    build = {"tensorrt": "1.7.1.24", "device": "SM80+SM86+SM89+SM120"}
    with pytest.raises(EngineIncompatibleError, match=r"built for compute capability 8\.0, 8\.6, 8\.9, 12\.0"):
        load_engine(jetson.write(runtime="tensorrt-rtx", build=build))
    build["device"] = "SM80+SM87"
    with load_engine(jetson.write(runtime="tensorrt-rtx", build=build)) as engine:
        assert len(engine.run(batch(4))["embedding"]) == 4
        assert engine.description.startswith("tensorrt-rtx 1.7.1 on Orin")


def test_every_failure_is_ours(jetson: Jetson, tmp_path: Path) -> None:
    """Random bytes with a fitting checksum: TensorRT refuses, and the error is of edgeface's tree."""
    with pytest.raises(EdgefaceError, match="magic tag does not match"):
        load_engine(jetson.write(b"\x00" * 1000))
    assert cuda._shared is None
