"""A made-up embedder, a recipe for it and crops of made-up people: what a build needs, in seconds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeface.engines import models
from edgeface.engines.build import Options
from edgeface.engines.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from edgeface.engines.recipe import Recipe

SIDE = 32
PEOPLE, EACH = 40, 4


def embedder(crops: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """A random network with PReLU and depthwise layers, centred on what it sees so that people are told apart."""
    draw = np.random.default_rng(4)
    constants: dict[str, Any] = {}
    nodes: list[onnx.NodeProto] = []

    def conv(source: str, before: int, after: int, *, kernel: int, stride: int = 1, group: int = 1) -> str:
        weight = draw.normal(size=(after, before // group, kernel, kernel)) / np.sqrt(before // group * kernel**2)
        spread = np.exp(draw.normal(size=(after, 1, 1, 1)))  # channels as unlike as in a trained network
        index = len(nodes)
        constants[f"w{index}"], constants[f"b{index}"] = weight * spread, draw.normal(size=after) * 0.1
        constants[f"s{index}"] = draw.uniform(0.1, 0.4, size=(after, 1, 1))
        options: dict[str, Any] = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": group}
        nodes.append(
            helper.make_node("Conv", [source, f"w{index}", f"b{index}"], [f"c{index}"], f"conv_{index}", **options)
        )
        nodes.append(helper.make_node("PRelu", [f"c{index}", f"s{index}"], [f"x{index}"], f"prelu_{index}"))
        return f"x{index}"

    x = conv("in", 3, 12, kernel=3, stride=2)
    x = conv(x, 12, 12, kernel=3, group=12)
    x = conv(x, 12, 16, kernel=1, stride=2)
    x = conv(x, 16, 16, kernel=3, group=16)
    constants["fc"] = draw.normal(size=(32, 16 * 64)) / 32.0
    constants["bias"] = np.zeros(32)
    nodes.append(helper.make_node("Flatten", [x], ["flat"], "flatten"))
    nodes.append(helper.make_node("Gemm", ["flat", "fc", "bias"], ["out"], "gemm", transB=1))
    made = _model(nodes, constants)
    tensors = crops[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 64 - 2
    import onnxruntime

    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    constants["bias"] = -session.run(None, {"in": tensors})[0].mean(axis=0)
    return _model(nodes, constants)


def _model(nodes: list[onnx.NodeProto], constants: dict[str, Any]) -> onnx.ModelProto:
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("in", kind, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("out", kind, ["batch", 32])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return model


@dataclass(frozen=True)
class Bench:
    """A recipe with its model stored, and a folder of crops."""

    recipe: Recipe
    crops: Path
    options: Options


@pytest.fixture(scope="session")
def pixels() -> Any:
    """(people, each, H, W, 3): coarse random patterns, four shaky views of each."""
    draw = np.random.default_rng(0)
    views = []
    for _ in range(PEOPLE):
        pattern = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        base = cv2.resize(pattern, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float64)
        views.append([np.clip(base + draw.normal(0, 12, base.shape), 0, 255).astype(np.uint8) for _ in range(EACH)])
    return np.array(views)


@pytest.fixture
def bench(tmp_path: Path, pixels: Any, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("EDGEFACE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "crops"
    for person, views in enumerate(pixels):
        (folder / f"p{person:02d}").mkdir(parents=True)
        for number, view in enumerate(views, 1):
            encoded = cv2.imencode(".png", view)[1].tobytes()  # without loss, under the names of LFW's protocol
            (folder / f"p{person:02d}" / f"p{person:02d}_{number:04d}.jpg").write_bytes(encoded)
    content = embedder(pixels.reshape(-1, SIDE, SIDE, 3)).SerializeToString()
    (tmp_path / "made.onnx").write_bytes(content)
    (tmp_path / "made.toml").write_text(f"""
format = "edgeface-recipe"
version = 1
name = "made"
kind = "embedder"
licence = "none"
[source]
file = "made.onnx"
sha256 = "{hashlib.sha256(content).hexdigest()}"
[input]
name = "in"
size = [{SIDE}, {SIDE}]
color = "rgb"
mean = [128, 128, 128]
std = [64, 64, 64]
[output]
embedding = "out"
dimension = 32
template = "arcface"
[limits]
cosine_mean = 0.99
cosine_p1 = 0.98
tar_loss_1e4 = 0.05
cross_tar_loss_1e4 = 0.05
threshold_shift = 0.05
tar_loss_1e5 = 0.05
int8_share = 0.98
[card]
summary = "made for a test"
""")
    recipe = load_recipe(tmp_path / "made.toml")
    models.fetch(recipe)
    return Bench(recipe, folder, Options(calibration=folder, out=tmp_path / "out"))
