"""Photographs from files: finding them and reading them."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.errors import InputError, MissingDependencyError, install_extra

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeface.types import ByteArray

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
MAX_FILE_BYTES = 200_000_000  # far above any photograph: a larger file is a mistake or an attack


def find_photos(places: Iterable[str | Path]) -> list[Path]:
    """Photograph files of some places, sorted, each once.

    Args:
        places: files, folders (searched to any depth for pictures by their suffix) and glob patterns.

    Raises:
        InputError: a place has no photograph.
    """
    found: dict[Path, None] = {}
    for place in places:
        try:
            found.update(dict.fromkeys(_inside(place)))
        except OSError as error:  # a name that is too long, a disk that fails
            raise InputError(f"{place}: cannot look there: {error.strerror or error}") from error
    return list(found)


def _inside(place: str | Path) -> list[Path]:
    path = Path(place)
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise InputError(f"{place}: no photograph in this folder ({', '.join(sorted(SUFFIXES))})")
    elif path.exists():
        inside = [path]
    else:
        inside = sorted(p for p in map(Path, glob.glob(str(place), recursive=True)) if p.is_file())
        if not inside:
            raise InputError(f"{place}: no such file, folder or pattern")
    return inside


def read_photo(path: str | Path) -> ByteArray:
    """Read a photograph, upright by its EXIF orientation.

    A small file can unpack to 2**30 pixels, OpenCV's limit, and 3 GB. Where strangers give the photographs, set
    OPENCV_IO_MAX_IMAGE_PIXELS before OpenCV is imported, as the `edgeface` command does.

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        InputError: the file is absent, too large, damaged or no picture.
        MissingDependencyError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingDependencyError(
            f"reading photographs needs OpenCV ({error}); {install_extra('host')}, or jetson/setup.sh on a Jetson"
        ) from error
    import numpy as np

    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"{path}: not a file")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(f"{path}: expected a photograph of at most {MAX_FILE_BYTES} bytes, got {size}")
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    try:
        picture = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except cv2.error as error:
        told = error.err or str(error)
        hint = "; it has too many pixels, shrink it first" if "MAX_IMAGE" in told else ""
        raise InputError(f"{path}: OpenCV cannot decode this picture: {told}{hint}") from error
    if picture is None:
        raise InputError(f"{path}: not a picture that OpenCV can decode ({len(content)} bytes)")
    return np.asarray(picture, np.uint8)
