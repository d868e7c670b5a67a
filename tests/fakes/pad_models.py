"""Tiny networks that tell pictures apart by what is in them, in the place of a customer's liveness model.

They detect no attacks: they are there so that scores are really computed, by onnxruntime, from the pixels.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path


def network(nodes: list[Any], constants: dict[str, Any], columns: int, size_px: int) -> bytes:
    graph = helper.make_graph(
        nodes, "pad",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, size_px, size_px])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", columns])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def brightness(middle: float = 127.5, slope: float = 0.1, size_px: int = 32) -> bytes:
    """Logits of (dark, bright): bright is more likely from the mean grey level `middle` on."""
    weights = np.array([[-slope, slope]] * 3, np.float32) / 6  # a mean of three channels, half on each side
    bias = np.array([slope, -slope], np.float32) * np.float32(middle / 2)
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["levels"]),
        helper.make_node("Flatten", ["levels"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["out"]),
    ]
    return network(nodes, {"weights": weights, "bias": bias}, 2, size_px)


def detail(middle: float, slope: float, size_px: int = 64) -> bytes:
    """The probability that a picture is sharp: a sigmoid of the logarithm of its Laplacian's mean square."""
    kernel = np.zeros((1, 3, 3, 3), np.float32)
    kernel[0, :] = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32) / 3
    nodes = [
        helper.make_node("Conv", ["data", "kernel"], ["edges"]),
        helper.make_node("Mul", ["edges", "edges"], ["squares"]),
        helper.make_node("GlobalAveragePool", ["squares"], ["energy"]),
        helper.make_node("Flatten", ["energy"], ["flat"]),
        helper.make_node("Add", ["flat", "one"], ["raised"]),
        helper.make_node("Log", ["raised"], ["log"]),
        helper.make_node("Sub", ["log", "middle"], ["away"]),
        helper.make_node("Mul", ["away", "slope"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["out"]),
    ]
    constants = {
        "kernel": kernel,
        "one": np.float32(1),
        "middle": np.array(middle, np.float32),
        "slope": np.array(slope, np.float32),
    }
    return network(nodes, constants, 1, size_px)


def write_recipe(folder: Path, content: bytes, *, name: str = "pad", size_px: int, liveness: str) -> Path:
    """The model file and its recipe, as a customer has them; returns the recipe. `liveness` is that table's text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.onnx").write_bytes(content)
    recipe = folder / f"{name}.toml"
    recipe.write_text(
        f'format = "edgeface-recipe"\nversion = 1\nname = "{name}"\nkind = "liveness"\nlicence = "ours"\n'
        f'[source]\nfile = "{name}.onnx"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n'
        f'[input]\nname = "data"\nsize = [{size_px}, {size_px}]\ncolor = "bgr"\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n'
        f'[output]\nscores = "out"\n[liveness]\n{liveness}\n[card]\nsummary = "A test."\n'
    )
    return recipe


BRIGHTNESS_TABLE = """crop = "square"
scale = 1.5
meaning = "logits"
classes = ["dark", "bright"]
live = "bright"
live_from = 0.8
spoof_below = 0.4"""
DETAIL_TABLE = """crop = "square"
scale = 1.5
meaning = "probability"
classes = ["blurred", "sharp"]
live = "sharp"
live_from = 0.6
spoof_below = 0.4"""
