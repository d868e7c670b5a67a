"""Replaces a stored model so that a kill or a power cut at any moment leaves the old one or the new one, whole.

Bytes go to a file that is named by their checksum, beside the old one; then the manifest, under a fixed name, is
exchanged in one step; then the old bytes go. `docs/formats/engine.md` specifies it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, get_args

from edgeface.errors import ModelError, ModelNotFoundError
from edgeface.home import write_atomically
from edgeface.manifest import Precision, manifest_path, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeface.manifest import Manifest

logger = logging.getLogger(__name__)


def exchange(model: Path, content: bytes, manifest: Manifest) -> None:
    """Let a model's name stand for other bytes: one rename switches. The folder is `locked`, and swept afterwards.

    Args:
        manifest: names the file of the bytes, which has their checksum in its name.

    Raises:
        OSError: the disk is full or the folder not writable; the old model still stands.
    """
    file = model.with_name(manifest.file)
    try:
        write_atomically(file, content)
        write_atomically(manifest_path(model), manifest.to_json().encode())
    except BaseException:
        if _named(model) != file.name:
            file.unlink(missing_ok=True)
        raise
    link(model)


def link(model: Path) -> None:
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


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """One build or fetch at a time writes to a folder: what another one is writing must not be swept away."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # NFS locks no folder; there, two builds of one recipe at once are their caller's fault
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def sweep(folder: Path, handle: int, name: str) -> None:
    """Remove what no manifest names any more: what was replaced, and what killed builds and fetches left."""
    precisions = "|".join(get_args(Precision))
    engine = re.compile(rf"({re.escape(name)}\.(?:{precisions})(?:\.rtx)?)(?:\.[0-9a-f]{{12}})?(\.onnx|\.plan)")
    part = re.compile(rf"\.{re.escape(name)}\.(?:{precisions})\..+\.part")
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
        logger.warning("%s: cannot remove what earlier builds or fetches left: %s", folder, error)


def _named(model: Path) -> str | None:
    """The file that the manifest of `model` names; empty without a manifest, None where it cannot be read."""
    try:
        return read_manifest(model).file
    except ModelNotFoundError:
        return ""
    except ModelError:
        return None
