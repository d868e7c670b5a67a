"""Writes what a build made: report, engine, manifest; finds what an earlier build made of the same inputs."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeface.contents import content_name
from edgeface.engines.exchange import exchange, link, locked, sweep
from edgeface.engines.report import page
from edgeface.errors import BuildError, ModelError
from edgeface.home import try_folder, write_atomically
from edgeface.manifest import Manifest, Precision, check_file, read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeface.engines.recipe import Recipe

logger = logging.getLogger(__name__)

SUFFIX = {"onnxruntime": "onnx", "tensorrt": "plan", "tensorrt-rtx": "rtx.plan"}


@dataclass(frozen=True)
class Artefact:
    """An engine's bytes and its manifest."""

    content: bytes
    manifest: Manifest


def model_name(recipe: str, asked: str, runtime: str) -> str:
    """What `load_engine` takes for an engine: named by the precision that was asked for, which is what firmware asks
    for, too; the manifest says what the engine computes in.
    """
    return f"{recipe}.{asked}.{SUFFIX[runtime]}"


def make_manifest(
    base: Manifest,
    recipe: Recipe,
    precision: Precision,
    runtime: str,
    content: bytes,
    facts: Mapping[str, Any],
    *,
    asked: str | None = None,
) -> Manifest:
    """The float32 model's manifest with what is new: file, precision, runtime and how it was built.

    Args:
        precision: of the engine. asked: the precision that it answers to, if it is another. The model id has that one,
            too: what a race on time decides must not part a gallery from its engine (docs/decisions/model-id.md).
    """
    digest = hashlib.sha256(content).hexdigest()
    return replace(
        base,
        model_id=recipe.model_id(asked or precision),
        file=content_name(model_name(recipe.name, asked or precision, runtime), digest),
        sha256=digest,
        size=len(content),
        precision=precision,
        runtime=runtime,
        build=plain(facts),
    )


def store(folder: Path, recipe: Recipe, asked: str, artefact: Artefact | None, document: dict[str, Any]) -> Path:
    """Write report, engine and manifest in this order; without an engine the report alone.

    Args:
        asked: the precision that the engine answers to.

    Returns:
        What `load_engine` takes, or without an engine the report's path.

    Raises:
        BuildError: the disk is full or the folder not writable; the engine that stood there still does.
    """
    report = folder / f"{recipe.name}.{asked}.report"
    text = json.dumps(plain(document), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    html = report.with_name(report.name + ".html")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as handle:
            sweep(folder, handle, recipe.name)  # first: what a killed build left may be what fills the disk
            write_atomically(report.with_name(report.name + ".json"), text.encode())
            write_atomically(html, page(plain(document)).encode())
            if artefact is None:
                return html
            path = folder / model_name(recipe.name, asked, artefact.manifest.runtime)
            exchange(path, artefact.content, artefact.manifest)
            sweep(folder, handle, recipe.name)
    except OSError as error:
        raise BuildError(
            f"{folder}: cannot write the engine: {error}; free some space or choose another --out"
        ) from error
    return path


def check_folder(folder: Path) -> None:
    """Refuse, before the work begins, a folder that its result could not be written to. Raises BuildError."""
    try:
        try_folder(folder)
    except OSError as error:
        raise BuildError(f"{folder}: cannot be written to: {error}; choose another --out") from error


def find_built(
    folder: Path, recipe: Recipe, asked: str, runtime: str, fingerprint: str
) -> tuple[Path, Manifest] | None:
    """The engine that stands in the folder under that name, if it is whole and of that fingerprint.

    What earlier builds left there is removed first: after a kill, this may be all that a build comes to do.
    """
    if not folder.is_dir():
        return None
    with locked(folder) as handle:
        sweep(folder, handle, recipe.name)
    model = folder / model_name(recipe.name, asked, runtime)
    try:
        manifest = read_manifest(model)
        if manifest.build.get("fingerprint") == fingerprint:
            check_file(model, manifest)
            link(model)
            return model, manifest
    except ModelError as error:  # absent, another version's or damaged: build again
        logger.debug("%s: %s", model, error)
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
