"""Moves activations that have one sign, such as a ReLU's, into the middle of INT8's range: 255 steps instead of 127.

TensorRT takes zero point 0 only. So a tensor x from `low` to `high` is replaced by y = x - c with its middle c, and
the layer behind it gets c times the sum of its weights added to its bias, which is exact where it pads nothing: the
zeros of a border would have to become -c. Where x is a convolution's output behind a ReLU, c is taken from that
convolution's bias and ReLU becomes Max(., -c); with c = 128 steps the quantiser saturates there by itself and the Max
is taken out again (`qdq.insert`), so the shift costs nothing. Elsewhere it is a Sub in front of QuantizeLinear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from edgeface.engines.graph import Graph, attribute, output_axis
from edgeface.engines.qdq import STEPS, round_scale

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy.typing as npt
    import onnx

#: A Sub of its own must make the step smaller by this factor at least; a shift that costs nothing need not.
WORTH = 0.8


def centre(
    graph: Graph, layers: Collection[str], bounds: Mapping[str, tuple[float, float]]
) -> tuple[Graph, dict[str, float], dict[str, float]]:
    """An equal network whose tensors of one sign lie around 0.

    Args:
        graph: a prepared network.
        layers: those that shall be INT8.
        bounds: low and high of every tensor that they read.

    Returns:
        The network; the range of every tensor that layers read, now the magnitude that becomes 127 steps; and what was
        taken from each convolution's output, by its name.
    """
    graph = graph.copy()
    ranges = {name: max(-low, high) for name, (low, high) in bounds.items()}
    taken: dict[str, float] = {}
    for tensor, (low, high) in bounds.items():
        readers = [node for node in graph.readers(tensor) if node.name in layers and _takes_shift(graph, node)]
        scale = float(round_scale(np.array((high - low) / (2 * STEPS + 1))))
        if not readers or scale * STEPS >= ranges[tensor]:
            continue
        # The lowest value becomes -128 steps, for the quantiser to saturate there.
        middle = low + (STEPS + 1) * scale
        if low == 0.0 and len(readers) == len(graph.readers(tensor)) and not graph.is_output(tensor):
            path = _path(graph, tensor)
            if path:
                _fold(graph, path, middle)
                taken[path[0].output[0]] = middle
                ranges[tensor] = scale * STEPS
                _absorb(graph, readers, middle)
                continue
        if scale * STEPS < WORTH * ranges[tensor]:
            moved = graph.fresh(f"{tensor}.centred")
            value = np.array(middle, graph.constants[readers[0].input[1]].dtype)
            sub = helper.make_node("Sub", [tensor, graph.add_constant(f"{moved}.by", value)], [moved], name=moved)
            graph.insert_after(graph.producer(tensor), [sub])
            graph.rewire(tensor, moved, only=readers)
            ranges[moved] = scale * STEPS
            _absorb(graph, readers, middle)
    return graph, ranges, taken


def _takes_shift(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a shift of a layer's input is a shift of its bias: nothing is padded, and the bias is a constant."""
    if len(node.input) > 2 and node.input[2] and node.input[2] not in graph.constants:
        return False
    if node.op_type == "Gemm":
        return all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta")) and not attribute(node, "transA", 0)
    unpadded = not any(attribute(node, "pads", [0])) and attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    return node.op_type == "Conv" and unpadded


def _absorb(graph: Graph, readers: list[onnx.NodeProto], middle: float) -> None:
    for node in readers:
        weight = graph.constants[node.input[1]]
        rows = np.moveaxis(weight.astype(np.float64), output_axis(node), 0)
        _add_bias(graph, node, middle * rows.reshape(len(rows), -1).sum(axis=1))


def _add_bias(graph: Graph, node: onnx.NodeProto, more: npt.NDArray[np.float64] | float) -> None:
    weight = graph.constants[node.input[1]]
    has = len(node.input) > 2 and node.input[2]
    old = graph.constants[node.input[2]].astype(np.float64) if has else np.zeros(weight.shape[output_axis(node)])
    graph.own_constant(node, 2, np.asarray(old + more).astype(weight.dtype))


def _path(graph: Graph, tensor: str) -> list[onnx.NodeProto]:
    """The convolution behind whose ReLU a tensor lies, and the nodes in between; empty where it is not like that."""
    path: list[onnx.NodeProto] = []
    name = tensor
    while (node := graph.producer(name)) is not None:
        path.append(node)
        if node.op_type == "Conv":
            fixed = node.input[1] in graph.constants and (len(node.input) < 3 or node.input[2] in graph.constants)
            rectified = any(other.op_type in ("Relu", "Clip") for other in path)
            return path[::-1] if fixed and rectified else []
        passes = node.op_type in ("Relu", "MaxPool", "Flatten") or (
            node.op_type in ("Min", "Max", "Clip") and all(bound in graph.constants for bound in node.input[1:])
        )
        if not passes or len(node.output) > 1:
            return []
        name = node.input[0]
        if len(graph.readers(name)) > 1 or graph.is_output(name):
            return []
    return []


def _fold(graph: Graph, path: list[onnx.NodeProto], middle: float) -> None:
    """Take the middle from everything along a path."""
    kind = graph.constants[path[0].input[1]].dtype
    _add_bias(graph, path[0], -middle)
    for node in path[1:]:
        if node.op_type == "Relu":
            node.op_type = "Max"
            node.input.append(graph.add_constant(f"{node.output[0]}.low", np.array(-middle, kind)))
            continue
        for position in range(1, len(node.input)):
            bound = graph.constants[node.input[position]]
            graph.own_constant(node, position, (bound - middle).astype(bound.dtype))
