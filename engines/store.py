"""Writes what a build made: engine first, manifest last, each whole or not at all; and the report beside them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeface.engines.report import page
from edgeface.errors import BuildError, ModelError
from edgeface.home import write_atomically
from edgeface.manifest import Manifest, check_file, manifest_path, read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeface.engines.recipe import Recipe
    from edgeface.manifest import Precision

SUFFIX = {"onnxruntime": "onnx", "tensorrt": "plan", "tensorrt-rtx": "rtx.plan"}


@dataclass(frozen=True)
class Artefact:
    """An engine file's bytes and its manifest."""

    content: bytes
    manifest: Manifest


def make_manifest(
    base: Manifest, recipe: Recipe, precision: Precision, runtime: str, content: bytes, facts: Mapping[str, Any]
) -> Manifest:
    """The float32 model's manifest with what is new: file, precision, runtime and how it was built."""
    return replace(
        base,
        model_id=recipe.model_id(precision),
        file=f"{recipe.name}.{precision}.{SUFFIX[runtime]}",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        precision=precision,
        runtime=runtime,
        build=plain(facts),
    )


def store(folder: Path, recipe: Recipe, precision: str, artefact: Artefact | None, document: dict[str, Any]) -> Path:
    """Write report, engine and manifest in this order; without an engine the report alone.

    Returns:
        The engine's path, or without one that of the report.

    Raises:
        BuildError: the disk is full or the folder not writable; files that stood there are untouched or whole.
    """
    report = folder / f"{recipe.name}.{precision}.report"
    text = json.dumps(plain(document), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        write_atomically(report.with_name(report.name + ".json"), text.encode())
        html = report.with_name(report.name + ".html")
        write_atomically(html, page(plain(document)).encode())
        if artefact is None:
            return html
        path = folder / artefact.manifest.file
        write_atomically(path, artefact.content)
        write_atomically(manifest_path(path), artefact.manifest.to_json().encode())
    except OSError as error:
        raise BuildError(
            f"{folder}: cannot write the engine: {error}; free some space or choose another --out"
        ) from error
    return path


def find_built(folder: Path, recipe: Recipe, fingerprint: str) -> tuple[Path, Manifest] | None:
    """A whole engine of that fingerprint, if one stands in the folder."""
    for path in sorted(folder.glob(f"{recipe.name}.*.json")):
        model = path.with_name(path.name[: -len(".json")])
        try:
            manifest = read_manifest(model)
            if manifest.build.get("fingerprint") == fingerprint:
                check_file(model, manifest)
                return model, manifest
        except ModelError:  # a report, another version's manifest or a damaged pair: build again
            continue
    return None


def plain(value: Any) -> Any:
    """JSON's own types; NaN and infinity, which it lacks, become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
