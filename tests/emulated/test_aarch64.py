"""An edgeface for aarch64, under qemu, gives the answers of this machine's. `.ci/aarch64` makes it and runs this.

Floating-point sums have another order there, in onnxruntime and in numpy; the bounds are for that and nothing more.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface import Detector, align_faces, load_engine
from edgeface.engines import models
from edgeface.engines.intake import read_network
from edgeface.engines.pictures import Inputs
from edgeface.engines.prepare import prepare
from edgeface.engines.quantize import quantize
from edgeface.engines.recipe import load_recipe
from edgeface.home import VARIABLE
from edgeface.manifest import read_manifest

if TYPE_CHECKING:
    from edgeface.types import ByteArray

EMULATED = os.environ.get("EDGEFACE_TEST_AARCH64", "")
pytestmark = pytest.mark.skipif(
    not EMULATED, reason="EDGEFACE_TEST_AARCH64 names no Python for aarch64; .ci/aarch64 makes one"
)


def run(python: str, home: Path, folder: Path, *words: str | Path) -> Any:
    """What a Python script prints as JSON; in an empty folder, so that the installed package is the one that runs."""
    done = subprocess.run(
        [python, *map(str, words)],
        env={**os.environ, VARIABLE: str(home), "PIP_NO_INDEX": "1"},
        cwd=folder, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def home(model_home: Path, photos: dict[str, ByteArray]) -> Path:
    """The default models, and an INT8 SFace calibrated on the demo: a poor model, but INT8's own arithmetic."""
    folder, recipe = model_home / "models", load_recipe("sface")
    detector = Detector(load_engine(folder / "yunet.fp32.onnx"))
    crops = np.concatenate([align_faces(photo, detector.detect(photo).landmarks) for photo in photos.values()])
    network = prepare(read_network(models.load_stored(recipe), recipe))
    made = quantize(network, Inputs(crops, recipe.preprocessing), lambda reference, found: 0.0, recipe=recipe)
    content = made.graph.to_bytes()
    file = folder / "sface.int8.onnx"
    file.write_bytes(content)
    manifest = replace(
        read_manifest(folder / "sface.fp32.onnx"),
        file=file.name, precision="int8", model_id=recipe.model_id("int8"),
        sha256=hashlib.sha256(content).hexdigest(), size=len(content),
    )  # fmt: skip
    file.with_name(f"{file.name}.json").write_text(manifest.to_json())
    return model_home


@pytest.fixture(scope="module")
def answers(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The emulated answers, and those of here."""
    folder, script = tmp_path_factory.mktemp("answers"), Path(__file__).with_name("answers.py")
    return run(EMULATED, home, folder, script), run(sys.executable, home, folder, script)


def test_the_native_module_is_of_aarch64_with_its_dot_products(answers: tuple[dict[str, Any], dict[str, Any]]) -> None:
    there, _ = answers
    assert there["machine"] == "aarch64"
    assert there["instructions"] == "dotprod"
    assert there["native"].endswith("-aarch64-linux-gnu.so")


def test_faces_and_templates_are_the_same(answers: tuple[dict[str, Any], dict[str, Any]]) -> None:
    there, here = (side["photos"] for side in answers)
    assert there.keys() == here.keys()
    assert len(here) == 6
    for name, ours in here.items():
        theirs = there[name]
        for part, bound in (("boxes", 0.05), ("landmarks", 0.05), ("scores", 1e-3)):  # px, px, share
            np.testing.assert_allclose(theirs[part], ours[part], rtol=0, atol=bound, err_msg=f"{name}: {part}")
        assert theirs["templates"].keys() == ours["templates"].keys()
        for form, templates in ours["templates"].items():
            assert len(templates) == 1
            cosine = np.sum(np.multiply(theirs["templates"][form], templates))
            print(f"{name}, {form}: cosine {cosine:.7f}")
            # INT8 rounds: what lies between two steps falls to either side.
            assert cosine > {"fp32": 0.9999, "int8": 0.999}[form], name
    assert sum("int8" in photo["templates"] for photo in here.values()) == 2


def test_the_demo_decides_the_same(model_home: Path, tmp_path: Path) -> None:
    words = ("-m", "edgeface.tools", "demo", "--json", "--threads", "1", "--out", "demo.jpg")
    there, here = (run(python, model_home, tmp_path, *words)["rows"] for python in (EMULATED, sys.executable))
    assert [row["name"] for row in here] == ["Emmanuel Macron", "Jacinda Ardern", "unknown", "unknown"]
    for key in ("photo", "face", "name", "decision"):
        assert [row[key] for row in there] == [row[key] for row in here]
    # Templates are stored as int8: one step of one component moves a similarity by about 0.001.
    np.testing.assert_allclose([row["similarity"] for row in there], [row["similarity"] for row in here], atol=2e-3)
