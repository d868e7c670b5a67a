"""Makes the ONNX file of an INT8 network small: what can be said shorter or left out by the standard is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from edgeface.engines import qdq
from edgeface.engines.graph import WEIGHTED, attribute

if TYPE_CHECKING:
    from edgeface.engines.graph import Graph

#: Attributes of a convolution and what they are where they are not written (ONNX specification of Conv).
DEFAULTS = {"group": 1, "dilations": 1, "strides": 1, "pads": 0}
#: Bytes of a Cast in the file: below twice as much, numbers are shorter in FP32.
CAST_BYTES = 32


def pack(graph: Graph) -> Graph:
    """A copy for the file: it computes the same, but what is left of weights and biases in float is rounded to FP16.

    FP16 is what a strongly typed engine gives them anyway (`halve`). A network without INT8 layers keeps its numbers.
    Zero points stay, although the standard lets them out: onnxruntime 1.32 takes one that is left out for an unsigned
    one where it moves a pair through a Reshape or Transpose, as it does around a MatMul of tokens, and on x86 it
    rewrites each of those of weights and fails where one is shared or left out.
    """
    graph = graph.copy()
    layers = qdq.int8_layers(graph)
    for node in graph.nodes:
        if node.op_type == "Conv":
            for name, usual in DEFAULTS.items():
                if np.all(np.asarray(attribute(node, name, usual)) == usual):
                    kept = [item for item in node.attribute if item.name != name]
                    del node.attribute[:]
                    node.attribute.extend(kept)
    for name in dict.fromkeys(name for node in graph.nodes if node.op_type in WEIGHTED for name in node.input[1:]):
        if layers:
            _halve(graph, name)
    graph.shorten()
    return graph


def _halve(graph: Graph, name: str) -> None:
    value = graph.constants.get(name)
    if value is None or value.dtype != np.float32 or value.nbytes <= 2 * CAST_BYTES:
        return
    half = value.astype(np.float16)
    if not np.isfinite(half).all():
        return
    wide = graph.fresh(f"{name}.wide")
    graph.rewire(name, wide)
    graph.constants[name] = half
    cast = helper.make_node("Cast", [name], [wide], name=wide, to=onnx.TensorProto.FLOAT)
    graph.insert_after(None, [cast])
