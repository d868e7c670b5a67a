"""What a command does before its models run: fetch what is absent and needed, and nothing else."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from edgeface.home import engine_path, model_path
from edgeface.manifest import check_file, manifest_path
from edgeface.tools import models
from edgeface.tools.session import fetch_if_default, open_recognizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeface.manifest import Manifest


@pytest.fixture
def fetched(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the recipes that are asked for, in an empty model folder."""
    names: list[str] = []

    def ensure(recipes: Sequence[Any]) -> list[Path]:
        names.extend(recipe.name for recipe in recipes)
        return []

    monkeypatch.setattr(models, "ensure_models", ensure)
    return names


def test_default_models_are_fetched(fetched: list[str]) -> None:
    fetch_if_default("yunet", "sface")
    assert fetched == ["yunet", "sface"]


def test_other_models_are_not(fetched: list[str]) -> None:
    fetch_if_default("own", "models/sface.onnx")
    assert fetched == []


def test_tensorrt_needs_no_float32_model(fetched: list[str]) -> None:
    fetch_if_default("yunet", "sface", runtime="tensorrt")
    assert fetched == []


@pytest.mark.parametrize(("runtime", "names"), [("auto", ["sface"]), ("onnxruntime", ["yunet", "sface"])])
def test_a_model_with_an_engine_is_fetched_only_for_the_cpu(runtime: str, names: list[str], fetched: list[str]) -> None:
    engine_path("yunet").parent.mkdir(parents=True)
    manifest_path(engine_path("yunet")).write_bytes(b"an engine's manifest")
    fetch_if_default("yunet", "sface", runtime=runtime)
    assert fetched == names


def test_a_stored_model_is_hashed_when_it_is_loaded_and_at_no_other_time(
    with_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def counted(path: Path, manifest: Manifest) -> bytes:
        checked.append(manifest.name)
        return check_file(path, manifest)

    for owner in ("edgeface.engines.models", "edgeface.runtime.engine"):
        monkeypatch.setattr(f"{owner}.check_file", counted)
    open_recognizer(tmp_path / "kiosk.gallery", {"detector": "yunet", "embedder": "sface"}).close()
    assert sorted(checked) == ["sface", "yunet"]


@pytest.mark.parametrize("harm", ["absent", "cut short", "another version"])
def test_a_model_that_is_not_there_whole_is_fetched(
    model_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(models, "ensure_models", lambda recipes: asked.extend(recipe.name for recipe in recipes))
    monkeypatch.setenv("EDGEFACE_HOME", str(tmp_path))
    shutil.copytree(model_home / "models", tmp_path / "models")
    path = model_path("sface")
    if harm == "absent":
        path.unlink()
    elif harm == "cut short":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        text = manifest_path(path).read_text()
        manifest_path(path).write_text(text.replace('"model_id": "sface@', '"model_id": "sface@0'))
    fetch_if_default("yunet")
    assert asked == []
    fetch_if_default("yunet", "sface")
    assert asked == ["yunet", "sface"]
