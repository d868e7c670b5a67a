"""The compiler's adapter on the strict stand-in for TensorRT: what it asks for, and what it does then."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTensorRt
from onnx import helper, numpy_helper

from edgeface.engines import machine, tensorrt_builder
from edgeface.engines.machine import Machine, find_machine
from edgeface.engines.recipe import load_recipe
from edgeface.errors import BuildError, MissingDependencyError
from edgeface.manifest import Manifest

if TYPE_CHECKING:
    from edgeface.engines.tensorrt_builder import Compiled


def network(*, batch: str | int = "batch", side: str | int = 112, operator: str = "Relu") -> bytes:
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Conv", ["data", "w"], ["c"], "conv_0"), helper.make_node(operator, ["c"], ["out"], "n1")],
        "made",
        [helper.make_tensor_value_info("data", kind, [batch, 3, side, side])],
        [helper.make_tensor_value_info("out", kind, None)],
        [numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    return bytes(model.SerializeToString())


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRt:
    made = FakeTensorRt(FakeCuda())
    monkeypatch.setitem(sys.modules, "tensorrt", made.module)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setattr(tensorrt_builder, "_logs", {})
    monkeypatch.setenv("EDGEFACE_HOME", str(tmp_path))
    return made


@pytest.fixture
def manifest() -> Manifest:
    recipe = load_recipe("sface")
    return Manifest(
        name="sface", model_id="sface@x/int8", file="sface.onnx", sha256="0" * 64, size=1, kind="embedder",
        precision="int8", runtime="onnxruntime", licence="none", source="made", input_name="data",
        input_size=(112, 112), max_batch=None, preprocessing=recipe.preprocessing, outputs=recipe.outputs,
        dimension=128, template=recipe.template,
    )  # fmt: skip


def compile_plan(manifest: Manifest, stages: list[tuple[str, int]] | None = None, **options: Any) -> Compiled:
    def stage(title: str, steps: int) -> Any:
        if stages is not None:
            stages.append((title, steps))
        return lambda done: None

    given: dict[str, Any] = {"machine": find_machine("tensorrt"), "stage": stage, **options}
    return tensorrt_builder.compile_plan(options.pop("onnx", network()), manifest, **{
        name: value for name, value in given.items() if name != "onnx"
    })  # fmt: skip


def test_what_is_asked_of_the_compiler(trt: FakeTensorRt, manifest: Manifest, tmp_path: Path) -> None:
    stages: list[tuple[str, int]] = []
    compiled = compile_plan(manifest, stages)
    assert (compiled.layers, compiled.off_plan) == ([], []), "nobody looked: there is no GPU"
    (config,) = trt.configs
    names = trt.module
    assert 0 < config._pools[names.MemoryPoolType.WORKSPACE] <= tensorrt_builder.MOST_WORKSPACE
    assert config.profiling_verbosity == names.ProfilingVerbosity.DETAILED
    assert (config.default_device_type, config._flags) == (names.DeviceType.GPU, [])
    (profile,) = config._profiles
    assert profile._shapes == {"data": [(1, 3, 112, 112), (4, 3, 112, 112), (16, 3, 112, 112)]}
    assert stages == [("compiling: Building", 3)]
    assert compiled.facts["warnings"] == [], "chatter is left out"
    (cache,) = (tmp_path / "timing").iterdir()
    assert cache.name == "tensorrt-10.3.0-this-machine.cache"
    assert cache.read_bytes() == b"timings"
    compile_plan(manifest)
    cache.write_bytes(b"damaged")
    compile_plan(manifest)
    assert trt.caches == [b"", b"timings", b"damaged", b""], "one build starts from the timings of the last"


def test_timings_of_another_power_mode_are_started_anew(trt: FakeTensorRt, manifest: Manifest, tmp_path: Path) -> None:
    """TensorRT reads them and does not take them; without others it would keep none, now and for ever."""
    compile_plan(manifest)
    (cache,) = (tmp_path / "timing").iterdir()
    cache.write_bytes(b"timings of another power mode")
    compile_plan(manifest)
    assert cache.read_bytes() == b"timings"


@pytest.mark.parametrize(
    ("changes", "shapes"),
    [
        ({"max_batch": 2}, [(1, 3, 112, 112), (2, 3, 112, 112), (2, 3, 112, 112)]),
        ({"kind": "detector", "input_size": None}, [(1, 3, 32, 32), (1, 3, 384, 640), (1, 3, 640, 640)]),
    ],
)
def test_profiles(trt: FakeTensorRt, manifest: Manifest, changes: dict[str, Any], shapes: Any) -> None:
    compile_plan(replace(manifest, **changes))
    assert trt.configs[0]._profiles[0]._shapes["data"] == shapes


def test_a_network_without_free_axes_has_no_profile(trt: FakeTensorRt, manifest: Manifest) -> None:
    assert compile_plan(manifest, onnx=network(batch=1)).facts["profile"] is None
    assert trt.configs[0]._profiles == []


def test_every_error_of_the_parser_is_told(trt: FakeTensorRt, manifest: Manifest) -> None:
    with pytest.raises(BuildError, match=r"TensorRT 10\.3\.0 refuses the network: n1 Foo: no importer registered"):
        compile_plan(manifest, onnx=network(operator="Foo"))


def test_a_compiler_that_gives_nothing(trt: FakeTensorRt, manifest: Manifest, tmp_path: Path) -> None:
    trt.refuse["build_serialized_network"] = 1
    with pytest.raises(BuildError, match=r"TensorRT 10\.3\.0 could not compile: \[fake\] build_serialized_network"):
        compile_plan(manifest)
    assert not (tmp_path / "timing").exists()
    trt.no_builder = True
    with pytest.raises(BuildError, match=r"gives no builder .* it needs an NVIDIA GPU with its driver"):
        compile_plan(manifest)


def test_control_c_stops_the_compiler_and_leaves_nothing(trt: FakeTensorRt, manifest: Manifest, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    trt.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        compile_plan(manifest)
    assert signal.getsignal(signal.SIGINT) is before
    assert list(tmp_path.iterdir()) == []


def test_timings_that_cannot_be_kept_cost_no_plan(
    trt: FakeTensorRt, manifest: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "timing").write_text("no folder")
    assert compile_plan(manifest).plan
    assert "TensorRT's timings were not kept" in caplog.text


def test_dla_wants_one_shape(trt: FakeTensorRt, manifest: Manifest) -> None:
    trt.dla_cores = 2
    compiled = compile_plan(manifest, dla=1)
    assert trt.configs[0]._profiles[0]._shapes["data"] == [(1, 3, 112, 112)] * 3
    assert (compiled.facts["dla_core"], compiled.facts["dla_layers"]) == (1, [])
    with pytest.raises(BuildError, match=r"sface: DLA wants one size of input; give it in a recipe of your own"):
        compile_plan(replace(manifest, kind="detector", input_size=None), dla=1)


@pytest.mark.parametrize(
    ("version", "has"), [("10.3.0", True), ("10.7.0", True), ("10.8.0", False), ("10.16.1", False), ("11.3.1", False),
                         ("11.4.1", True)],
)  # fmt: skip
def test_versions_without_dla_are_told(
    trt: FakeTensorRt, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, version: str, has: bool
) -> None:
    made = FakeTensorRt(FakeCuda(), version=version)
    made.dla_cores = 2
    monkeypatch.setitem(sys.modules, "tensorrt", made.module)
    if has:
        compile_plan(manifest, dla=0)
    else:
        with pytest.raises(BuildError, match=rf"--dla 0: TensorRT {version} has no DLA: 10\.7 was the last"):
            compile_plan(manifest, dla=0)


def test_without_tensorrt_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"a part of JetPack.*--system-site-packages"):
        find_machine("tensorrt")


def test_why_no_plan_can_run_here_is_kept(trt: FakeTensorRt) -> None:
    assert "pycuda" in find_machine("tensorrt").why_not


def test_names_of_devices_become_names_of_files(trt: FakeTensorRt) -> None:
    from edgeface.runtime.cuda import GpuFacts

    gpu = GpuFacts("NVIDIA GeForce RTX 4090/D", "8.9", False, 24000, "13.0")
    made = Machine("tensorrt", trt.module, gpu, None, 13000, "")
    assert made.slug() == "tensorrt-10.3.0-NVIDIA-GeForce-RTX-4090-D"
    assert made.facts()["device"] == gpu.name


def test_a_release_that_no_table_names_is_kept_as_it_is(trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeface.runtime.board import Board

    line = "# R39 (release), REVISION: 1.0, GCID: 1"
    monkeypatch.setattr(machine, "_release", lambda: line)
    board = Board("NVIDIA Jetson Thor", "39.1.0", "", "")
    assert Machine("tensorrt", trt.module, None, board, 0, "").facts()["jetpack"] == line
    assert board.runs(line)
