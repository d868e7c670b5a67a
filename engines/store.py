"""Writes what a build made so that a kill or a power cut at any moment leaves the old engine or the new one, whole.

Bytes go to a file that is named by their checksum, beside the old one; then the manifest, under a fixed name, is
exchanged in one step; then the old bytes go. `docs/formats/engine.md` specifies it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import re
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from edgeface.contents import content_name
from edgeface.engines.report import page
from edgeface.errors import BuildError, ModelError, ModelNotFoundError
from edgeface.home import write_atomically
from edgeface.manifest import Manifest, Precision, check_file, manifest_path, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
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
        precision: of the engine. asked: the precision that it answers to, if it is another.
    """
    digest = hashlib.sha256(content).hexdigest()
    return replace(
        base,
        model_id=recipe.model_id(precision),
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
        with _locked(folder) as handle:
            _sweep(folder, handle, recipe.name)  # first: what a killed build left may be what fills the disk
            write_atomically(report.with_name(report.name + ".json"), text.encode())
            write_atomically(html, page(plain(document)).encode())
            if artefact is None:
                return html
            path = folder / model_name(recipe.name, asked, artefact.manifest.runtime)
            _switch(path, artefact)
            _link(path)
            _sweep(folder, handle, recipe.name)
    except OSError as error:
        raise BuildError(
            f"{folder}: cannot write the engine: {error}; free some space or choose another --out"
        ) from error
    return path


def _switch(path: Path, artefact: Artefact) -> None:
    content = path.with_name(artefact.manifest.file)
    try:
        write_atomically(content, artefact.content)
        write_atomically(manifest_path(path), artefact.manifest.to_json().encode())
    except BaseException:
        if _named(path) != content.name:
            content.unlink(missing_ok=True)
        raise


def _link(model: Path) -> None:
    """Let the model's own name lead to its bytes, for people and for tools such as trtexec.

    The loader follows the manifest and never the link, which is exchanged after it and may be absent or old.
    """
    named = _named(model)
    if not named or named == model.name or (model.is_symlink() and os.readlink(model) == named):
        return
    part = model.with_name(f".{model.name}.link.part")
    try:
        part.unlink(missing_ok=True)
        part.symlink_to(named)
        part.replace(model)
    except OSError as error:  # a file system without links, such as an SD card's
        logger.debug("%s: no link to %s: %s", model, named, error)


def check_folder(folder: Path) -> None:
    """Refuse, before the work begins, a folder that its result could not be written to. Raises BuildError."""
    place = folder
    try:
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        os.rmdir(tempfile.mkdtemp(prefix=".edgeface-", dir=place))  # flags of a folder do not tell all: /proc has them
    except OSError as error:
        raise BuildError(f"{folder}: cannot be written to: {place}: {error.strerror}; choose another --out") from error


def find_built(
    folder: Path, recipe: Recipe, asked: str, runtime: str, fingerprint: str
) -> tuple[Path, Manifest] | None:
    """The engine that stands in the folder under that name, if it is whole and of that fingerprint.

    What earlier builds left there is removed first: after a kill, this may be all that a build comes to do.
    """
    if not folder.is_dir():
        return None
    with _locked(folder) as handle:
        _sweep(folder, handle, recipe.name)
    model = folder / model_name(recipe.name, asked, runtime)
    try:
        manifest = read_manifest(model)
        if manifest.build.get("fingerprint") == fingerprint:
            check_file(model, manifest)
            _link(model)
            return model, manifest
    except ModelError as error:  # absent, another version's or damaged: build again
        logger.debug("%s: %s", model, error)
    return None


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """One build at a time writes to a folder: what another one is writing must not be swept away."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # NFS locks no folder; there, two builds of one recipe at once are their caller's fault
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _sweep(folder: Path, handle: int, name: str) -> None:
    """Remove what no manifest names any more: engines that were replaced, and what builds left that were killed."""
    precisions = "|".join(get_args(Precision))
    engine = re.compile(rf"({re.escape(name)}\.(?:{precisions})(?:\.rtx)?)(?:\.[0-9a-f]{{12}})?(\.onnx|\.plan)")
    # The model itself, and what is being fetched for it, are `models.fetch`'s.
    part = re.compile(rf"\.{re.escape(name)}\.(?!fp32\.onnx\.)(?:{precisions})\..+\.part")
    try:
        os.fsync(handle)  # what a manifest no longer names goes only when that manifest is on the disk
        for path in list(folder.iterdir()):
            found = engine.fullmatch(path.name)
            dead = part.fullmatch(path.name) is not None
            if found and not path.is_symlink():
                model = "".join(found.groups())
                named = _named(path.with_name(model))
                other = engine.fullmatch(named or "")
                # A file without a checksum in its name goes only where one with a checksum has taken its place.
                taken = path.name != model or (other is not None and "".join(other.groups()) == model)
                dead = named not in (None, path.name) and taken
            if dead:
                path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: cannot remove what earlier builds left: %s", folder, error)


def _named(model: Path) -> str | None:
    """The file that the manifest of `model` names; empty without a manifest, None where it cannot be read."""
    try:
        return read_manifest(model).file
    except ModelNotFoundError:
        return ""
    except ModelError:
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
