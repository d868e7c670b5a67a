"""Builds of TensorRT plans on a made-up Jetson: candidates verified as they run, timed, and the faster one stored."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from build_bench import SIDE, Bench

from edgeface import load_engine
from edgeface.contents import content_path
from edgeface.engines import candidates, machine, qdq, quantize, race
from edgeface.engines.build import build
from edgeface.engines.race import Times, fastest
from edgeface.errors import BuildError, EngineIncompatibleError, GateError
from edgeface.home import engine_path, home
from edgeface.manifest import read_manifest
from edgeface.runtime import tensorrt
from edgeface.runtime.board import Board
from edgeface.runtime.choice import choose

if TYPE_CHECKING:
    from pathlib import Path

    from fake_jetson import Jetson

OPT = (4, 3, SIDE, SIDE)


@pytest.fixture(autouse=True)
def _one_way_to_quantise(monkeypatch: pytest.MonkeyPatch) -> None:
    """These builds are about plans: the network's own is made in the first way that comes."""
    monkeypatch.setattr(quantize, "STRENGTHS", (0.8,))
    monkeypatch.setattr(quantize, "POLICIES", ("99.9995",))


def timed(monkeypatch: pytest.MonkeyPatch, *ms: float) -> list[tuple[int, ...]]:
    """Let candidates take so long at the usual shape, in their order; the engines run all the same."""
    shapes: list[tuple[int, ...]] = []
    honest = race.race

    def faked(engines: Any, shape: tuple[int, ...], **options: Any) -> list[Times]:
        shapes.append(shape)
        assert len(honest(engines, shape, rounds=2, **options)) == len(ms)
        return [Times(shape, one, one * 0.99, one * 1.01, 60) for one in ms]

    monkeypatch.setattr(candidates, "race", faked)
    return shapes


def on_board(bench: Bench, **options: Any) -> Any:
    return replace(bench.options, target="tensorrt", out=None, **options)


def test_the_fastest_plan_that_passes_is_stored_and_found(
    bench: Bench, board: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = timed(monkeypatch, 0.5, 0.9)
    built = build(bench.recipe, on_board(bench))
    assert (built.path, built.precision) == (engine_path("made", "int8"), "int8")
    assert shapes == [OPT, (1, 3, SIDE, SIDE)], "the profile's usual shape, and one face"
    reason = built.document["reason"]
    assert reason.startswith("INT8 passes and takes 0.500 ms (0.495 to 0.505) at batch 4; FP16 takes 0.900 ms")
    assert [(row["precision"], row["passed"]) for row in built.document["plans"]] == [("int8", True), ("fp16", True)]
    assert built.document["measured"] == "the running plan"
    engine, choice = choose("made", precision="int8")
    with engine:
        assert (choice.runtime, choice.reason) == ("tensorrt", "an engine for this machine is there")
        assert engine.manifest.max_batch == 16, "an embedder must not ask for more than the profile has"
        facts = engine.manifest.build
        tensor = np.random.default_rng(0).normal(size=OPT).astype(np.float32)
        assert engine.run(tensor)["embedding"].shape == (4, 32)
    assert (facts["tensorrt"], facts["compute_capability"], facts["device"], facts["driver"]) == (
        "10.3.0", "8.7", "Orin", "12.6",
    )  # fmt: skip
    assert facts["asked"] is None
    assert facts["off_plan"] == []
    assert facts["times"][0]["median_ms"] == 0.5
    folder = built.path.parent
    page = (folder / "made.int8.report.html").read_text()
    assert "Plans on this machine" in page
    assert "batch 4: 0.900 ms (0.891 to 0.909)" in page
    report = json.loads((folder / "made.int8.report.json").read_text())
    assert [layer["precision"] for layer in report["compiled_layers"]] == ["int8"] * 5
    assert build(bench.recipe, on_board(bench)).up_to_date


def test_fp16_that_is_faster_wins_and_stands_for_int8(
    bench: Bench, board: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 0.9, 0.5)
    built = build(bench.recipe, on_board(bench))
    assert (built.path.name, built.precision) == ("made.int8.plan", "fp16")
    assert built.document["reason"].startswith("FP16 passes and takes 0.500 ms")
    engine, choice = choose("made", precision="int8", runtime="tensorrt")
    engine.close()
    assert choice.reason == "asked for; the build for int8 gave fp16"
    assert engine.manifest.model_id == bench.recipe.model_id("int8"), "galleries of an INT8 plan stay"
    assert [layer["precision"] for layer in built.document["compiled_layers"]] == ["fp16"] * 5


def test_what_is_equally_fast_is_decided_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = Times(OPT, 1.0, 0.9, 1.1, 60), Times(OPT, 0.8, 0.7, 0.95, 60)
    assert fastest([slow, quick]) == 0
    assert fastest([quick, slow]) == 0
    assert fastest([replace(slow, low_ms=0.96), quick]) == 1


def test_a_plan_that_recognises_worse_than_its_network_is_out(
    bench: Bench, board: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network passes, what TensorRT made of it does not: only the running plan shows it."""
    honest = board.trt.network

    def damaged(header: dict[str, Any], onnx: bytes) -> Any:
        run = honest(header, onnx)
        quantised = b"QuantizeLinear" in onnx

        def noisy(tensor: Any) -> Any:
            noise = np.random.default_rng(0).normal(size=(len(tensor), 32)) * (0.5 if quantised else 0.0)
            return {name: value + noise * np.abs(value).max() for name, value in run(tensor).items()}

        return noisy

    monkeypatch.setattr(board.trt, "network", damaged)
    timed(monkeypatch, 0.7)
    built = build(bench.recipe, on_board(bench))
    assert built.precision == "fp16"
    assert "INT8 is out: fails the recipe's limits: cosine_mean" in built.document["reason"]
    assert built.document["attempts"][0]["passed"], "as a network, INT8 passed"
    with pytest.raises(GateError, match="int8 fails the recipe's limits: cosine_mean"):
        build(bench.recipe, on_board(bench, precision="int8", force=True))
    assert read_manifest(built.path).precision == "fp16", "what was there still is"


def test_the_mixed_plan_is_a_candidate_where_int8_fails(
    bench: Bench, board: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = qdq.insert

    def wide(graph: Any, layers: Any, ranges: Any, **options: Any) -> Any:
        second = graph.weighted()[2].input[0]
        return honest(graph, layers, {**ranges, second: ranges[second] * 16}, **options)

    monkeypatch.setattr(qdq, "insert", wide)
    timed(monkeypatch, 0.5, 0.9)
    built = build(bench.recipe, on_board(bench))
    assert (built.path.name, built.precision) == ("made.int8.plan", "mixed")
    assert [row["precision"] for row in built.document["plans"]] == ["mixed", "fp16"]
    assert "the mixed plan passes" in built.document["reason"]
    engine, choice = choose("made", precision="int8")
    engine.close()
    assert choice.reason == "an engine for this machine is there; the build for int8 gave mixed"


def test_a_candidate_that_does_not_compile_leaves_the_others(
    bench: Bench, board: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 0.5)
    board.trt.refuse["build_serialized_network"] = 1
    built = build(bench.recipe, on_board(bench))
    assert built.precision == "fp16"
    assert "INT8 is out: made: TensorRT 10.3.0 could not compile" in built.document["reason"]
    monkeypatch.setattr(board.trt, "refuses", lambda call, logger: call == "build_serialized_network")
    with pytest.raises(BuildError, match=r"could not compile.*; made: TensorRT 10\.3\.0 could not compile"):
        build(bench.recipe, on_board(bench, force=True))


def test_a_plan_that_does_not_load_is_out(bench: Bench, board: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board.trt, "refuses", lambda call, logger: call == "create_execution_context")
    with pytest.raises(BuildError, match=r"no plan runs: INT8: TensorRT gives no execution context.*; FP16: "):
        build(bench.recipe, on_board(bench))
    assert not list(engine_path("made").parent.glob("*.plan*"))


def test_a_disk_that_fills_while_plans_are_tried(bench: Bench, board: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(BuildError, match=r"no plan runs: INT8: .*cannot write the plan to try it: .*No space left"):
        build(bench.recipe, on_board(bench))
    assert not [path for path in home().iterdir() if path.name.startswith(".plans-")]


def test_without_a_gpu_the_precision_is_as_asked_and_the_report_says_why(
    bench: Bench, board: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(machine.__dict__, "import_pycuda", _no_pycuda)
    built = build(bench.recipe, on_board(bench))
    assert built.precision == "int8"
    assert [row["precision"] for row in built.document["plans"]] == ["int8"]
    assert built.document["reason"].startswith("no plan runs here, so none was verified or timed as it runs: no GPU")
    assert built.document["measured"] == "the ONNX network"
    manifest = read_manifest(built.path)
    assert "compute_capability" not in manifest.build
    assert manifest.build["device"] == "this-machine"


def _no_pycuda() -> Any:
    from edgeface.errors import MissingDependencyError

    raise MissingDependencyError("no GPU that works")


def test_layers_that_run_in_another_precision_are_told(
    bench: Bench, board: Jetson, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 0.5, 0.9)
    board.trt.demoted = {"conv_4": "fp32", "gemm": "fp16"}
    ran = cli("build", bench.recipe.path, "--target", "tensorrt", "--calibration", bench.crops)
    assert ran.code == 0, ran.err
    assert "warning: conv_4 was to run in int8, the plan runs it in fp32 (CaskConvolution 'conv_4 + activ" in ran.err
    assert "warning: gemm was to run in int8, the plan runs it in fp16" in ran.err
    assert "INT8 passes and takes" in ran.out
    manifest = read_manifest(engine_path("made", "int8"))
    assert len(manifest.build["off_plan"]) == 2
    shown = cli("inspect", engine_path("made", "int8")).out
    assert "conv_4 was to run in int8" in shown
    assert "times.0.median_ms" in shown
    content = content_path(engine_path("made", "int8"), manifest)
    assert f"these are the bytes of {engine_path('made', 'int8')}: give that name" in cli("inspect", content).err
    assert "Layers off the plan" in (engine_path("made").parent / "made.int8.report.html").read_text()


@pytest.mark.parametrize("asked", ["mixed", "fp16", "fp32"])
def test_an_asked_precision_is_one_candidate(
    bench: Bench, board: Jetson, monkeypatch: pytest.MonkeyPatch, asked: Any
) -> None:
    timed(monkeypatch, 0.5)
    built = build(bench.recipe, on_board(bench, precision=asked))
    assert built.path == engine_path("made", asked)
    assert built.precision == ("int8" if asked == "mixed" else asked)
    load_engine(built.path).close()
    assert len(built.document["plans"]) == 1


def test_the_board_and_its_jetpack_are_written_and_compared(
    bench: Bench, board: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader compares what the builder wrote; after an update of JetPack the same command builds again."""
    timed(monkeypatch, 0.5)
    orin = Board("NVIDIA Jetson Orin NX", "36.4.3", "6.2", "0")
    for module in (machine, tensorrt):
        monkeypatch.setattr(module, "read_board", lambda: orin)
    built = build(bench.recipe, on_board(bench, precision="fp16"))
    facts = read_manifest(built.path).build
    assert (facts["device"], facts["gpu"], facts["jetpack"]) == ("NVIDIA-Jetson-Orin-NX", "Orin", "6.2")
    load_engine(built.path).close()
    assert build(bench.recipe, on_board(bench, precision="fp16")).up_to_date
    orin = replace(orin, l4t="36.5.0", jetpack="6.3")
    with pytest.raises(EngineIncompatibleError, match=r"built on JetPack 6\.2, here is 6\.3"):
        load_engine(built.path)
    again = build(bench.recipe, on_board(bench, precision="fp16"))
    assert not again.up_to_date
    load_engine(again.path).close()
    board.cuda.capability = (8, 9)
    with pytest.raises(EngineIncompatibleError, match=r"built for compute capability 8\.7, the Orin has 8\.9"):
        load_engine(built.path)


def test_control_c_while_compiling_leaves_nothing(
    bench: Bench, board: Jetson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 0.5)
    old = build(bench.recipe, on_board(bench, precision="fp16"))
    before = {path: path.read_bytes() for path in old.path.parent.parent.rglob("*") if path.is_file()}
    handler = signal.getsignal(signal.SIGINT)
    board.trt.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        build(bench.recipe, on_board(bench, precision="fp16", force=True))
    assert signal.getsignal(signal.SIGINT) is handler
    board.trt.interrupt = False

    def interrupted(*_: Any, **__: Any) -> Any:
        assert board.cuda.memory_in_use() > 0, "plans are loaded while they are timed"
        raise KeyboardInterrupt

    monkeypatch.setattr(candidates, "race", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(bench.recipe, on_board(bench, precision="fp16", force=True))
    assert {path: path.read_bytes() for path in old.path.parent.parent.rglob("*") if path.is_file()} == before
    assert [path.name for path in home().iterdir() if path.name.startswith(".")] == []


def test_dla(bench: Bench, board: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 0.5, 0.9)
    with pytest.raises(BuildError, match="--dla 0: no such DLA core: TensorRT finds none on this machine"):
        build(bench.recipe, on_board(bench, dla=0))
    board.trt.dla_cores = 2
    with pytest.raises(BuildError, match="this machine has 2, numbered from 0"):
        build(bench.recipe, on_board(bench, dla=2))
    built = build(bench.recipe, on_board(bench, dla=1))
    config = board.trt.configs[-1]
    names = board.trt.module
    assert (config.default_device_type, config.DLA_core) == (names.DeviceType.DLA, 1)
    assert config._flags == [names.BuilderFlag.GPU_FALLBACK]
    facts = read_manifest(built.path).build
    assert facts["dla_core"] == 1
    assert facts["dla_layers"][:2] == ["conv_0", "activation"]
    with load_engine(built.path) as engine:
        assert engine.manifest.max_batch == 1, "static shapes"
        assert engine.run(np.zeros((1, 3, SIDE, SIDE), np.float32))["embedding"].shape == (1, 32)


def test_a_machine_that_cannot_compile_is_told_before_the_work(bench: Bench, board: Jetson) -> None:
    board.trt.no_builder = True
    stages: list[str] = []

    def stage(title: str, steps: int) -> Any:
        stages.append(title)
        return lambda done: None

    with pytest.raises(BuildError, match="it needs an NVIDIA GPU with its driver"):
        build(bench.recipe, on_board(bench), stage=stage)
    assert stages == []


def test_litter_of_a_killed_build_goes_though_the_engine_is_up_to_date(
    bench: Bench, board: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 0.5)
    built = build(bench.recipe, on_board(bench, precision="fp16"))
    litter = built.path.with_name("made.fp16.0123456789ab.plan")
    litter.write_bytes(b"an engine that was replaced")
    assert build(bench.recipe, on_board(bench, precision="fp16")).up_to_date
    assert not litter.exists()
    assert content_path(built.path, read_manifest(built.path)).exists()


def test_the_fetched_model_is_not_built_over(bench: Bench) -> None:
    with pytest.raises(BuildError, match=r"made\.fp32\.onnx: the float32 model itself is there; give --out"):
        build(bench.recipe, replace(bench.options, out=None, precision="fp32"))
