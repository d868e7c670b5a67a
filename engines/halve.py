"""Casts the float part of a network to FP16, for strongly typed engines: precision then lives in the ONNX file.

Inputs and outputs of the network stay float32, with a Cast behind and before them. INT8 layers keep their integers:
their scales were chosen among the numbers that float16 holds exactly (`qdq.round_scale`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeface.engines.graph import attribute
from edgeface.errors import BuildError

if TYPE_CHECKING:
    from edgeface.engines.graph import Graph

LARGEST = 65504.0
#: Inputs of operators that must stay float32 whatever the data is (the ONNX specification of each operator).
FLOAT32_INPUTS = {"Resize": (1, 2), "Upsample": (1,), "Dropout": (1,)}


def halve(graph: Graph) -> Graph:
    """A copy of the network that computes in FP16 (and INT8 where it did) between its float32 inputs and outputs.

    Raises:
        BuildError: a weight is too large for FP16.
    """
    graph = graph.copy()
    keep = {
        node.input[at]
        for node in graph.nodes
        for at in FLOAT32_INPUTS.get(node.op_type, ())
        if at < len(node.input) and node.input[at]
    }
    for name, value in list(graph.constants.items()):
        if value.dtype != np.float32 or name in keep:
            continue
        largest = float(np.abs(value[np.isfinite(value)]).max(initial=0.0))
        if largest > LARGEST:
            raise BuildError(
                f"constant {name!r} reaches {largest:.4g}: FP16 holds {LARGEST:.0f} at most; use --precision fp32"
            )
        graph.constants[name] = value.astype(np.float16)
    for node in graph.nodes:
        for item in node.attribute:
            if node.op_type == "Cast" and item.name == "to" and item.i == onnx.TensorProto.FLOAT:
                item.i = onnx.TensorProto.FLOAT16
        if node.op_type == "ConstantOfShape":
            _halve_fill(node)
    name = graph.input_name
    inside = graph.fresh(f"{name}.half")
    graph.rewire(name, inside)
    cast = helper.make_node("Cast", [name], [inside], name=inside, to=onnx.TensorProto.FLOAT16)
    graph.insert_after(None, [cast])
    for output in graph.output_names:
        inside = graph.fresh(f"{output}.half")
        maker = graph.producer(output)
        assert maker is not None, "held at intake"
        maker.output[list(maker.output).index(output)] = inside
        graph.rewire(output, inside)
        back = helper.make_node("Cast", [inside], [output], name=f"{output}.float", to=onnx.TensorProto.FLOAT)
        graph.insert_after(graph.nodes[-1], [back])
    return graph


def _halve_fill(node: onnx.NodeProto) -> None:
    """The value that a ConstantOfShape fills its tensor with; 0 in float32 where none is written."""
    given = attribute(node, "value", None)
    value = np.zeros(1, np.float32) if given is None else numpy_helper.to_array(given)
    if value.dtype == np.float32:
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(value.astype(np.float16))))
