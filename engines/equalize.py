"""Cross-layer equalisation: gives the channels of a tensor like ranges without changing what the network computes.

INT8 has one scale for a whole activation tensor, so a channel whose values are a hundredth of the largest gets one or
two steps. Where the operators between two layers are positively homogeneous, f(s x) = s f(x) for s > 0, channel c of
the first layer's output can be multiplied by s_c and the second layer's weights of that channel divided by it.
Method: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019), here with measured
activation maxima instead of weight ranges, and over whole classes of tensors that must share their scales: all writers
and readers of a residual stream at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeface.engines.graph import Graph, attribute, is_depthwise, output_axis

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from edgeface.engines.graph import Array

#: Operators that keep channels apart and are positively homogeneous, so scales pass through them.
HOMOGENEOUS = frozenset(
    ["Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Identity", "Dropout"]
)
#: A channel is scaled up by no more than this: beyond it, it is noise.
MOST = 1e3


@dataclass
class Stream:
    """Tensors whose channels must be scaled alike, with the layers that can absorb the scales.

    Attributes:
        tensors: names, in order.
        writers: layers whose output belongs to it. readers: layers that read it.
        clips: Clip(0, high) nodes inside it.
        frozen: why it cannot be scaled; empty where it can.
    """

    tensors: list[str] = field(default_factory=list)
    writers: list[onnx.NodeProto] = field(default_factory=list)
    readers: list[onnx.NodeProto] = field(default_factory=list)
    clips: list[onnx.NodeProto] = field(default_factory=list)
    frozen: str = ""


def streams(graph: Graph) -> list[Stream]:
    """The streams of a graph, in order of their first tensor."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for node in graph.nodes:
        for name in _linked(graph, node):
            parent[find(name)] = find(node.output[0])
    found: dict[str, Stream] = {}
    names = [graph.input_name, *(name for node in graph.nodes for name in node.output if name)]
    for name in names:
        found.setdefault(find(name), Stream()).tensors.append(name)

    def stream(name: str) -> Stream:
        return found[find(name)]

    stream(graph.input_name).frozen = "input of the network"
    for name in graph.output_names:
        stream(name).frozen = "output of the network"
    for node in graph.nodes:
        if _linked(graph, node):
            if node.op_type == "Clip":
                stream(node.output[0]).clips.append(node)
            continue
        if _absorbs_output(graph, node):
            stream(node.output[0]).writers.append(node)
        else:
            for name in node.output:
                if name:
                    stream(name).frozen = stream(name).frozen or f"made by {node.op_type} {node.name}"
        if _absorbs_input(graph, node):
            stream(node.input[0]).readers.append(node)
        else:
            for name in node.input:
                if name and name not in graph.constants:
                    stream(name).frozen = stream(name).frozen or f"read by {node.op_type} {node.name}"
    return list(found.values())


def _linked(graph: Graph, node: onnx.NodeProto) -> list[str]:
    """Computed inputs that must be scaled like the node's output; empty where scales do not pass."""
    computed = [name for name in node.input if name and name not in graph.constants]
    if node.op_type in ("Add", "Sum") and len(computed) == len(node.input):
        return computed
    if node.op_type == "PRelu":
        slope = graph.constants.get(node.input[1])
        return [node.input[0]] if slope is not None else []
    if node.op_type == "Clip" and clip_high(graph, node) is not None:
        return [node.input[0]]
    return [node.input[0]] if node.op_type in HOMOGENEOUS and computed == [node.input[0]] else []


def clip_high(graph: Graph, node: onnx.NodeProto) -> float | None:
    """The upper bound of a Clip from 0, such as ReLU6's; None for any other Clip."""
    bounds = [graph.constants.get(name) if name else None for name in node.input[1:3]]
    if len(bounds) != 2 or bounds[0] is None or bounds[1] is None or float(bounds[0]) != 0.0:
        return None
    return float(bounds[1])


def _absorbs_output(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type == "Conv":
        return _constant(graph, node, 1) and _constant(graph, node, 2)
    return False


def _absorbs_input(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type == "Conv":
        return node.input[0] not in graph.constants and _constant(graph, node, 1)
    return node.op_type == "Flatten" and _behind_flatten(graph, node) is not None


def _constant(graph: Graph, node: onnx.NodeProto, position: int) -> bool:
    return len(node.input) <= position or not node.input[position] or node.input[position] in graph.constants


def _behind_flatten(graph: Graph, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The one Gemm behind a Flatten, which can absorb scales per channel into its columns."""
    after = graph.readers(node.output[0])
    if attribute(node, "axis", 1) != 1 or len(after) != 1 or graph.is_output(node.output[0]):
        return None
    gemm = after[0]
    fits = gemm.op_type == "Gemm" and gemm.input[0] == node.output[0] and not attribute(gemm, "transA", 0)
    return gemm if fits and gemm.input[1] in graph.constants else None


def equalize(
    graph: Graph, maxima: Mapping[str, Array], *, strength: float = 0.8, bound_clips: bool = True
) -> tuple[Graph, dict[str, Array]]:
    """An equal network whose tensors have channels of like ranges.

    Args:
        graph: a prepared network.
        maxima: largest magnitude per channel of every tensor that a layer reads, from calibration.
        strength: 0 leaves a channel as it is, 1 brings it up to the tensor's maximum. Depthwise readers, whose weights
            have a scale per channel anyway, get 1.
        bound_clips: rewrite a Clip as Relu and a Min per channel, which stays exact; without it streams with a Clip
            are left alone.

    Returns:
        The network, and the factor per channel by which each tensor was scaled.
    """
    graph = graph.copy()
    factors: dict[str, Array] = {}
    for stream in streams(graph):
        if stream.frozen or not stream.readers or not stream.writers or (stream.clips and not bound_clips):
            continue
        factor = _factor(graph, stream, maxima, strength)
        if factor is None:
            continue
        for node in stream.writers:
            _scale_output(graph, node, factor)
        for node in stream.readers:
            _scale_input(graph, node, factor)
        for node in stream.clips:
            _bound(graph, node, factor)
        factors.update(dict.fromkeys(stream.tensors, factor))
    return graph, factors


def _factor(graph: Graph, stream: Stream, maxima: Mapping[str, Array], strength: float) -> Array | None:
    read = list(dict.fromkeys(node.input[0] for node in stream.readers))
    if any(name not in maxima for name in read):
        return None
    ratios = np.stack([maxima[name] / max(float(maxima[name].max()), 1e-30) for name in read]).max(axis=0)
    depthwise = all(
        node.op_type == "Conv" and is_depthwise(node, graph.constants[node.input[1]]) for node in stream.readers
    )
    exponent = 1.0 if depthwise else strength
    factor = np.minimum(np.maximum(ratios, 1e-30) ** -exponent, MOST)
    factor[ratios < 1e-6] = 1.0  # a dead channel stays dead
    return np.asarray(factor, np.float64)


def _scale_output(graph: Graph, node: onnx.NodeProto, factor: Array) -> None:
    for position in (1, 2):
        if position < len(node.input) and node.input[position]:
            value = graph.constants[node.input[position]]
            shaped = factor.reshape(-1, *[1] * (value.ndim - 1))
            graph.own_constant(node, position, (value.astype(np.float64) * shaped).astype(value.dtype))


def _scale_input(graph: Graph, node: onnx.NodeProto, factor: Array) -> None:
    target = _behind_flatten(graph, node) if node.op_type == "Flatten" else node
    assert target is not None
    weight = graph.constants[target.input[1]]
    wide = weight.astype(np.float64)
    if target.op_type == "Gemm":
        axis = output_axis(target)
        rows = np.moveaxis(wide, axis, 0)
        result = np.moveaxis(rows / np.repeat(factor, rows.shape[1] // len(factor)), 0, axis)
    else:
        group = attribute(target, "group", 1)
        grouped = wide.reshape(group, wide.shape[0] // group, *wide.shape[1:])
        shaped = factor.reshape(group, 1, wide.shape[1], *[1] * (wide.ndim - 2))
        result = (grouped / shaped).reshape(wide.shape)
    graph.own_constant(target, 1, np.ascontiguousarray(result).astype(weight.dtype))


def _bound(graph: Graph, node: onnx.NodeProto, factor: Array) -> None:
    """Clip(0, high) of a scaled channel is Relu, then Min with that channel's own bound."""
    from onnx import helper

    high = clip_high(graph, node)
    assert high is not None
    bound = (high * factor).astype(graph.constants[node.input[2]].dtype).reshape(1, -1, 1, 1)
    middle = graph.fresh(f"{node.output[0]}.relu")
    relu = helper.make_node("Relu", [node.input[0]], [middle], name=f"{node.name}.relu")
    least = helper.make_node(
        "Min", [middle, graph.add_constant(f"{node.output[0]}.bound", bound)], [node.output[0]], name=node.name
    )
    graph.insert_after(node, [relu, least])
    graph.nodes = [other for other in graph.nodes if other is not node]
