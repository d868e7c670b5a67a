"""`compare` names the layer in which two versions of a network part, whatever equalisation did to their scales."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from onnx import helper

from edgeface.engines import compare as comparing
from edgeface.engines.centre import centre
from edgeface.engines.compare import Model, compare, open_model
from edgeface.engines.equalize import equalize
from edgeface.engines.graph import Graph
from edgeface.engines.halve import halve
from edgeface.engines.pictures import Inputs
from edgeface.engines.prepare import prepare
from edgeface.engines.quantize import finish, output_means, read_tensors
from edgeface.engines.ranges import collect
from edgeface.errors import EdgefaceError, InputError, ModelError
from edgeface.manifest import ARCFACE_112, Manifest, Preprocessing, manifest_path
from edgeface.runtime.fake import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Network = Callable[..., Graph]
    Stored = Callable[..., Model]

SIDE = 8
FED = Preprocessing("rgb", (128.0,) * 3, (64.0,) * 3)


def pixels(seed: int, count: int) -> Any:
    """(N, H, W, 3) uint8: patterns of another seed are other people's faces."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([cv2.resize(one, (SIDE, SIDE)) for one in coarse])


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    folder = tmp_path / "crops"
    folder.mkdir()
    for number, crop in enumerate(pixels(3, 24)):
        (folder / f"{number:02d}.png").write_bytes(cv2.imencode(".png", crop)[1].tobytes())
    return folder


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """`stored(name, content, key=value)`: a model file with its manifest, opened; changes are of the manifest."""

    def make(name: str, given: Graph | bytes, **changes: Any) -> Model:
        content = given if isinstance(given, bytes) else given.to_bytes()
        path = tmp_path / f"{name}.fp32.onnx"
        fields: dict[str, Any] = {
            "name": name, "model_id": f"{name}@0/fp32", "file": path.name,
            "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "kind": "embedder",
            "precision": "fp32", "runtime": "onnxruntime", "licence": "none", "source": "a test", "input_name": "in",
            "input_size": (SIDE, SIDE), "max_batch": None,
            "preprocessing": FED, "outputs": {"embedding": "out"},
            "dimension": 16, "template": ARCFACE_112,
        }  # fmt: skip
        path.write_bytes(content)
        manifest_path(path).write_text(Manifest(**{**fields, **changes}).to_json())
        return open_model(path)

    return make


def quantised(graph: Graph) -> Graph:
    """INT8 as `edgeface build` makes it: equalised, tensors of one sign centred, with Q/DQ, biases corrected."""
    graph = prepare(graph)
    pictures = Inputs(pixels(5, 64), FED)
    names = read_tensors(graph)
    equal, _ = equalize(graph, {name: item.maxima for name, item in collect(graph, pictures, names).items()})
    bounds = {name: item.bounds("max") for name, item in collect(equal, pictures, names).items()}
    layers = [node.name for node in graph.weighted()]
    centred, ranges, taken = centre(equal, layers, bounds)
    means = {name: mean - taken.get(name, 0.0) for name, mean in output_means(equal, pictures).items()}
    return finish(centred, pictures, layers, ranges, means)


def layer_names(graph: Graph) -> list[str]:
    return [node.name for node in prepare(graph).weighted()]


def weight_scale(graph: Graph, layer: str) -> Any:
    """The scales of a layer's INT8 weights: an array of its own that may be written to."""
    node = next(node for node in graph.nodes if node.name == layer)
    back = graph.producer(node.input[1])
    assert back is not None
    graph.constants[back.input[1]] = graph.constants[back.input[1]].copy()
    return graph.constants[back.input[1]]


def test_a_network_does_not_differ_from_itself(network: Network, stored: Stored, crops: Path) -> None:
    found = compare(stored("a", network()), stored("b", network()), crops)
    assert (found["first"], found["worst"], found["preprocessing"]) == (None, None, [])
    assert found["matched_by"] == "name"
    assert found["pictures"]["used"] == 24
    assert [row["layer"] for row in found["layers"]] == layer_names(network())
    assert all(row["output"]["largest_error"] == 0.0 for row in found["layers"])
    assert found["outputs"]["cosine_min"] == pytest.approx(1.0, abs=1e-6)
    assert "outputs_own" not in found


def test_equalisation_alone_is_no_difference(network: Network, stored: Stored, crops: Path) -> None:
    graph = prepare(network())
    pictures = Inputs(pixels(5, 64), FED)
    equal, _ = equalize(graph, {n: item.maxima for n, item in collect(graph, pictures, read_tensors(graph)).items()})
    found = compare(stored("a", network()), stored("b", equal), crops)
    assert found["worst"] is None
    assert min(row["output"]["gain_least"] for row in found["layers"]) < 0.5, "channels were rescaled"
    assert found["outputs"]["cosine_min"] > 0.999999


def test_a_tensor_in_the_middle_of_its_range_is_no_difference(network: Network, stored: Stored, crops: Path) -> None:
    graph = prepare(network(clips=False))
    names = read_tensors(graph)
    bounds = {name: item.bounds("max") for name, item in collect(graph, Inputs(pixels(5, 64), FED), names).items()}
    moved, _, taken = centre(graph, layer_names(network(clips=False)), bounds)
    found = compare(stored("a", network(clips=False)), stored("b", moved), crops)
    assert taken, "a convolution gives other values than before"
    shifts = {row["layer"]: row["output"]["shift"] for row in found["layers"] if row["output"]["shift"]}
    assert sorted(shifts.values()) == pytest.approx(sorted(taken.values()), rel=1e-4)
    assert found["worst"] is None
    assert found["outputs"]["cosine_min"] > 0.999999


def test_honest_int8_has_no_layer_beyond_the_limit(network: Network, stored: Stored, crops: Path) -> None:
    found = compare(stored("a", network()), stored("b", quantised(network())), crops)
    assert found["first"] is None
    assert found["worst"]["channel_db"] < 60
    assert {(row["precision_a"], row["precision_b"]) for row in found["layers"]} == {("fp32", "int8")}
    errors = [row["output"] for row in found["layers"]]
    assert all(0 < row["mean_error"] < row["largest_error"] for row in errors)
    assert all(20 < row["sqnr_db"] < 60 and 0.99 < row["cosine"] < 1 for row in errors)


def with_biases(graph: Graph) -> Graph:
    """Biases as large as a trained network has them once its batch normalisations are folded."""
    for node in graph.weighted():
        if node.op_type == "Conv":
            graph.constants[node.input[2]] = graph.constants[node.input[2]] * np.float32(10)
    return graph


@pytest.mark.parametrize(("position", "factor"), [(0, 0.5), (0, 4.0), (2, 0.5), (2, 4.0), (6, 4.0)])
def test_a_broken_weight_scale_of_one_channel_is_named(
    network: Network, stored: Stored, crops: Path, position: int, factor: float
) -> None:
    graph = quantised(with_biases(network()))
    layer = layer_names(network())[position]
    weight_scale(graph, layer)[1] *= np.float32(factor)
    found = compare(stored("a", with_biases(network())), stored("b", graph), crops)
    assert (found["first"]["layer"], found["first"]["channel"]) == (layer, 1)


@pytest.mark.parametrize("position", range(6))
@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_broken_weight_scales_of_a_layer_are_named_there_or_where_they_are_read(
    network: Network, stored: Stored, crops: Path, position: int, factor: float
) -> None:
    """With biases near 0 a wrong factor is told from equalisation by the next layer alone."""
    graph = quantised(network())
    layer = layer_names(network())[position]
    weight_scale(graph, layer)[:] *= np.float32(factor)
    first = compare(stored("a", network()), stored("b", graph), crops)["first"]
    assert layer in (first["layer"], *first["reads_from"])


def test_a_range_that_is_too_small_is_named(network: Network, stored: Stored, crops: Path) -> None:
    graph = quantised(network())
    layer = layer_names(network())[3]
    node = next(node for node in graph.nodes if node.name == layer)
    back = graph.producer(node.input[0])
    assert back is not None
    scale = back.input[1]
    graph.constants[scale] = graph.constants[scale] / np.float32(8)
    found = compare(stored("a", network()), stored("b", graph), crops)
    assert found["first"]["layer"] == layer
    row = next(row for row in found["layers"] if row["layer"] == layer)
    assert row["input"]["sqnr_db"] < 15, "it is what the layer reads that is wrong"


def test_a_swapped_colour_order_is_preprocessing(network: Network, stored: Stored, crops: Path) -> None:
    swapped = replace(FED, color="bgr")
    found = compare(stored("a", network()), stored("b", network(), preprocessing=swapped), crops)
    assert found["preprocessing"] == [{"key": "color", "a": "rgb", "b": "bgr"}]
    assert found["worst"] is None, "the networks are the same"
    assert found["outputs"]["cosine_min"] > 0.999999
    assert found["outputs_own"]["cosine_mean"] < 0.99


def test_an_overflow_of_fp16_is_named(maker: type[Any], stored: Stored, crops: Path) -> None:
    make = maker(size=SIDE)
    x = make.node("Relu", make.conv("in", 3, 4))
    wide = make.node("Conv", x, make.constant(np.full((4, 4, 1, 1), 6e4)))
    x = make.node("Conv", wide, make.constant(np.full((4, 4, 1, 1), 1e-5)))
    make.nodes.append(helper.make_node("Flatten", [x], ["flat"], name="flatten"))
    graph = Graph(make.model(make.gemm("flat", 4 * 64, 16), rank=2))
    found = compare(stored("a", graph), stored("b", halve(prepare(graph)), precision="fp16"), crops)
    assert (found["first"]["layer"], found["first"]["own_db"]) == (f"n_{wide}", None)
    row = next(row for row in found["layers"] if row["layer"] == f"n_{wide}")
    assert row["output"]["not_finite_pictures"] > 0
    assert (row["precision_a"], row["precision_b"]) == ("fp32", "fp16")
    with pytest.raises(ModelError, match=f"A itself gives NaN or infinity at the output of n_{wide}"):
        compare(stored("b", halve(prepare(graph))), stored("a", graph), crops)


def test_renamed_layers_are_matched_by_order(network: Network, stored: Stored, crops: Path) -> None:
    other = network()
    for number, node in enumerate(other.nodes):
        node.name = f"renamed_{number}"
    found = compare(stored("a", network()), stored("b", other), crops)
    assert found["matched_by"] == "order"
    assert found["worst"] is None
    assert all(row["layer_b"].startswith("renamed_") for row in found["layers"])


def test_different_architectures_are_refused(network: Network, maker: type[Any], stored: Stored, crops: Path) -> None:
    make = maker(size=SIDE)
    x = make.conv("in", 3, 5, kernel=3)
    make.nodes.append(helper.make_node("Flatten", [x], ["flat"], name="flatten"))
    other = stored("other", Graph(make.model(make.gemm("flat", 5 * 64, 16), rank=2)))
    one = stored("a", network())
    with pytest.raises(ModelError, match=r"different architectures: layer 1 is n_x0 \(Conv 6x3x3x3\) in A and n_x0 "):
        compare(one, other, crops)
    for changes in ({"dimension": 32}, {"input_size": (16, 16)}):
        manifest = replace(one.manifest, **changes)
        with pytest.raises(ModelError, match="different architectures: a: input"):
            compare(one, replace(one, manifest=manifest), crops)
    with pytest.raises(ModelError, match="A is embedder a, B is detector a"):
        compare(one, replace(one, manifest=replace(one.manifest, kind="detector")), crops)


def test_same_weights_but_other_strides_are_refused(maker: type[Any], stored: Stored, crops: Path) -> None:
    def made(strides: list[int]) -> Graph:
        make = maker(size=SIDE)
        x = make.node("Conv", "in", make.constant(np.ones((4, 3, 1, 1))), strides=strides)
        x = make.node("GlobalAveragePool", x)
        make.nodes.append(helper.make_node("Flatten", [x], ["flat"], name="flatten"))
        return Graph(make.model(make.gemm("flat", 4, 16), rank=2))

    with pytest.raises(ModelError, match=r"the output of n_x0 .* is of shape \(8, 4, 8, 8\) in A and \(8, 4, 4, 4\)"):
        compare(stored("a", made([1, 1])), stored("b", made([2, 2])), crops)


def test_a_fixed_batch_and_a_last_part_that_is_smaller(maker: type[Any], stored: Stored, crops: Path) -> None:
    def made(batch: int | str) -> Graph:
        make = maker(size=SIDE)
        make.nodes.append(helper.make_node("Flatten", [make.conv("in", 3, 4)], ["flat"], name="flatten"))
        return Graph(make.model(make.gemm("flat", 4 * 64, 16), rank=2, batch=batch))

    found = compare(stored("a", made("batch")), stored("b", made(3), max_batch=3), crops, pictures=11)
    assert found["pictures"]["used"] == 11
    assert found["worst"] is None


def test_of_a_plan_only_outputs_are_compared(
    network: Network, stored: Stored, crops: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    one = stored("a", network())
    path = tmp_path / "a.int8.plan"
    manifest = replace(
        one.manifest, file=path.name, runtime="tensorrt", sha256=hashlib.sha256(b"plan").hexdigest(), size=4
    )
    path.write_bytes(b"plan")
    manifest_path(path).write_text(manifest.to_json())
    plan = open_model(path)
    assert plan.graph is None
    answer = np.ones((1, 16), np.float32)
    engine = FakeEngine(manifest, lambda tensor: {"embedding": np.repeat(answer, len(tensor), axis=0)})
    monkeypatch.setattr(comparing, "load_engine", lambda path: engine)
    found = compare(one, plan, crops)
    assert found["layers"] == []
    assert found["matched_by"] is None
    assert "only outputs" in found["layers_note"]
    assert found["outputs"]["cosine_mean"] < 0.9
    answer[0, 3] = np.nan
    engine = FakeEngine(manifest, lambda tensor: {"embedding": np.repeat(answer, len(tensor), axis=0)})
    assert compare(one, plan, crops)["outputs"] == {"not_finite": ["embedding"]}


def test_files_that_will_not_do(network: Network, stored: Stored, crops: Path) -> None:
    with pytest.raises(ModelError, match="not an ONNX file"):
        stored("text", b"this is no network")
    broken = quantised(network())
    weight_scale(broken, layer_names(network())[1])[0] = np.nan
    with pytest.raises(ModelError, match=r"weight .* has 1 NaN or infinite"):
        stored("nan", broken)
    with pytest.raises(ModelError, match="no manifest beside the model"):
        open_model(crops / "absent.onnx")
    with pytest.raises(ModelError, match="expected one input named 'data'"):
        stored("named", network(), input_name="data")


def test_pictures_that_will_not_do(network: Network, stored: Stored, crops: Path, tmp_path: Path) -> None:
    one = stored("a", network())
    for path in sorted(crops.iterdir())[5:]:
        path.unlink()
    (crops / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"5 usable pictures, at least 8 are needed; of 6 chosen, 1 gave none: .*torn"):
        compare(one, one, crops)
    with pytest.raises(EdgefaceError):
        compare(one, one, tmp_path / "absent")


def test_a_liveness_model_is_refused(network: Network, tmp_path: Path) -> None:
    content = network().to_bytes()
    path = tmp_path / "pad.onnx"
    path.write_bytes(content)
    table = {
        "crop": "square", "scale": 2.7, "meaning": "logits", "classes": ["live", "spoof"], "live": "live",
        "live_from": 0.9, "spoof_below": 0.5,
    }  # fmt: skip
    document = {
        "format": "edgeface-engine", "version": 1, "name": "pad", "model_id": "pad@0/fp32", "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "kind": "liveness", "precision": "fp32",
        "runtime": "onnxruntime", "licence": "none", "source": "a test", "input_name": "in",
        "input_size": [SIDE, SIDE], "max_batch": None,
        "preprocessing": {"color": "rgb", "mean": [0, 0, 0], "std": [1, 1, 1]}, "outputs": {"scores": "out"},
        "head": "", "dimension": 0, "template": [], "thresholds": None, "liveness": table, "build": {},
    }  # fmt: skip
    manifest_path(path).write_text(json.dumps(document))
    with pytest.raises(EdgefaceError, match=r"pad\.onnx: a liveness model; only embedders and detectors"):
        open_model(path)
