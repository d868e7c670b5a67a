"""What is no network to quantise is refused, by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeface.engines.intake import read_network
from edgeface.engines.recipe import parse_recipe
from edgeface.errors import ModelError

if TYPE_CHECKING:
    from edgeface.engines.recipe import Recipe

RECIPE = """
format = "edgeface-recipe"
version = 1
name = "made"
kind = "embedder"
licence = "none"
source = { file = "made.onnx", sha256 = "%s" }
input = { name = "in", size = [16, 16], color = "rgb", mean = [0, 0, 0], std = [1, 1, 1] }
output = { embedding = "out", dimension = 4, template = "arcface" }
card = { summary = "made" }
""" % ("0" * 64)


@pytest.fixture
def recipe() -> Recipe:
    return parse_recipe(RECIPE, Path("made.toml"))


@pytest.fixture
def model(maker: Any) -> onnx.ModelProto:
    make = maker(size=16)
    made: onnx.ModelProto = make.model(make.conv("in", 3, 4))
    return made


def test_a_network_is_read(model: onnx.ModelProto, recipe: Recipe) -> None:
    graph = read_network(model.SerializeToString(), recipe)
    assert [node.op_type for node in graph.nodes] == ["Conv"]


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"GIF89a" * 50, b"PK\x03\x04" + b"x" * 64])
def test_no_onnx(content: bytes, recipe: Recipe) -> None:
    with pytest.raises(ModelError, match="made: not a"):
        read_network(content, recipe)


def test_every_cut_of_a_file_is_refused(model: onnx.ModelProto, recipe: Recipe) -> None:
    content = model.SerializeToString()
    for end in range(0, len(content) - 1, 7):
        with pytest.raises(ModelError):
            read_network(content[:end], recipe)


def test_weights_in_another_file(model: onnx.ModelProto, recipe: Recipe) -> None:
    item = model.graph.initializer[0]
    item.data_location = onnx.TensorProto.EXTERNAL
    item.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(ModelError, match=r"'\.\./\.\./etc/passwd'.*is not read"):
        read_network(model.SerializeToString(), recipe)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(maker: Any, recipe: Recipe, value: float) -> None:
    make = maker(size=16)
    x = make.conv("in", 3, 4)
    next(iter(make.constants.values()))[1, 2] = value
    with pytest.raises(ModelError, match=r"weight 'c0' has 1 NaN or infinite"):
        read_network(make.model(x).SerializeToString(), recipe)


def test_control_flow(model: onnx.ModelProto, recipe: Recipe) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("If", ["in"], ["y"], name="branch", then_branch=body, else_branch=body))
    with pytest.raises(ModelError, match="'branch' is If: control flow"):
        read_network(model.SerializeToString(), recipe)


def test_other_domains_and_opsets(model: onnx.ModelProto, recipe: Recipe) -> None:
    model.opset_import[0].version = 99
    with pytest.raises(ModelError, match="opset 99; expected 7 to 21"):
        read_network(model.SerializeToString(), recipe)
    model.opset_import[0].version = 18
    model.graph.node[0].domain = "com.example"
    with pytest.raises(ModelError, match=r"com\.example\.Conv; only standard ONNX"):
        read_network(model.SerializeToString(), recipe)


def test_what_is_quantised_already(model: onnx.ModelProto, recipe: Recipe) -> None:
    model.graph.node.append(helper.make_node("DequantizeLinear", ["q", "s"], ["y"], name="dq"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(2, np.int8), "q"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "s"))
    with pytest.raises(ModelError, match="already quantised"):
        read_network(model.SerializeToString(), recipe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m.graph.input[0], "name", "data"), "not a valid ONNX|expected one input named 'in'"),
        (lambda m: setattr(m.graph.output[0], "name", "x"), "not a valid ONNX|has no output 'out'"),
        (
            lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 32),
            r"the file has \(32, 16\)",
        ),
        (
            lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 1),
            r"expected an input of shape",
        ),
    ],
)
def test_another_network_than_the_recipes(model: onnx.ModelProto, recipe: Recipe, change: Any, message: str) -> None:
    change(model)
    with pytest.raises(ModelError, match=message):
        read_network(model.SerializeToString(), recipe)
