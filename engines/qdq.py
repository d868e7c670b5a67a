"""Writes INT8 into an ONNX graph as explicit QuantizeLinear and DequantizeLinear pairs, the way TensorRT fuses them.

Rules, from NVIDIA's documentation of explicit quantisation: symmetric INT8 with zero point 0; one scale for an
activation tensor, one for each output channel of weights; the bias stays float; pairs stand on the inputs of
convolutions and fully connected layers, and on a residual branch that such a layer reads anyway.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from edgeface.engines.graph import Graph, attribute, output_axis

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy.typing as npt

    Array = npt.NDArray[Any]

STEPS = 127
#: The smallest scale: FP16 holds it with three digits (its numbers below 6e-5 lose them one by one).
LEAST_SCALE = 2.0**-20


def round_scale(scale: Array) -> Array:
    """Scales that float16 holds exactly, none below the wish: the same integers then serve FP32 and FP16 networks."""
    wide = np.maximum(np.asarray(scale, np.float64), LEAST_SCALE)
    half = np.minimum(wide, 65504.0).astype(np.float16)
    return np.where(half < wide, np.nextafter(half, np.float16(np.inf)), half).astype(np.float32)


def weight_scales(weight: Array, axis: int) -> Array:
    """One scale for each output channel: its largest magnitude over 127."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    return round_scale(np.abs(rows).max(axis=1) / STEPS)


def quantize_weight(weight: Array, axis: int) -> tuple[npt.NDArray[np.int8], Array]:
    """INT8 weights and their scales along `axis`."""
    scales = weight_scales(weight, axis)
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps = np.rint(weight.astype(np.float64) / scales.reshape(shape))
    return np.clip(steps, -STEPS, STEPS).astype(np.int8), scales


def insert(graph: Graph, layers: Collection[str], ranges: Mapping[str, float], *, residuals: bool = False) -> Graph:
    """A copy in which the named layers compute in INT8.

    Args:
        graph: a prepared network.
        layers: names of weighted nodes.
        ranges: for every tensor that those nodes read, the magnitude that becomes 127 steps.
        residuals: let an Add read the quantised tensor where a layer reads the same one.
    """
    graph = graph.copy()
    chosen = [node for node in graph.weighted() if node.name in layers]
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in chosen:
        readers.setdefault(node.input[0], []).append(node)
    zero = graph.add_constant("zero", np.zeros((), np.int8))
    for tensor, nodes in readers.items():
        if residuals:
            nodes = nodes + [node for node in graph.readers(tensor) if node.op_type in ("Add", "Sum")]
        _activation(graph, tensor, nodes, ranges[tensor], zero)
    shared: dict[tuple[str, int], str] = {}
    for node in chosen:
        _weights(graph, node, shared)
    for node in reversed(list(graph.nodes)):
        if node.op_type in ("Min", "Max", "Clip") and _needless(graph, node):
            graph.remove(node)
    return graph


def _needless(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a Min, Max or Clip with constant bounds is one that the quantiser behind it saturates within anyway."""
    if len(node.input) < 2 or any(name and name not in graph.constants for name in node.input[1:]):
        return False
    bounds = [graph.constants.get(name) for name in node.input[1:]]
    low = bounds[0] if node.op_type != "Min" else None
    high = bounds[-1] if node.op_type == "Min" or len(bounds) > 1 else None
    after = node
    while True:  # taking the largest value of a window and saturating may change places
        readers = graph.readers(after.output[0])
        if len(readers) != 1 or graph.is_output(after.output[0]):
            return False
        after = readers[0]
        if after.op_type != "MaxPool":
            break
    if after.op_type != "QuantizeLinear":
        return False
    last = (STEPS + np.array([0.5, -0.5])) * float(graph.constants[after.input[1]])  # beyond, all is -128 or 127
    return (low is None or float(low.max()) <= -last[0]) and (high is None or float(high.min()) >= last[1])


def _activation(graph: Graph, tensor: str, nodes: list[onnx.NodeProto], limit: float, zero: str) -> None:
    scale = graph.add_constant(f"{tensor}.s", round_scale(np.array(limit / STEPS)).reshape(()))
    steps, back = graph.fresh(f"{tensor}.q"), graph.fresh(f"{tensor}.dq")
    pair = [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [steps], name=steps),
        helper.make_node("DequantizeLinear", [steps, scale, zero], [back], name=back),
    ]
    graph.insert_after(graph.producer(tensor), pair)
    graph.rewire(tensor, back, only=nodes)


def _weights(graph: Graph, node: onnx.NodeProto, shared: dict[tuple[str, int], str]) -> None:
    name, axis = node.input[1], output_axis(node)
    if (name, axis) not in shared:
        steps, scales = quantize_weight(graph.constants[name], axis)
        held = graph.add_constant(f"{name}.q", steps)
        scale = graph.add_constant(f"{name}.s", scales)
        # The standard lets zero points out or share them, but onnxruntime 1.32 on x86 rewrites those of INT8 weights
        # one by one and then fails.
        zeros = graph.add_constant(f"{name}.z", np.zeros(len(scales), np.int8))
        back = graph.fresh(f"{name}.dq")
        pair = helper.make_node("DequantizeLinear", [held, scale, zeros], [back], name=back, axis=axis)
        graph.insert_after(None, [pair])
        shared[name, axis] = back
    node.input[1] = shared[name, axis]


def macs(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Multiply-accumulates in each weighted layer, given the shapes of the layers' outputs for one picture."""
    return {
        node.name: work(node.op_type, graph.constants[node.input[1]].shape, shapes[node.output[0]])
        for node in graph.weighted()
    }


def work(operator: str, weights: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Multiply-accumulates of a layer: the values of its output times the products that each of them adds up."""
    if operator == "Conv":
        return math.prod(output) * math.prod(weights[1:])
    return math.prod(output) * (math.prod(weights[-2:]) // output[-1] if len(weights) > 1 else weights[0])


def int8_layers(graph: Graph) -> list[str]:
    """Layers whose input and weights both come from DequantizeLinear."""
    back = {node.output[0] for node in graph.nodes if node.op_type == "DequantizeLinear"}
    return [n.name for n in graph.nodes if n.op_type in ("Conv", "Gemm", "MatMul") and {*n.input[:2]} <= back]


def float_inputs(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether INT8 kernels do not take a layer: a Gemm with its left input transposed, a MatMul with many matrices."""
    if node.op_type == "MatMul":
        return graph.constants[node.input[1]].ndim != 2
    return bool(node.op_type == "Gemm" and attribute(node, "transA", 0))
