"""Folding packed weights: the same numbers out, a free batch, and no network but the one that the recipe describes."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeface.engines.fold import fold
from edgeface.engines.recipe import load_recipe
from edgeface.errors import MissingDependencyError, ModelError
from edgeface.home import model_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run(content: bytes, tensor: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: tensor})[0]


def test_the_folded_network_gives_the_same_numbers_for_any_batch(published: Any) -> None:
    folded = fold(published.content, published.recipe)
    pictures = np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype(np.float32)
    expected = np.einsum("nchw,ochw->no", pictures, published.weights)
    assert np.allclose(run(folded, pictures), expected, atol=1e-4)
    assert np.allclose(run(published.content, pictures[:1]), expected[:1], atol=1e-4)


def test_the_folded_file_is_plain_and_always_the_same(published: Any) -> None:
    folded = fold(published.content, published.recipe)
    assert folded == fold(published.content, published.recipe)
    model = onnx.load_model_from_string(folded)
    assert [node.op_type for node in model.graph.node] == ["Conv", "Reshape"]
    assert {item.name for item in model.graph.initializer} == {"weights", "flat"}  # nothing that nobody reads
    assert [item.name for item in model.graph.input] == ["data"]
    assert not model.graph.value_info


def test_a_fixed_batch_stays_fixed(published: Any) -> None:
    folded = onnx.load_model_from_string(fold(published.content, replace(published.recipe, max_batch=1)))
    assert folded.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    with pytest.raises(ModelError, match="the recipe says batch 4, the file has 1"):
        fold(published.content, replace(published.recipe, max_batch=4))


def test_a_plain_model_stays_what_it_is(published: Any) -> None:
    once = fold(published.content, published.recipe)
    again = fold(once, published.recipe)
    picture = np.ones((2, 3, 8, 8), np.float32)
    assert np.array_equal(run(once, picture), run(again, picture))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input_name": "image"}, "expected one input named 'image', the file has ['data']"),
        ({"outputs": {"embedding": "fc1"}}, "the file has no output 'fc1', it has out"),
        ({"input_size": (112, 112)}, "expected an input of shape (N, 3, 112, 112)"),
        ({"dimension": 512}, "expected an output of shape (N, 512), the file has"),
    ],
)
def test_another_network_than_the_recipes_is_refused(changes: dict[str, Any], said: str, published: Any) -> None:
    with pytest.raises(ModelError, match="tones: " + re.escape(said)):
        fold(published.content, replace(published.recipe, **changes))


def broken(published: Any, change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.load_model_from_string(published.content)
    change(model)
    return bytes(model.SerializeToString())


def test_bytes_that_are_no_network_are_refused(published: Any) -> None:
    contents = [
        b"", b"not ONNX", published.content[:-40], b"\xff" * 100,
        broken(published, lambda model: model.graph.ClearField("node")),
        broken(published, lambda model: model.graph.node.pop(2)),
        broken(published, lambda model: model.graph.node.append(helper.make_node("Frobnicate", ["data"], ["x"]))),
        broken(published, lambda model: model.ClearField("opset_import")),
        # Unpacking that cannot be evaluated: a scale of another length.
        broken(published, lambda model: model.graph.initializer[1].CopyFrom(
            helper.make_tensor("scale", TensorProto.FLOAT, [3], [1, 2, 3]))),
        # 256 weights into 8 x 3 x 8 x 9
        broken(published, lambda model: model.graph.initializer[3].CopyFrom(
            helper.make_tensor("shape", TensorProto.INT64, [4], [8, 3, 8, 9]))),
    ]  # fmt: skip
    for content in contents:
        with pytest.raises(ModelError, match=r"^tones: "):
            fold(content, published.recipe)


def test_weights_in_other_files_are_refused(published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would come from outside the pinned bytes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere.bin").write_bytes(bytes(8 * 3 * 8 * 8))

    def move_out(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "elsewhere.bin"

    for there in (True, False):
        with pytest.raises(ModelError, match=r"'packed' lies in another file \('elsewhere\.bin'\).*one file: onnx"):
            fold(broken(published, move_out), published.recipe)
        if there:
            (tmp_path / "elsewhere.bin").unlink()


def plain(published: Any, nodes: list[onnx.NodeProto], **constants: Any) -> onnx.ModelProto:
    """The made-up network without packing: one convolution, whose (N, 8, 1, 1) cells the nodes bring to the output."""
    conv = helper.make_node("Conv", ["data", "weights"], ["cells"], name="conv")
    graph = helper.make_graph(
        [conv, *nodes], "tones",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(np.asarray(value), name)
         for name, value in {"weights": published.weights, **constants}.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


FLATTEN = helper.make_node("Flatten", ["cells"], ["out"])


def test_weights_that_are_kept_in_half_precision_are_unpacked(published: Any) -> None:
    unpack = helper.make_node("Cast", ["half"], ["weights"], to=TensorProto.FLOAT)
    model = plain(published, [FLATTEN], half=published.weights.astype(np.float16))
    model.graph.node.insert(0, unpack)
    del model.graph.initializer[0]
    folded = onnx.load_model_from_string(fold(model.SerializeToString(), published.recipe))
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Flatten"]
    assert folded.graph.initializer[0].data_type == TensorProto.FLOAT


def test_other_precisions_are_refused(published: Any) -> None:
    inside = plain(published, [FLATTEN], weights=published.weights.astype(np.float16))
    inside.graph.node[0].input[0], inside.graph.node[1].output[0] = "data16", "out16"
    inside.graph.node.insert(0, helper.make_node("Cast", ["data"], ["data16"], to=TensorProto.FLOAT16))
    inside.graph.node.append(helper.make_node("Cast", ["out16"], ["out"], to=TensorProto.FLOAT))
    with pytest.raises(ModelError, match="node 'conv' has weights in FLOAT16, expected FLOAT; export it in float32"):
        fold(inside.SerializeToString(), published.recipe)
    whole = plain(published, [FLATTEN], weights=published.weights.astype(np.float64))
    for item in (*whole.graph.input, *whole.graph.output):
        item.type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(ModelError, match="expected 'data' in FLOAT, the file has DOUBLE; export it in float32"):
        fold(whole.SerializeToString(), published.recipe)


def test_an_open_picture_size_becomes_the_recipes(published: Any) -> None:
    model = plain(published, [FLATTEN])
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], ("height", "width"), strict=True):
        dim.dim_param = name
    folded = onnx.load_model_from_string(fold(model.SerializeToString(), published.recipe))
    assert [dim.dim_value for dim in folded.graph.input[0].type.tensor_type.shape.dim[1:]] == [3, 8, 8]


def test_channels_that_stand_last_are_named(published: Any) -> None:
    model = plain(published, [FLATTEN])
    model.graph.node.insert(0, helper.make_node("Transpose", ["data"], ["planes"], perm=[0, 3, 1, 2]))
    model.graph.node[1].input[0] = "planes"
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], (8, 8, 3), strict=True):
        dim.dim_value = size
    with pytest.raises(ModelError, match=r"the file has \[0, 8, 8, 3\].*export it with them in front \(NCHW\)"):
        fold(model.SerializeToString(), published.recipe)


@pytest.mark.parametrize(
    ("node", "value", "said"),
    [
        (helper.make_node("Concat", ["flat", "more"], ["wide"], axis=1), np.ones((1, 1), np.float32), "op_type:Concat"),
        (helper.make_node("Reshape", ["flat", "more"], ["wide"]), np.array([1, -1]), ""),
        (helper.make_node("ReduceSum", ["flat", "more"], ["wide"]), np.array([0]), "output 'out' keeps 1 row"),
    ],
    ids=["joined with one row", "one row that is freed", "summed over the batch"],
)
def test_a_batch_that_is_fixed_inside_is_told_when_the_model_is_fetched(
    published: Any, node: onnx.NodeProto, value: Any, said: str
) -> None:
    flatten = helper.make_node("Flatten", ["cells"], ["flat"])
    gemm = helper.make_node("Slice", ["wide", "zero", "eight", "one"], ["out"])
    model = plain(
        published, [flatten, node, gemm], more=value, zero=np.array([0]), eight=np.array([8]), one=np.array([1])
    )
    content = model.SerializeToString()
    if not said:
        assert fold(content, published.recipe)
        return
    with pytest.raises(ModelError, match=rf"does not take two pictures: .*{re.escape(said)}.*batch = 1"):
        fold(content, published.recipe)
    fold(content, replace(published.recipe, max_batch=1))


def test_outputs_of_any_rank_are_no_crash(published: Any) -> None:
    """A second output that nobody asked for, such as one number, and one without a shape to free."""
    model = plain(published, [FLATTEN, helper.make_node("ReduceMax", ["cells"], ["peak"], keepdims=0)])
    model.graph.output.append(helper.make_tensor_value_info("peak", TensorProto.FLOAT, []))
    assert fold(model.SerializeToString(), published.recipe)
    with pytest.raises(ModelError, match="expected an output of shape"):
        fold(model.SerializeToString(), replace(published.recipe, outputs={"embedding": "peak"}))


def test_without_onnx_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "edgeface.engines.fold")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[build\]'` in edgeface's folder"):
        __import__("edgeface.engines.fold")


def test_the_default_models_take_any_batch_and_size(with_models: Path) -> None:
    random = np.random.default_rng(2)
    faces = random.uniform(0, 255, (3, 3, 112, 112)).astype(np.float32)
    sface = model_path("sface").read_bytes()
    together = run(sface, faces)
    assert together.shape == (3, 128)
    assert np.allclose(together, np.concatenate([run(sface, faces[i : i + 1]) for i in range(3)]), atol=1e-3)
    yunet = model_path("yunet").read_bytes()
    for height, width in ((32, 32), (96, 640), (640, 32)):
        assert run(yunet, np.zeros((1, 3, height, width), np.float32)).shape[1] == height * width // 64
    assert load_recipe("sface").max_batch is None
