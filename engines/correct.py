"""Bias correction: takes the mean error that quantisation makes in each channel back out of the bias.

Method: Nagel et al. (2019), section 4.2, empirical, layer after layer: each layer is corrected with the input that the
quantised layers before it really give. The network is walked node by node, so every layer runs once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from edgeface.engines.session import BATCH, cut, pad

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from edgeface.engines.graph import Graph

    Array = npt.NDArray[Any]


def correct_biases(
    graph: Graph,
    tensors: npt.NDArray[np.float32],
    means: Mapping[str, Array],
    *,
    tick: Callable[[int], None] | None = None,
) -> dict[str, Array]:
    """Correct in place the biases of all layers whose float32 output means are given.

    Args:
        graph: the quantised network.
        tensors: (N, 3, H, W) float32; memory grows with N, 32 to 64 suffice for means.
        means: (C,) float32 mean of each channel of a layer's output.

    Returns:
        What was added to each layer's bias, by the name of the layer's output.
    """
    added: dict[str, Array] = {}
    fixed = graph.inputs[0].type.tensor_type.shape.dim[0].dim_value
    batch = fixed or BATCH
    parts: list[Array] = [tensors[at : at + batch] for at in range(0, len(tensors), batch)]
    # The means are of all pictures, and so must be what they are compared with: a batch left out would go as
    # "error" into the biases.
    count = len(parts[-1])
    if fixed:
        parts[-1] = pad(parts[-1], fixed)
    ran = len(parts[-1])
    held = {graph.input_name: parts}
    remaining = {name: len(graph.readers(name)) for node in graph.nodes for name in node.input if name}
    for node in list(graph.nodes):
        if any(name and name not in held and name not in graph.constants for name in node.input):
            raise AssertionError(f"{node.name}: its inputs are not computed yet")
        results = _run(graph, node, held)
        name = node.output[0]
        if name in means and node.op_type in ("Conv", "Gemm"):
            shift = means[name] - _channel_means([*results[0][:-1], cut(results[0][-1], count, ran)])
            _add_bias(graph, node, shift)
            added[name] = shift
            shape = (1, -1, *[1] * (results[0][0].ndim - 2))
            results[0] = [part + shift.reshape(shape).astype(part.dtype) for part in results[0]]
        held.update(zip(node.output, results, strict=True))
        for source in node.input:
            if source in remaining:
                remaining[source] -= 1
                if remaining[source] <= 0:
                    held.pop(source, None)
        if tick is not None:
            tick(1)
    return added


def _channel_means(parts: list[Array]) -> Array:
    sums = sum(part.sum(axis=(0, *range(2, part.ndim)), dtype=np.float64) for part in parts)
    values = sum(part.size // part.shape[1] for part in parts)
    return np.asarray(sums / values)


def _add_bias(graph: Graph, node: onnx.NodeProto, shift: Array) -> None:
    has = len(node.input) > 2 and node.input[2]
    old = graph.constants[node.input[2]] if has else np.zeros(len(shift), np.float32)
    graph.own_constant(node, 2, (old.astype(np.float64) + shift).astype(np.float32))


def _run(graph: Graph, node: onnx.NodeProto, held: dict[str, list[Array]]) -> list[list[Array]]:
    """Run one node over all batches: a network of its own, with constants inside."""
    fixed = [name for name in dict.fromkeys(node.input) if name in graph.constants]
    moving = [name for name in dict.fromkeys(node.input) if name and name not in graph.constants]
    parts = max((len(held[name]) for name in moving), default=1)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(held[name][0].dtype), None)
        for name in moving
    ]
    single = helper.make_graph(
        [node],
        "one",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
        [numpy_helper.from_array(np.asarray(graph.constants[name], order="C"), name) for name in fixed],
    )
    model = helper.make_model(single, opset_imports=[helper.make_opsetid("", graph.opset)])
    model.ir_version = 8
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    runs = [
        session.run(None, {name: held[name][part if len(held[name]) > 1 else 0] for name in moving})
        for part in range(parts)
    ]
    return [list(values) for values in zip(*runs, strict=True)]
