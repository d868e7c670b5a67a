"""Builds of real networks: a customer's MobileFaceNet on LFW, and plans by the real TensorRT-RTX. Minutes each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeface import Detector, load_engine
from edgeface.engines import models, qdq
from edgeface.engines.build import Options, build
from edgeface.engines.compare import compare, open_model
from edgeface.engines.graph import Graph
from edgeface.engines.halve import halve
from edgeface.engines.intake import read_network
from edgeface.engines.judge import EmbedderJudge, graph_run
from edgeface.engines.limits import EmbedderLimits
from edgeface.engines.material import gather
from edgeface.engines.prepare import prepare
from edgeface.engines.quantize import read_tensors
from edgeface.engines.ranges import collect
from edgeface.engines.recipe import load_recipe
from edgeface.errors import BuildError
from edgeface.home import model_path
from edgeface.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeface.engines.recipe import Recipe

pytestmark = pytest.mark.slow

RTX = ("tensorrt_rtx_cu13_libs==1.7.1.116", "tensorrt_rtx_cu13_bindings==1.7.1.116")


def folder_of(variable: str) -> Path:
    place = os.environ.get(variable)
    if not place or not Path(place).is_dir():
        pytest.skip(f"{variable} names no folder")
    return Path(place)


@pytest.fixture
def customer(tmp_path: Path, with_models: Path) -> Recipe:
    """A recipe with other preprocessing and a fixed batch."""
    model = folder_of("EDGEFACE_TEST_MODELS") / "mobilefacenet_msceleb.onnx"
    (tmp_path / "customer.toml").write_text(f"""
format = "edgeface-recipe"
version = 1
name = "customer"
kind = "embedder"
licence = "Apache-2.0"
[source]
file = "{model}"
sha256 = "b7120c095d60094f28a4a54ba6a8bf51b297a6273fb40ef6350dfec1f63d9507"
[input]
name = "input0"
size = [112, 112]
batch = 1
color = "rgb"
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]
[output]
embedding = "output0"
dimension = 128
template = "arcface"
[limits]
cosine_mean = 0.997
cosine_p1 = 0.993
tar_loss_1e4 = 0.003
tar_loss_1e5 = 0.005
cross_tar_loss_1e4 = 0.003
threshold_shift = 0.005
int8_share = 0.98
[card]
summary = "A customer's own model."
""")
    recipe = load_recipe(tmp_path / "customer.toml")
    models.fetch(recipe)
    return recipe


@pytest.fixture
def detector(with_models: Path) -> Iterator[Detector]:
    with load_engine(model_path("yunet")) as engine:
        yield Detector(engine)


def test_a_customers_model_passes_its_limits(customer: Recipe, detector: Detector, tmp_path: Path) -> None:
    lfw = folder_of("EDGEFACE_LFW")
    options = Options(lfw / "images", pairs=lfw / "pairs.txt", out=tmp_path / "out", held_out=1000)
    built = build(customer, options, detector=detector)
    assert built.precision == "int8"
    assert built.document["int8_share"] == 1.0
    assert built.document["figures"]["cosine_mean"] >= 0.998
    assert built.document["file"]["bytes"] <= 0.27 * built.document["file"]["fp32_bytes"]
    with load_engine(built.path) as engine:
        assert engine.manifest.max_batch == 1
        assert engine.run(np.zeros((1, 3, 112, 112), np.float32))["embedding"].shape == (1, 128)


def test_min_max_of_every_tensor_fails_the_gate(customer: Recipe, detector: Detector) -> None:
    """What a default quantiser does to this network: the gate must not let it through."""
    lfw = folder_of("EDGEFACE_LFW")
    network = read_network(models.load_stored(customer), customer)
    material = gather(customer, lfw / "images", detector=detector, count=128, most_held_out=300)
    judge = EmbedderJudge(customer, graph_run(customer, network), material)
    graph = prepare(network)
    every = [node.output[0] for node in graph.nodes if not graph.is_output(node.output[0])]
    maxima = {name: item.range("max") for name, item in collect(graph, material.calibration, every).items()}
    names = read_tensors(graph)
    result = qdq.insert(graph, [node.name for node in graph.weighted()], {**maxima, graph.input_name: 3.0})
    zero = result.add_constant("zero_point", np.zeros((), np.int8))
    for name in every:
        if name in names:
            continue
        scale = result.add_constant(f"{name}.scale", np.array(maxima[name] / 127, np.float32))
        readers = result.readers(name)
        pair = [
            helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}.steps"], name=f"{name}.steps"),
            helper.make_node("DequantizeLinear", [f"{name}.steps", scale, zero], [f"{name}.back"], name=f"{name}.back"),
        ]
        result.insert_after(result.producer(name), pair)
        result.rewire(name, f"{name}.back", only=readers)
    verdict = judge.measure(graph_run(customer, result), int8_share=1.0, quantised=True)
    assert not verdict.passed
    assert verdict.figures["cosine_mean"] < 0.98


def test_the_layer_with_broken_scales_is_named(customer: Recipe, detector: Detector, tmp_path: Path) -> None:
    """A ReLU6 network with a batch fixed at 1: honest INT8 differs nowhere, a broken layer is named."""
    lfw = folder_of("EDGEFACE_LFW")
    options = Options(lfw / "images", out=tmp_path / "out", pictures=64, held_out=60, precision="int8", force=True)
    content = build(replace(customer, limits=EmbedderLimits()), options, detector=detector).path.read_bytes()
    one = open_model(model_path("customer"))
    graph = Graph(onnx.load_model_from_string(content))
    found = compare(one, replace(one, graph=graph), lfw / "images", pictures=16, detector=detector)
    assert (found["first"], found["matched_by"]) == (None, "name")
    layer = found["layers"][10]["layer"]
    back = graph.producer(next(node for node in graph.nodes if node.name == layer).input[1])
    assert back is not None
    graph.constants[back.input[1]] = graph.constants[back.input[1]] * np.float32(0.5)
    first = compare(one, replace(one, graph=graph), lfw / "images", pictures=16, detector=detector)["first"]
    assert layer in (first["layer"], *first["reads_from"])


def test_the_table_beside_other_quantisers(with_models: Path, edgeface: Any) -> None:
    lfw = folder_of("EDGEFACE_LFW")
    options = ("--model", "yunet", "--pictures", "48", "--held-out", "60", "--threads", "2", "--json")
    ran = edgeface("bench", "quantisation", "--images", lfw / "images", *options, timeout_s=900)
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)["rows"]
    ours, defaults, working = rows[:3]
    assert (ours["objections"], working["objections"]) == ([], [])
    assert len(defaults["objections"]) == 2
    assert ours["figures"]["points_share_1"] > max(r["figures"]["points_share_1"] for r in (defaults, working))
    assert ours["size_ratio"] < 0.45
    assert "pip install nvidia-modelopt[onnx]" in rows[3]["failed"] or rows[3]["figures"]


@pytest.fixture(scope="module")
def rtx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """TensorRT-RTX from the package index, in a folder of its own; it compiles without a GPU."""
    folder = tmp_path_factory.mktemp("rtx")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--target", folder, *RTX], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot bring TensorRT-RTX: {done.stderr.strip().splitlines()[-1:]}")
    sys.path.insert(0, str(folder))
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))


@pytest.mark.parametrize("name", ["sface", "yunet"])
@pytest.mark.parametrize("precision", ["int8", "mixed", "fp16"])
def test_the_real_compiler_takes_what_we_write(
    with_models: Path, rtx: Path, name: str, precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from edgeface.engines.machine import find_machine
    from edgeface.engines.tensorrt_builder import compile_plan

    monkeypatch.setenv("EDGEFACE_HOME", str(tmp_path))  # for the timing cache
    path = with_models / "models" / f"{name}.fp32.onnx"
    manifest = read_manifest(path)
    graph = prepare(Graph(onnx.load(path)))
    if precision != "fp16":
        size = manifest.input_size or (160, 160)
        pictures = np.random.default_rng(0).uniform(0, 255, (2, 3, *size)).astype(np.float32)
        ranges = {n: s.range("max") for n, s in collect(graph, pictures, read_tensors(graph)).items()}
        layers = [node.name for node in graph.weighted()]
        graph = qdq.insert(graph, layers[:: 2 if precision == "mixed" else 1], ranges)
    typed = halve(graph)
    stages: list[str] = []

    def stage(title: str, steps: int) -> Any:
        stages.append(title)
        return lambda done: None

    compiled = compile_plan(typed.to_bytes(), manifest, machine=find_machine("tensorrt-rtx"), stage=stage)
    assert len(compiled.plan) > 50_000
    assert compiled.facts["tensorrt"].startswith("1.7")
    assert compiled.facts["profile"]["max"] == ((16, 3, 112, 112) if name == "sface" else (1, 3, 640, 640))
    assert stages
    assert stages[0].startswith("compiling")


def test_the_real_compiler_says_what_it_refuses(with_models: Path, rtx: Path) -> None:
    """The message names the node that the parser could not take."""
    from edgeface.engines.machine import find_machine
    from edgeface.engines.tensorrt_builder import compile_plan

    path = with_models / "models" / "sface.fp32.onnx"
    graph = prepare(Graph(onnx.load(path)))
    graph.nodes[3].op_type = "NoSuchOperator"
    with pytest.raises(BuildError, match=r"sface: TensorRT 1\.7.* refuses the network: .*NoSuchOperator"):
        compile_plan(
            graph.to_bytes(),
            read_manifest(path),
            machine=find_machine("tensorrt-rtx"),
            stage=lambda title, steps: lambda n: None,
        )


STOPPED = """
import json, os, signal, sys, time
from pathlib import Path
from edgeface.engines.machine import find_machine
from edgeface.engines.tensorrt_builder import compile_plan
from edgeface.manifest import read_manifest
onnx, model = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
pressed = []

def stage(title, steps):
    def tick(done):
        if not pressed:
            pressed.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
    return tick

try:
    compile_plan(onnx, read_manifest(model), machine=find_machine("tensorrt-rtx"), stage=stage)
    print("compiled")
except KeyboardInterrupt:
    print("stopped", time.monotonic() - pressed[0])
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_control_c_stops_the_real_compiler(with_models: Path, rtx: Path, tmp_path: Path) -> None:
    """Ctrl-C becomes TensorRT's own way to stop, in a process of its own so that nothing else answers the signal."""
    model = with_models / "models" / "sface.fp32.onnx"
    (tmp_path / "sface.onnx").write_bytes(halve(prepare(Graph(onnx.load(model)))).to_bytes())
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STOPPED, str(tmp_path / "sface.onnx"), str(model)],
        env={**os.environ, "PYTHONPATH": str(rtx), "EDGEFACE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, handler = done.stdout.splitlines()
    assert first.startswith("stopped")
    assert float(first.split()[1]) < 30, "seconds from the key to the end"
    assert handler == "True"
    assert list((tmp_path / "home").iterdir()) == []
