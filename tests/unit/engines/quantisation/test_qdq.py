"""The Q/DQ that is written, rule by rule, and its arithmetic against a simulation in plain numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgeface.engines import qdq
from edgeface.engines.correct import correct_biases
from edgeface.engines.equalize import equalize
from edgeface.engines.graph import Graph
from edgeface.engines.halve import halve
from edgeface.engines.layers import file_layers, output_shapes
from edgeface.engines.pack import pack
from edgeface.engines.pictures import Inputs
from edgeface.engines.prepare import prepare
from edgeface.engines.quantize import finish, read_tensors
from edgeface.engines.ranges import collect
from edgeface.engines.session import Runner
from edgeface.manifest import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def pictures() -> Any:
    return np.random.default_rng(3).normal(size=(24, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def quantised(network: Callable[..., Graph], pictures: Any) -> tuple[Graph, Graph]:
    graph = prepare(network())
    statistics = collect(graph, pictures, read_tensors(graph))
    equal, _ = equalize(graph, {name: item.maxima for name, item in statistics.items()})
    ranges = {name: item.range("max") for name, item in collect(equal, pictures, read_tensors(graph)).items()}
    return equal, qdq.insert(equal, [node.name for node in graph.weighted()], ranges)


def test_every_rule_of_the_structure(quantised: tuple[Graph, Graph]) -> None:
    equal, graph = quantised
    makers = {name: node for node in graph.nodes for name in node.output}
    layers = [node for node in graph.nodes if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == len(equal.weighted()) == 7
    for node in layers:
        activation, weight = makers[node.input[0]], makers[node.input[1]]
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert makers[activation.input[0]].op_type == "QuantizeLinear"
        assert list(makers[activation.input[0]].input[1:]) == list(activation.input[1:]), "one scale for both"
        assert graph.constants[activation.input[1]].shape == (), "one scale for an activation"
        steps, scales = graph.constants[weight.input[0]], graph.constants[weight.input[1]]
        assert steps.dtype == np.int8
        assert steps.min() >= -127
        assert scales.shape == (steps.shape[0],), "one scale for each output channel"
        for zero in (activation.input[2], weight.input[2]):
            assert graph.constants[zero].dtype == np.int8
            assert not graph.constants[zero].any()
        assert node.input[2] in graph.constants, "the bias stays float"
        assert graph.constants[node.input[2]].dtype == np.float32
    for node in graph.nodes:
        if node.op_type in ("Relu", "PRelu", "Add"):
            assert all(makers[n].op_type not in ("DequantizeLinear",) for n in node.input if n in makers)
    assert sorted(qdq.int8_layers(graph)) == sorted(node.name for node in layers)


def test_residual_pairs_where_asked(network: Callable[..., Graph], pictures: Any) -> None:
    graph = prepare(network())
    ranges = {n: s.range("max") for n, s in collect(graph, pictures, read_tensors(graph)).items()}
    result = qdq.insert(graph, [node.name for node in graph.weighted()], ranges, residuals=True)
    makers = {name: node for node in result.nodes for name in node.output}
    add = next(node for node in result.nodes if node.op_type == "Add")
    assert [makers[name].op_type for name in add.input] == ["DequantizeLinear", "Conv"]


def test_a_clip_that_saturation_makes_needless_goes(quantised: tuple[Graph, Graph]) -> None:
    equal, graph = quantised
    assert [node for node in equal.nodes if node.op_type == "Min"]
    assert not [node for node in graph.nodes if node.op_type in ("Min", "Clip")]


def test_arithmetic_against_a_simulation(maker: Any) -> None:
    make = maker(size=5)
    graph = Graph(make.model(make.conv("in", 3, 4)))
    pictures = np.random.default_rng(5).normal(size=(6, 3, 5, 5)).astype(np.float32) * 2
    result = qdq.insert(graph, [graph.nodes[0].name], {"in": 3.0})
    scale = float(qdq.round_scale(np.array(3.0 / 127)))
    x = np.clip(np.rint(pictures.astype(np.float64) / np.float32(scale)), -128, 127)
    weight, bias = (graph.constants[name].astype(np.float64) for name in graph.nodes[0].input[1:])
    steps = qdq.round_scale(np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float64)
    w = np.rint(weight[:, :, 0, 0] / steps[:, None])
    sums = np.einsum("oc,nchw->nohw", w, x)  # whole numbers, as an INT8 kernel accumulates them
    want = sums * scale * steps[None, :, None, None] + bias[None, :, None, None]
    got = Runner(result).run(pictures)["out"]
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()
    assert np.abs(want - Runner(graph).run(pictures)["out"]).max() > 1e-3, "quantisation must show"


@pytest.mark.parametrize(("count", "batch"), [(24, "batch"), (21, "batch"), (21, 8), (3, 8)])
def test_bias_correction_takes_the_mean_error_out(
    network: Callable[..., Graph], pictures: Any, count: int, batch: int | str
) -> None:
    some, equal = pictures[:count], prepare(network())
    if isinstance(batch, int):
        equal.inputs[0].type.tensor_type.shape.dim[0].dim_value = batch
    layers = [node.name for node in equal.weighted()]
    ranges = {n: 0.7 * s.range("max") for n, s in collect(equal, some, read_tensors(equal)).items()}

    class Whole:
        def part(self, start: int, stop: int) -> Any:
            return some

        def __getitem__(self, index: slice) -> Any:
            return some[index]

    plain = qdq.insert(equal, layers, ranges)
    corrected = finish(equal, Whole(), layers, ranges)  # type: ignore[arg-type] # the two members that it uses
    want = Runner(equal).run(some)["out"]
    errors = [np.abs((Runner(g).run(some)["out"] - want).mean(axis=0)).max() for g in (plain, corrected)]
    assert errors[1] < 1e-3 * np.abs(want).max() < errors[0]


@pytest.mark.parametrize(("count", "batch"), [(3, 1), (4, 2), (3, 2), (3, 8)])
def test_rows_of_tokens_are_counted_as_their_pictures_are(maker: Any, count: int, batch: int) -> None:
    """A Gemm behind a Reshape has a row for each token: what nothing was quantised of has nothing to be corrected."""
    make = maker(size=8)
    x = make.node("Transpose", make.conv("in", 3, 12), perm=[0, 2, 3, 1])
    graph = Graph(make.model(make.gemm(make.node("Reshape", x, make.constant(np.array([-1, 12]))), 12, 5), rank=2))
    some = np.random.default_rng(4).normal(size=(count, 3, 8, 8)).astype(np.float32)
    want = Runner(graph).run(some)["out"]
    graph.inputs[0].type.tensor_type.shape.dim[0].dim_value = batch
    got = Runner(graph).run(some)["out"]
    assert got.shape == want.shape == (count * 64, 5)
    assert np.allclose(got, want, atol=1e-5)
    means = {node.output[0]: collect(graph, some, [node.output[0]])[node.output[0]].means for node in graph.weighted()}
    for shift in correct_biases(graph, some, means).values():
        assert np.abs(shift).max() < 1e-5


def test_the_half_precision_network_keeps_the_integers(quantised: tuple[Graph, Graph], pictures: Any) -> None:
    _, graph = quantised
    half = halve(graph)
    assert {v.dtype for v in half.constants.values()} <= {np.dtype(d) for d in (np.float16, np.int8, np.int64)}
    for name, value in graph.constants.items():
        if value.dtype == np.int8:
            assert np.array_equal(value, half.constants[name])
        if name.endswith(".s"):
            assert np.array_equal(value, half.constants[name].astype(np.float32)), "scales are exact in float16"
    a, b = Runner(graph).run(pictures)["out"], Runner(half).run(pictures)["out"]
    assert b.dtype == np.float32
    # The mean: half precision may push a value over to the next step of INT8, in older versions of onnxruntime more so.
    assert np.abs(a - b).mean() < 0.02 * np.abs(a).max()


def test_same_input_same_bytes(network: Callable[..., Graph], pictures: Any) -> None:
    def once() -> bytes:
        graph = prepare(network())
        ranges = {n: s.range("99.999") for n, s in collect(graph, pictures, read_tensors(graph)).items()}
        result = qdq.insert(graph, [node.name for node in graph.weighted()], ranges)
        result.shorten()
        return result.to_bytes()

    assert once() == once()


def test_short_names_change_nothing_else(quantised: tuple[Graph, Graph], pictures: Any) -> None:
    _, graph = quantised
    short = graph.copy()
    short.shorten()
    assert len(short.to_bytes()) < len(graph.to_bytes())
    assert np.array_equal(Runner(graph).run(pictures)["out"], Runner(short).run(pictures)["out"])
    assert qdq.int8_layers(short) == qdq.int8_layers(graph)


def test_the_file_says_the_same_in_fewer_bytes(maker: Any) -> None:
    make = maker(size=8)
    graph = Graph(make.model(make.conv(make.node("Relu", make.conv("in", 3, 64, kernel=3)), 64, 8)))
    pictures = np.random.default_rng(3).normal(size=(4, 3, 8, 8)).astype(np.float32)
    ranges = {n: s.range("max") for n, s in collect(graph, pictures, read_tensors(graph)).items()}
    result = qdq.insert(graph, [node.name for node in graph.weighted()], ranges)
    packed, short = pack(result), result.copy()
    short.shorten()
    assert len(packed.to_bytes()) < len(short.to_bytes()) - 64, "a byte and more for each of 64 biases"
    assert [node.op_type for node in packed.nodes].count("Cast") == 1, "for eight biases a Cast is longer than the gain"
    assert qdq.int8_layers(packed) == qdq.int8_layers(result)
    a, b = Runner(result).run(pictures)["out"], Runner(packed).run(pictures)["out"]
    assert 0 < np.abs(a - b).max() < 0.03 * np.abs(a).max()
    assert np.array_equal(Runner(graph).run(pictures)["out"], Runner(pack(graph)).run(pictures)["out"])
    mixed = pack(qdq.insert(graph, [graph.nodes[0].name], ranges))
    assert [node.op_type for node in mixed.nodes].count("Cast") == 2, "the weights of the layer in float"
    assert [row["weights"] for row in file_layers(mixed.to_bytes())] == [64 * 27, 8 * 64]


def test_the_file_of_a_network_of_tokens_runs_as_it_is_written(maker: Any) -> None:
    """As firmware runs it: onnxruntime makes a Gemm between two Reshapes of a MatMul and an Add, and moves Q/DQ."""
    make = maker(size=8)
    x = make.node("Reshape", make.conv("in", 3, 12), make.constant(np.array([1, 12, 64])))
    x = make.node("Transpose", x, perm=[0, 2, 1])
    for _ in range(2):
        x = make.node("MatMul", x, make.constant(make.random.normal(size=(12, 12)) / 4))
        x = make.node("Add", make.constant(make.random.normal(size=12)), x)
    graph = Graph(make.model(x, batch=1, rank=3))
    pictures = np.random.default_rng(3).normal(size=(4, 3, 8, 8)).astype(np.float32)
    ranges = {n: s.range("max") for n, s in collect(graph, pictures, read_tensors(graph)).items()}
    packed = pack(qdq.insert(graph, [node.name for node in graph.weighted()], ranges))
    exact = Runner(packed).run(pictures)["out"]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(packed.to_bytes(), options, providers=["CPUExecutionProvider"])
    as_run = np.concatenate([session.run(["out"], {"in": picture[None]})[0] for picture in pictures])
    assert np.abs(exact - as_run).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize("fill", [{}, {"value": numpy_helper.from_array(np.full(1, 0.5, np.float32))}])
def test_constants_of_every_kind(maker: Any, fill: dict[str, Any]) -> None:
    """Bounds as numbers in `Constant` nodes, as exporters write them, and tensors that are filled with one value."""
    make = maker(size=8)
    x = make.conv("in", 3, 4, kernel=3)
    x = make.node("Clip", x, make.node("Constant", value_float=0.0), make.node("Constant", value_float=6.0))
    sizes = [make.node("Constant", value_ints=two) for two in ([1, 4], [8, 8])]
    shape = make.node("Concat", *sizes, axis=0)
    x = make.conv(make.node("Add", x, make.node("ConstantOfShape", shape, **fill)), 4, 4)
    original = Graph(make.model(x))
    graph = prepare(original)
    assert not [node for node in graph.nodes if node.op_type == "Constant"]
    pictures = np.random.default_rng(3).normal(size=(4, 3, 8, 8)).astype(np.float32)
    ranges = {n: s.range("max") for n, s in collect(graph, pictures, read_tensors(graph)).items()}
    want = Runner(original).run(pictures)["out"]
    for made, off in ((graph, 1e-6), (halve(graph), 0.01), (qdq.insert(graph, ["n_x0"], ranges), 0.05)):
        assert np.abs(Runner(made).run(pictures)["out"] - want).max() <= off * np.abs(want).max()


def test_the_work_of_layers_is_counted_for_every_token_and_pixel(maker: Any) -> None:
    make = maker(size=8)
    x = make.conv(make.conv("in", 3, 12, kernel=3), 12, 12, kernel=3, depthwise=True)
    x = make.node("Transpose", make.node("Reshape", x, make.constant(np.array([0, 4, 3, 64]))), perm=[0, 1, 3, 2])
    x = make.node("MatMul", x, make.constant(make.random.normal(size=(3, 5))))
    x = make.node("MatMul", x, make.constant(make.random.normal(size=(4, 5, 2))))  # a matrix for each of 4 groups
    graph = Graph(make.model(make.gemm(make.node("Reshape", x, make.constant(np.array([-1, 128]))), 128, 6), rank=2))
    pictures = Inputs(np.zeros((3, 8, 8, 3), np.uint8), Preprocessing())
    macs = list(qdq.macs(graph, output_shapes(graph, pictures)).values())
    assert macs == [64 * 12 * 27, 64 * 12 * 9, 4 * 64 * 3 * 5, 4 * 64 * 5 * 2, 4 * 128 * 6]
    assert [qdq.float_inputs(node, graph) for node in graph.weighted()] == [False, False, False, True, False]


@given(st.floats(1e-9, 1e4))
def test_scales_are_float16_numbers_and_never_too_small(wish: float) -> None:
    scale = float(qdq.round_scale(np.array(wish)))
    assert float(np.float16(scale)) == scale
    assert scale >= wish
    assert scale <= max(wish * 1.002, qdq.LEAST_SCALE * 1.002) or wish < 6.2e-5
