"""`edgeface inspect` on a stored model, on a damaged one and on one without a manifest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def test_a_stored_model(with_models: Path, cli: Any) -> None:
    model = with_models / "models" / "sface.fp32.onnx"
    ran = cli("inspect", model, "--json")
    assert ran.code == 0, ran.err
    shown = json.loads(ran.out)
    assert (shown["name"], shown["precision"], shown["dimension"]) == ("sface", "fp32", 128)
    assert len(shown["layers"]) == 28
    assert {row["precision"] for row in shown["layers"]} == {"fp32"}
    assert shown["layers"][-1] == {
        "layer": "pre_fc1", "operator": "Gemm", "precision": "fp32", "weights": 128 * 50176,
    }  # fmt: skip
    table = cli("inspect", model)
    assert table.code == 0
    for words in ("sface@", "source_sha256", "conv_1_conv2d", "any"):
        assert words in table.out


def test_what_cannot_be_shown(with_models: Path, cli: Any, tmp_path: Path) -> None:
    model = tmp_path / "yunet.fp32.onnx"
    shutil.copy(with_models / "models" / "yunet.fp32.onnx", model)
    ran = cli("inspect", model)
    assert ran.code == 1
    assert "no manifest beside the model" in ran.err
    shutil.copy(with_models / "models" / "yunet.fp32.onnx.json", f"{model}.json")
    assert cli("inspect", model).code == 0
    model.write_bytes(model.read_bytes()[:-1])
    ran = cli("inspect", model)
    assert ran.code == 1
    assert "expected" in ran.err
    assert "fetch or build it again" in ran.err


def test_a_package_that_is_not_installed_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['onnx'] = None\n")
    command = [sys.executable, "-m", "edgeface.tools.main", "compare", "sface", "sface", "--images", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    install = f"{sys.executable} -m pip install '.[build]'"
    assert ran.stderr == f"edgeface: this needs onnx; run `{install}` in edgeface's folder\n"
