"""Names of the files with models' bytes, for which a manifest under a fixed name stands (`docs/formats/engine.md`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeface.errors import EngineIncompatibleError

if TYPE_CHECKING:
    from pathlib import Path

    from edgeface.manifest import Manifest

HASHED = re.compile(r"\.[0-9a-f]{12}(\.[a-z]+)$")


def content_name(model: str, sha256: str) -> str:
    """The name under which a build stores an engine's bytes: ``sface.int8.plan`` is ``sface.int8.0123456789ab.plan``.

    Old and new bytes stand side by side under such names, and the manifest alone, exchanged in one step, switches.
    """
    stem, dot, suffix = model.rpartition(".")
    return f"{stem}.{sha256[:12]}{dot}{suffix}"


def content_path(model: Path, manifest: Manifest) -> Path:
    """The file with the bytes of `model`: the one named by its checksum where the manifest says so, else `model`.

    Raises:
        EngineIncompatibleError: the manifest names neither: it is another model's.
    """
    if manifest.file not in (model.name, content_name(model.name, manifest.sha256)):
        raise EngineIncompatibleError(
            f"{model}: its manifest is for a file named {manifest.file!r}; move both files together"
        )
    return model.with_name(manifest.file)


def plain_path(content: Path) -> Path:
    """The name of the model that a file of bytes belongs to; the file's own where no checksum is in it."""
    return content.with_name(HASHED.sub(r"\1", content.name))
