"""Activations of one sign are moved into the middle of INT8's range, and the function stays what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from edgeface.engines import qdq
from edgeface.engines.centre import centre
from edgeface.engines.graph import Graph
from edgeface.engines.halve import halve
from edgeface.engines.prepare import prepare
from edgeface.engines.quantize import read_tensors
from edgeface.engines.ranges import collect
from edgeface.engines.session import Runner

if TYPE_CHECKING:
    from collections.abc import Callable


def reference(graph: Graph, pictures: Any) -> Any:
    (value,) = ReferenceEvaluator(graph.to_model()).run(None, {graph.input_name: pictures})
    return value


def bounds(graph: Graph, pictures: Any) -> dict[str, tuple[float, float]]:
    plain = graph.copy()
    plain.constants = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in plain.constants.items()}
    for item in (*plain.inputs, *plain.outputs):
        item.type.tensor_type.elem_type = 1
    found = collect(plain, pictures.astype(np.float32), read_tensors(plain))
    return {name: item.bounds("max") for name, item in found.items()}


@pytest.fixture
def pictures() -> Any:
    return np.random.default_rng(1).normal(size=(6, 3, 8, 8))


@pytest.mark.parametrize("clips", [True, False])
def test_it_is_exact(network: Callable[..., Graph], pictures: Any, clips: bool) -> None:
    graph = prepare(network(dtype=np.float64, clips=clips))
    found = bounds(graph, pictures)
    layers = [node.name for node in graph.weighted()]
    moved, ranges, taken = centre(graph, layers, found)
    assert len(taken) >= 2, "the depthwise block's ReLU and the last one"
    assert sum(node.op_type == "Sub" for node in moved.nodes) >= 1, "a PReLU's output is shifted by a Sub"
    assert all(ranges[name] <= max(-low, high) * 1.001 for name, (low, high) in found.items())
    other = np.random.default_rng(2).normal(size=(8, 3, 8, 8)) * 3  # beyond what the bounds were taken from
    for given in (pictures, other):
        before, after = reference(graph, given), reference(moved, given)
        assert np.abs(before - after).max() <= 1e-9 * np.abs(before).max()


def _pooled(maker: Any, *, padded: bool = False, branch: bool = False) -> Graph:
    make = maker(size=8)
    x = make.node("MaxPool", make.node("Relu", make.conv("in", 3, 6, kernel=3)), kernel_shape=[2, 2], strides=[2, 2])
    y = make.conv(x, 6, 4, kernel=3 if padded else 1)
    if branch:
        y = make.node("Add", y, make.node("Resize", y, "", make.constant(np.ones(4)), mode="nearest"))
        make.nodes.append(helper.make_node("ReduceMax", [x], ["largest"], name="largest", keepdims=1))
        y = make.node("Add", y, "largest")
    return prepare(Graph(make.model(y)))


def test_relu_is_left_to_the_quantiser(maker: Any, pictures: Any) -> None:
    graph = _pooled(maker)
    layers = [node.name for node in graph.weighted()]
    moved, ranges, _ = centre(graph, layers, bounds(graph, pictures))
    result = qdq.insert(moved, layers, ranges)
    assert not [node for node in result.nodes if node.op_type in ("Relu", "Max", "Clip", "Sub", "Min")]
    inside = next(node for node in result.nodes if node.op_type == "QuantizeLinear" and node.input[0] != "in")
    steps = Runner(result, outputs=[inside.output[0]]).run(pictures.astype(np.float32))[inside.output[0]]
    assert (steps.min(), steps.max()) == (-128, 127), "all of INT8 is used"
    want = Runner(graph).run(pictures.astype(np.float32))["out"]
    plain = qdq.insert(graph, layers, {name: max(-a, b) for name, (a, b) in bounds(graph, pictures).items()})
    errors = [np.square(Runner(g).run(pictures.astype(np.float32))["out"] - want).mean() for g in (result, plain)]
    assert errors[0] < 0.8 * errors[1], "half the step behind the ReLU; the input's rounding stays"
    half = Runner(halve(result)).run(pictures.astype(np.float32))["out"]
    assert np.abs(half - want).max() < 0.03 * np.abs(want).max()


def test_a_layer_that_pads_is_left_alone(maker: Any, pictures: Any) -> None:
    """The zeros of its border would have to be shifted too."""
    graph = _pooled(maker, padded=True)
    moved, _, taken = centre(graph, [node.name for node in graph.weighted()], bounds(graph, pictures))
    assert not taken
    assert [node.op_type for node in moved.nodes] == [node.op_type for node in graph.nodes]


def test_what_others_read_is_shifted_for_the_layer_alone(maker: Any, pictures: Any) -> None:
    graph = _pooled(maker, branch=True)
    moved, _, taken = centre(graph, [node.name for node in graph.weighted()], bounds(graph, pictures))
    assert not taken
    assert sum(node.op_type == "Sub" for node in moved.nodes) == 1
    assert np.allclose(reference(graph, pictures.astype(np.float32)), reference(moved, pictures.astype(np.float32)))


def test_a_layer_left_in_float_keeps_the_bound(maker: Any, pictures: Any) -> None:
    """The mixed plan takes layers out after the shift: the float layer reads the rectified tensor still."""
    graph = _pooled(maker)
    layers = [node.name for node in graph.weighted()]
    moved, ranges, _ = centre(graph, layers, bounds(graph, pictures))
    result = qdq.insert(moved, layers[:1], ranges)
    assert [node.op_type for node in result.nodes].count("Max") == 1
    want = Runner(graph).run(pictures.astype(np.float32))["out"]
    assert np.abs(Runner(result).run(pictures.astype(np.float32))["out"] - want).max() < 0.05 * np.abs(want).max()
