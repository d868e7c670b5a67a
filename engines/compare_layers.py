"""Layers of two networks: which belongs to which, and which feeds which."""

from __future__ import annotations

from dataclasses import dataclass

from edgeface.engines import qdq
from edgeface.engines.graph import WEIGHTED, Graph
from edgeface.errors import ModelError

#: What may stand between stored weights and the layer that multiplies with them.
ON_WEIGHTS = ("DequantizeLinear", "QuantizeLinear", "Cast")


@dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
        name, operator: of the node. weights: their shape.
        reads, writes: names of its tensors; what it reads is dequantised already.
        precision: ``int8``, or how the weights are stored: ``fp16`` or ``fp32``.
    """

    name: str
    operator: str
    weights: tuple[int, ...]
    reads: str
    writes: str
    precision: str

    @property
    def shape(self) -> tuple[object, ...]:
        """What a layer keeps when a network is quantised: a Gemm may become a MatMul of the transposed weights."""
        return ("Conv", *self.weights) if self.operator == "Conv" else ("linear", *sorted(self.weights))

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {'x'.join(map(str, self.weights))})"


def layers_of(graph: Graph) -> list[Layer]:
    """The layers of a network in float or with Q/DQ, in order."""
    before = {node.output[0]: node.input[0] for node in graph.nodes if node.op_type in ON_WEIGHTS}
    int8 = set(qdq.int8_layers(graph))
    found = []
    for node in graph.nodes:
        if node.op_type not in WEIGHTED or node.input[0] in graph.constants:
            continue
        name = node.input[1]
        while name in before:
            name = before[name]
        weight = graph.constants.get(name)
        if weight is not None:
            kind = "int8" if node.name in int8 else {"float16": "fp16"}.get(str(weight.dtype), "fp32")
            shape = tuple(weight.shape)
            found.append(Layer(node.name, node.op_type, shape, node.input[0], node.output[0], kind))
    return found


def match(a: list[Layer], b: list[Layer]) -> tuple[list[tuple[Layer, Layer]], str]:
    """Pairs of layers in the order of the first network, and by what they were matched: ``name`` or ``order``.

    `edgeface build` keeps the names of layers. Files of other tools may not: then the layers must stand in the same
    order with weights of the same shapes.

    Raises:
        ModelError: these are two architectures; the message names the first layer that parts them.
    """
    if not a or not b:
        raise ModelError("no Conv, Gemm or MatMul with constant weights in one of the networks: nothing to compare")
    named = {layer.name: layer for layer in b}
    pairs = [(layer, named[layer.name]) for layer in a if layer.name in named]
    if len(pairs) == len(a) == len(b) and all(one.shape == other.shape for one, other in pairs):
        return pairs, "name"
    for number, (one, other) in enumerate(zip(a, b, strict=False), 1):
        if one.shape != other.shape:
            raise ModelError(
                f"different architectures: layer {number} is {one} in A and {other} in B ({len(a)} and {len(b)} "
                "layers); give two versions of one network"
            )
    if len(a) != len(b):
        extra = a[len(b)] if len(a) > len(b) else b[len(a)]
        raise ModelError(
            f"different architectures: {len(a)} layers in A and {len(b)} in B, the first without a counterpart is "
            f"{extra}; give two versions of one network"
        )
    return list(zip(a, b, strict=True)), "order"


def writers(graph: Graph, layers: list[Layer], tensor: str) -> list[str]:
    """The layers whose outputs reach a tensor through other operators alone."""
    makers = {name: node for node in graph.nodes for name in node.output}
    written = {layer.writes: layer.name for layer in layers}
    stack, seen, found = [tensor], set[str](), []
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in written:
            found.append(written[name])
        elif name in makers:
            stack += makers[name].input
    return found
