"""Brings a network into the form that quantisation starts from: nothing to skip, batch normalisations folded away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeface.engines.graph import Graph, attribute, output_axis
from edgeface.engines.session import Runner
from edgeface.errors import ModelError

if TYPE_CHECKING:
    import onnx

    from edgeface.engines.graph import Array
    from edgeface.engines.session import Tensors

#: Opset of what we write: the first in which QuantizeLinear takes FP16, and one that TensorRT 10.3 reads (up to 20).
OPSET = 19
#: Operators that opsets 20 and 21 only opened to further types: an older version computes the same in float32.
#: Source: the onnx change log of operators (docs/Changelog.md).
SAME_SINCE_19 = frozenset(
    [
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Concat",
        "Constant",
        "Conv",
        "Div",
        "Dropout",
        "Flatten",
        "Gemm",
        "GlobalAveragePool",
        "Identity",
        "LeakyRelu",
        "MatMul",
        "Max",
        "MaxPool",
        "Min",
        "Mul",
        "PRelu",
        "Pad",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Resize",
        "Shape",
        "Sigmoid",
        "Softmax",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    ]
)


def prepare(graph: Graph) -> Graph:
    """A copy without idle nodes and with every batch normalisation folded into a neighbour where that is exact."""
    graph = graph.copy()
    _set_opset(graph)
    for node in list(graph.nodes):
        if node.op_type in ("Identity", "Dropout") and _removable(graph, node):
            graph.remove(node)
    while any(_fold_backward(graph, node) or _fold_forward(graph, node) for node in list(graph.nodes)):
        pass  # each fold may make the next one possible
    return graph


def check_same(graph: Graph, prepared: Graph, tensors: Tensors) -> None:
    """Hold a prepared network against the original: what changed it must not pass for quantisation's error.

    Raises:
        ModelError: an output differs by more than a thousandth of its largest value, or is not finite.
    """
    for name, want in Runner(graph).run(tensors).items():
        got = Runner(prepared, outputs=[name]).run(tensors)[name]
        with np.errstate(invalid="ignore"):  # infinity from infinity
            off, largest = float(np.abs(got - want).max()), float(np.abs(want).max())
        if not off <= 1e-3 * largest < np.inf:  # so that NaN does not pass
            raise ModelError(
                f"{graph.name}: output {name!r} changes by {off:.3g} of {largest:.3g} when it is brought from opset "
                f"{graph.opset} to {prepared.opset}; export it again with opset_version=17"
            )


def _set_opset(graph: Graph) -> None:
    import onnx.version_converter

    if graph.opset == OPSET:
        return
    if graph.opset > OPSET:
        versions = {n.op_type: onnx.defs.get_schema(n.op_type, graph.opset).since_version for n in graph.nodes}
        if all(version <= OPSET or name in SAME_SINCE_19 for name, version in versions.items()):
            graph.set_opset(OPSET)
        return
    try:
        converted = Graph(onnx.version_converter.convert_version(graph.to_model(), OPSET))
    except Exception as error:
        raise ModelError(
            f"{graph.name}: cannot be brought from opset {graph.opset} to {OPSET}: {str(error)[:300]}; "
            "export it again with opset_version=17"
        ) from error
    graph.nodes, graph.constants = converted.nodes, converted.constants
    graph.set_opset(OPSET)


def _removable(graph: Graph, node: onnx.NodeProto) -> bool:
    return not (graph.is_output(node.output[0]) and graph.producer(node.input[0]) is None) and not any(
        graph.readers(extra) for extra in node.output[1:] if extra
    )


def _affine(graph: Graph, node: onnx.NodeProto) -> tuple[Array, Array] | None:
    """Scale and shift per channel of a batch normalisation with constant statistics, in float64."""
    if node.op_type != "BatchNormalization" or not all(name in graph.constants for name in node.input[1:5]):
        return None
    gamma, beta, mean, var = (graph.constants[name].astype(np.float64) for name in node.input[1:5])
    scale = gamma / np.sqrt(var + attribute(node, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _alone(graph: Graph, tensor: str) -> bool:
    return len(graph.readers(tensor)) == 1 and not graph.is_output(tensor)


def _bias(graph: Graph, node: onnx.NodeProto, channels: int) -> Array | None:
    """The constant bias of a convolution or Gemm, zeros where it has none; None where it is computed or scaled."""
    if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0):
        return None
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(channels)
    value = graph.constants.get(node.input[2])
    return None if value is None or value.size not in (1, channels) else np.broadcast_to(value.reshape(-1), (channels,))


def _fold_backward(graph: Graph, node: onnx.NodeProto) -> bool:
    """Fold a batch normalisation into the convolution or Gemm before it."""
    affine = _affine(graph, node)
    before = graph.producer(node.input[0]) if affine is not None else None
    if affine is None or before is None or before.op_type not in ("Conv", "Gemm") or not _alone(graph, node.input[0]):
        return False
    weight = graph.constants.get(before.input[1])
    if weight is None:
        return False
    axis = output_axis(before)
    bias = _bias(graph, before, weight.shape[axis])
    if bias is None:
        return False
    scale, shift = affine
    shape = [1] * weight.ndim
    shape[axis] = -1
    graph.own_constant(before, 1, (weight.astype(np.float64) * scale.reshape(shape)).astype(weight.dtype))
    graph.own_constant(before, 2, (bias.astype(np.float64) * scale + shift).astype(weight.dtype))
    graph.remove(node)
    return True


def _fold_forward(graph: Graph, node: onnx.NodeProto) -> bool:
    """Fold a batch normalisation into the Gemm, or the convolution without padding, behind it."""
    affine = _affine(graph, node)
    if affine is None or not _alone(graph, node.output[0]):
        return False
    after = graph.readers(node.output[0])[0]
    if after.op_type == "Flatten" and attribute(after, "axis", 1) == 1 and _alone(graph, after.output[0]):
        after = graph.readers(after.output[0])[0]
    weight = graph.constants.get(after.input[1]) if len(after.input) > 1 else None
    if weight is None or node.output[0] in after.input[1:]:
        return False
    scale, shift = affine
    if after.op_type == "Gemm" and not attribute(after, "transA", 0):
        axis = output_axis(after)
        bias = _bias(graph, after, weight.shape[axis])
        rows = np.moveaxis(weight.astype(np.float64), axis, 0)  # (out, channels * pixels)
        if bias is None or rows.shape[1] % len(scale):
            return False
        pixels = rows.shape[1] // len(scale)
        folded = np.moveaxis(rows * np.repeat(scale, pixels), 0, axis)
        offset = rows @ np.repeat(shift, pixels)
    elif (
        after.op_type == "Conv" and attribute(after, "group", 1) == 1 and not any(attribute(after, "pads", [0]))
        and attribute(after, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    ):  # fmt: skip
        bias = _bias(graph, after, weight.shape[0])
        if bias is None:
            return False
        wide = weight.astype(np.float64)
        folded = wide * scale.reshape(1, -1, *[1] * (weight.ndim - 2))
        offset = np.einsum("oc...,c->o", wide, shift)
    else:
        return False
    graph.own_constant(after, 1, np.ascontiguousarray(folded).astype(weight.dtype))
    graph.own_constant(after, 2, (bias.astype(np.float64) + offset).astype(weight.dtype))
    graph.remove(node)
    return True
