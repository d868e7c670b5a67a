"""What a command does before its models run: fetch what is absent and needed, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edgeface.home import engine_path
from edgeface.manifest import check_file
from edgeface.tools import models
from edgeface.tools.session import fetch_if_default

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
    engine_path("yunet").write_bytes(b"an engine")
    fetch_if_default("yunet", "sface", runtime=runtime)
    assert fetched == names


def test_a_stored_model_is_hashed_once_before_it_is_loaded(with_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def counted(path: Path, manifest: Manifest) -> bytes:
        checked.append(manifest.name)
        return check_file(path, manifest)

    monkeypatch.setattr("edgeface.engines.models.check_file", counted)
    fetch_if_default("yunet", "sface")
    assert checked == ["yunet", "sface"]
