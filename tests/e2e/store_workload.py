"""Small engines that tell their version, for the tests that stop a build at every disk call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeface import load_engine
from edgeface.engines.recipe import load_recipe
from edgeface.engines.store import Artefact, make_manifest, store
from edgeface.manifest import ARCFACE_112, Manifest, Preprocessing, manifest_path

NAME = "sface.int8.onnx"
DOCUMENT: dict[str, Any] = {
    "recipe": "sface", "target": "onnxruntime", "precision": "int8", "passed": True, "findings": [], "float_layers": [],
    "attempts": [], "plans": [], "candidates": [], "int8_share": 1.0, "measured": "the ONNX network", "figures": {},
    "layers": [], "pictures": {}, "versions": {}, "reason": "",
}  # fmt: skip


def engine(version: int) -> Artefact:
    """A network that multiplies the means of the planes by its version."""
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["in"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("Mul", ["flat", "version"], ["out"]),
        ],
        "versioned",
        [helper.make_tensor_value_info("in", kind, ["batch", 3, 112, 112])],
        [helper.make_tensor_value_info("out", kind, ["batch", 3])],
        [numpy_helper.from_array(np.array(version, np.float32), "version")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    content = model.SerializeToString()
    base = Manifest(
        name="sface", model_id="sface@0/fp32", file="sface.fp32.onnx", sha256="0" * 64, size=1, kind="embedder",
        precision="fp32", runtime="onnxruntime", licence="none", source="a test", input_name="in",
        input_size=(112, 112), max_batch=None, preprocessing=Preprocessing("rgb"), outputs={"embedding": "out"},
        dimension=3, template=ARCFACE_112,
    )  # fmt: skip
    manifest = make_manifest(base, load_recipe("sface"), "int8", "onnxruntime", content, {"fingerprint": str(version)})
    return Artefact(content, manifest)


def write(folder: Path, version: int) -> None:
    """What a build does at its end."""
    store(folder, load_recipe("sface"), "int8", engine(version), DOCUMENT)


def write_plainly(folder: Path, version: int) -> None:
    """An engine as earlier versions wrote it: bytes under the plain name."""
    made = engine(version)
    (folder / NAME).write_bytes(made.content)
    text = made.manifest.to_json().replace(made.manifest.file, NAME)
    manifest_path(folder / NAME).write_text(text)


def version_of(folder: Path) -> int:
    """The version of the engine that the folder gives to firmware. Raises what `load_engine` raises."""
    with load_engine(folder / NAME, threads=1) as loaded:
        return int(loaded.run(np.ones((1, 3, 112, 112), np.float32))["embedding"][0, 0])


def engines_in(folder: Path) -> list[str]:
    """Every file that is no report, and no link: those the loader never follows."""
    return sorted(path.name for path in folder.iterdir() if ".report." not in path.name and not path.is_symlink())
