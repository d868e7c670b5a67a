"""Makes the ONNX file of an INT8 network small: what can be said shorter or left out by the standard is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from edgeface.engines import qdq
from edgeface.engines.graph import attribute

if TYPE_CHECKING:
    from edgeface.engines.graph import Graph

#: Attributes of a convolution and what they are where they are not written (ONNX specification of Conv).
DEFAULTS = {"group": 1, "dilations": 1, "strides": 1, "pads": 0}
#: Bytes of a Cast in the file: fewer biases than this over two are shorter in FP32.
CAST_BYTES = 32


def pack(graph: Graph) -> Graph:
    """A copy for the file: it computes the same, but the biases of INT8 layers are rounded to FP16.

    FP16 is what a strongly typed engine gives these biases anyway (`halve`); of a small file they are a twentieth.
    Zero points of weights stay: onnxruntime 1.32 on x86 rewrites each of them and fails where one is
    shared or left out, although the standard allows both.
    """
    graph = graph.copy()
    layers = set(qdq.int8_layers(graph))
    for node in graph.nodes:
        if node.op_type == "Conv":
            for name, usual in DEFAULTS.items():
                if np.all(np.asarray(attribute(node, name, usual)) == usual):
                    kept = [item for item in node.attribute if item.name != name]
                    del node.attribute[:]
                    node.attribute.extend(kept)
        if node.op_type == "DequantizeLinear" and node.input[0] not in graph.constants:
            del node.input[2:]  # int8 0 by the standard
        if node.name in layers:
            _halve_bias(graph, node)
    graph.shorten()
    return graph


def _halve_bias(graph: Graph, node: onnx.NodeProto) -> None:
    name = node.input[2] if len(node.input) > 2 else ""
    bias = graph.constants.get(name)
    if bias is None or bias.dtype != np.float32 or bias.nbytes <= 2 * CAST_BYTES or len(graph.readers(name)) > 1:
        return
    half = bias.astype(np.float16)
    if not np.isfinite(half).all():
        return
    wide = graph.fresh(f"{name}.wide")
    graph.constants[name] = half
    node.input[2] = wide
    cast = helper.make_node("Cast", [name], [wide], name=wide, to=onnx.TensorProto.FLOAT)
    graph.insert_after(None, [cast])
