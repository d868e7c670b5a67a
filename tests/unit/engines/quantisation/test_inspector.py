"""Plans' layers as the engine inspector tells them, written by hand after NVIDIA's documentation of 10.x and 11.x."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeface.engines.inspector import off_plan, read_layers

INT8 = "Thirty-two wide channel vectorized row major Int8 format"
UNCHECKED = "precisions of layers were not checked: the engine inspector"
HALF = "Channel major FP16 format where channel % 8 == 0"


def typed() -> bytes:
    """A strongly typed network: conv_0 in INT8, conv_1 in FP16."""
    scale = numpy_helper.from_array(np.array(0.1, np.float16), "s")
    zero = numpy_helper.from_array(np.array(0, np.int8), "z")
    kind = onnx.TensorProto.FLOAT16
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w0", "s", "z"], ["dw"]),
        helper.make_node("Conv", ["d", "dw"], ["c0"], "conv_0"),
        helper.make_node("Conv", ["c0", "w1"], ["y"], "conv_1"),
    ]
    weights = [
        numpy_helper.from_array(np.ones((4, 3, 1, 1), np.int8), "w0"),
        numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float16), "w1"),
    ]
    ends = [helper.make_tensor_value_info(name, kind, [1, c, 8, 8]) for name, c in (("x", 3), ("y", 4))]
    graph = helper.make_graph(nodes, "typed", ends[:1], ends[1:], [scale, zero, *weights])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]).SerializeToString())


def ten(
    name: str, given: str, *, kind: str = "CaskConvolution", metadata: str = "", weights: str = ""
) -> dict[str, Any]:
    """A layer in the words of TensorRT 10."""
    tensor = {"Name": "t", "Location": "Device", "Dimensions": [1, 4, 8, 8], "Format/Datatype": given}
    row = {"Name": name, "LayerType": kind, "Inputs": [tensor], "Outputs": [tensor], "Metadata": metadata}
    return {**row, "Weights": {"Type": weights, "Count": 16}} if weights else row


def eleven(name: str, given: str, *, metadata: str) -> dict[str, Any]:
    """The same in those of TensorRT 11, which splits format and type."""
    tensor = {"Name": "t", "Dimensions": [1, 4, 8, 8], "DataType": given, "Format": "Row major linear (kLINEAR)"}
    return {"Name": name, "LayerType": "gemm", "Inputs": [tensor], "Outputs": [tensor], "Metadata": metadata}


def say(*layers: Any, **more: Any) -> str:
    return json.dumps({"Layers": list(layers), **more})


FITS = {
    "10, metadata": say(
        ten("conv_0 + relu", INT8, metadata="[ONNX Layer: conv_0]\x1f[ONNX Layer: relu]", weights="Int8"),
        ten("conv_1", HALF, metadata="[ONNX Layer: conv_1]", weights="Half"),
        Bindings=["x", "y"],
    ),
    "10, names alone": say(ten("conv_0 + relu_3", INT8), ten("relu_4 + conv_1", HALF)),
    "10, one layer of both": say(
        ten("conv_0", INT8, metadata="[ONNX Layer: conv_0 | block (Function)]"),
        ten("Reformatting CopyNode for conv_1", INT8, kind="Reformat", metadata="[ONNX Layer: conv_1]"),
        ten("conv_1", HALF, metadata="[ONNX Layer: conv_1]"),
    ),
    "11": say(
        eleven("conv_0_myl0_1", "Int8", metadata="[ONNX Layer: conv_0]\x1e[ONNX Layer: relu]"),
        eleven("conv_1_myl0_2", "Half", metadata="[ONNX Layer: conv_1]"),
        **{"I/O Tensors": [{"Name": "x", "DataType": "Float"}]},
    ),
}


@pytest.mark.parametrize("text", FITS.values(), ids=FITS)
def test_layers_that_run_as_asked(text: str) -> None:
    found = read_layers(text)
    assert found.notes == []
    assert off_plan(typed(), found) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            say(ten("conv_0", "Row major linear FP32", metadata="[ONNX Layer: conv_0]"), ten("conv_1", HALF)),
            ["conv_0 was to run in int8, the plan runs it in fp32 (CaskConvolution 'conv_0')"],
        ),
        (
            say(ten("conv_0", INT8), ten("conv_1 + relu", "Row major linear FP32")),
            ["conv_1 was to run in fp16, the plan runs it in fp32 (CaskConvolution 'conv_1 + relu')"],
        ),
        (
            say(eleven("a", "Half", metadata="[ONNX Layer: conv_0]"),
                eleven("b", "Half", metadata="[ONNX Layer: conv_1]")),
            ["conv_0 was to run in int8, the plan runs it in fp16 (gemm 'a')"],
        ),
        (  # INT8 weights that are widened before they are used
            say(ten("conv_0", HALF, weights="Int8"), ten("conv_1", HALF)),
            ["conv_0 was to run in int8, the plan runs it in fp16 (CaskConvolution 'conv_0')"],
        ),
        (
            say(ten("{ForeignNode[conv_0...conv_1]}", INT8, kind="Myelin",
                    metadata="[ONNX Layer: conv_0]\x1f[ONNX Layer: conv_1]")),
            ["the inspector does not tell the precision of 2 layers: conv_0, conv_1"],
        ),
        (say(ten("conv_0", INT8)), ["the inspector does not tell the precision of 1 layers: conv_1"]),
        (
            say(ten("conv_0", "Row major linear FP12"), ten("conv_1", HALF)),
            ["the engine inspector's word for a type is not known: 'Row major linear FP12'",
             "the inspector does not tell the precision of 1 layers: conv_0"],
        ),
        (
            say("conv_0", "conv_1"),  # built without detailed profiling
            [f"{UNCHECKED} tells no details of 2 layers"],
        ),
        ("[1]", [f"{UNCHECKED}'s answer has no list of Layers (it has list)"]),
        ('{"Graph": []}', [f"{UNCHECKED}'s answer has no list of Layers (it has Graph)"]),
        (say(), ["precisions of layers were not checked: the inspector names none"]),
    ],
)  # fmt: skip
def test_what_is_off_the_plan_or_not_understood_is_said(text: str, said: list[str]) -> None:
    assert off_plan(typed(), read_layers(text)) == said


def test_an_answer_that_is_no_json() -> None:
    (note,) = off_plan(typed(), read_layers("Layer(Convolution): conv_0"))
    assert note.startswith("precisions of layers were not checked: the engine inspector's answer is no JSON (")


def test_layers_on_dla() -> None:
    text = say(
        ten("{ForeignNode[conv_0...relu]}", INT8, kind="DLA", metadata="[ONNX Layer: conv_0]\x1f[ONNX Layer: relu]"),
        ten("{ForeignNode[a...b]}", INT8, kind="DLA"),
        ten("conv_1", HALF),
    )
    assert read_layers(text).on_dla == ["conv_0", "relu", "{ForeignNode[a...b]}"]


@pytest.mark.parametrize("row", [{}, {"Name": 3}, None, {"Name": "a", "Inputs": 3, "Weights": 4, "Metadata": 5}])
def test_rows_of_other_shapes_do_no_harm(row: Any) -> None:
    assert off_plan(typed(), read_layers(say(row))) != []
