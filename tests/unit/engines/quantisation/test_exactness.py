"""Folding and equalisation must not change what a network computes: held in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from edgeface.engines.equalize import equalize, streams
from edgeface.engines.graph import Graph
from edgeface.engines.prepare import OPSET, check_same, prepare
from edgeface.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable


def run(graph: Graph, pictures: Any, *names: str) -> list[Any]:
    model = graph.to_model(extra_outputs=list(names))
    return list(ReferenceEvaluator(model).run([*(names or graph.output_names)], {graph.input_name: pictures}))


@pytest.fixture
def pictures() -> Any:
    return np.random.default_rng(1).normal(size=(4, 3, 8, 8))


def maxima(graph: Graph, pictures: Any) -> dict[str, Any]:
    names = list(dict.fromkeys(node.input[0] for node in graph.weighted()))
    values = run(graph, pictures, *names)
    axes = {name: (0, *range(2, value.ndim)) for name, value in zip(names, values, strict=True)}
    return {name: np.abs(v).max(axis=axes[name]) for name, v in zip(names, values, strict=True)}


def test_folding_batch_normalisation_is_exact(network: Callable[..., Graph], pictures: Any) -> None:
    graph = network(dtype=np.float64)
    folded = prepare(graph)
    assert not [node for node in folded.nodes if node.op_type == "BatchNormalization"]
    assert folded.opset == OPSET
    before, after = run(graph, pictures)[0], run(folded, pictures)[0]
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()


def test_other_operator_sets(maker: Any) -> None:
    """What is the same in opset 19 becomes that; what cannot be brought there is told, not quantised."""
    pictures = np.random.default_rng(3).normal(size=(2, 3, 8, 8)).astype(np.float32)

    def network(operator: str, *inputs: str, opset: int, **attributes: Any) -> Graph:
        make = maker(size=8)
        make.constant(np.array([1.0, 1.0, 2.0, 2.0]), "scales")
        make.constant(np.ones((3, 8, 8)), "ones")
        return Graph(make.model(make.node(operator, "in", *inputs, **attributes), opset=opset))

    assert prepare(network("Erf", opset=21)).opset == OPSET
    assert prepare(network("Gelu", opset=21)).opset == 21, "there is none in 19"
    older = network("Upsample", "scales", opset=9, mode="nearest")
    prepared = prepare(older)
    check_same(older, prepared, pictures)
    mode = next(item for item in prepared.nodes[0].attribute if item.name == "mode")
    mode.s = b"linear"  # as onnx 1.23 converts an interpolation to another one
    with pytest.raises(ModelError, match=r"'out' changes by .* from opset 9 to 19; export it again"):
        check_same(older, prepared, pictures)
    with pytest.raises(ModelError, match=r"from opset 7 to 19: .*; export it again with opset_version=17"):
        prepare(network("BatchNormalization", *["ones"] * 4, opset=7, spatial=0))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["before", "after"])
def test_what_is_not_finite_is_not_the_same(
    network: Callable[..., Graph], pictures: Any, wrong: float, side: str
) -> None:
    graph = network()
    prepared = prepare(graph)
    spoilt = graph if side == "before" else prepared
    bias = next(node.input[2] for node in reversed(spoilt.nodes) if node.op_type == "Gemm")
    spoilt.constants[bias] = np.full_like(spoilt.constants[bias], wrong)
    with pytest.raises(ModelError, match=r"'out' changes by (nan|inf) of"):
        check_same(graph, prepared, pictures.astype(np.float32))


@pytest.mark.parametrize("strength", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("clips", [True, False])
def test_equalisation_is_exact(network: Callable[..., Graph], pictures: Any, strength: float, clips: bool) -> None:
    graph = prepare(network(dtype=np.float64, clips=clips))
    equal, factors = equalize(graph, maxima(graph, pictures), strength=strength)
    assert len(factors) >= 8, "most tensors of this network can be scaled"
    assert any(np.abs(factor - 1).max() > 0.5 for factor in factors.values())
    other = np.random.default_rng(2).normal(size=(8, 3, 8, 8)) * 3  # beyond what the maxima were taken from
    for given in (pictures, other):
        before, after = run(graph, given)[0], run(equal, given)[0]
        assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()


def test_equalised_channels_have_like_ranges(network: Callable[..., Graph], pictures: Any) -> None:
    graph = prepare(network(dtype=np.float64))
    before = maxima(graph, pictures)
    equal, factors = equalize(graph, before, strength=1.0)
    after = maxima(equal, pictures)
    # A stream of which layers read one tensor only can be made quite even; a residual stream is a compromise.
    alone = [
        read[0]
        for read in (
            list({node.input[0] for node in stream.readers if node.op_type == "Conv"}) for stream in streams(graph)
        )
        if len(read) == 1 and read[0] in factors
    ]
    assert len(alone) >= 3

    def unlike(values: Any) -> float:
        return float(values.max() / values[values > 1e-6 * values.max()].min())

    assert max(unlike(before[name]) for name in alone) > 5
    assert all(unlike(after[name]) < 1.001 for name in alone)


def test_the_input_and_what_other_operators_read_is_left_alone(maker: Any) -> None:
    make = maker(dtype=np.float64, size=8)
    x = make.conv("in", 3, 4)
    y = make.node("Sigmoid", x)  # not homogeneous: no scale may pass
    z = make.conv(make.node("Relu", make.conv(y, 4, 5)), 5, 2)
    graph = Graph(make.model(z))
    frozen = {stream.tensors[0]: stream.frozen for stream in streams(graph)}
    assert frozen["in"] == "input of the network"
    assert frozen[x] == "read by Sigmoid n_x1"
    assert frozen[y] == "made by Sigmoid n_x1"
    assert [name for name, reason in frozen.items() if not reason] == ["x2"]


def test_a_dead_channel_stays_as_it_is(network: Callable[..., Graph], pictures: Any) -> None:
    graph = prepare(network(dtype=np.float64))
    found = maxima(graph, pictures)
    name = next(iter(name for name in found if name != graph.input_name))
    found[name][0] = 0.0
    _, factors = equalize(graph, found)
    assert factors[name][0] == 1.0
    assert all(np.isfinite(factor).all() and factor.max() <= 1e3 for factor in factors.values())
