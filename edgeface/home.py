"""Where edgeface keeps models on this machine, and how files get there whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIABLE = "EDGEFACE_HOME"
STALE_S = 86_400.0


@functools.lru_cache
def _absolute(path: Path) -> Path:
    return path.absolute()


def home() -> Path:
    """The folder of models and measurements: ``EDGEFACE_HOME``, else the user's cache folder. It may not exist yet.

    A relative one is seen from the folder in which it is first asked for: a daemon may change its folder.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        if not chosen or "\0" in chosen:
            raise ConfigurationError(f"{VARIABLE} is set but is no path: {chosen!r}; unset it or give a folder")
        try:
            return _absolute(Path(chosen).expanduser())
        except (RuntimeError, OSError) as error:  # `~name` of nobody here; relative, and the current folder is gone
            raise ConfigurationError(
                f"{VARIABLE}: cannot resolve the home folder in {chosen!r}: {error}; give a full path"
            ) from error
    import platformdirs

    return Path(platformdirs.user_cache_dir("edgeface", appauthor=False))


def checked_path(where: str, given: object) -> Path:
    """A file's path that the system can take, absolute: a daemon may change its folder. Raises InputError."""
    if not isinstance(given, (str, os.PathLike)):
        raise InputError(f"{where}: path: expected a path as str or PathLike, got {type(given).__name__}")
    text = os.fsdecode(os.fspath(given))
    if not text or "\0" in text:
        raise InputError(f"{where}: path: expected the name of a file, got {text!r}")
    try:
        return Path(text).absolute()
    except OSError as error:
        raise InputError(f"{where}: path: {text!r} is relative, and the current folder is gone") from error


def model_path(name: str, precision: str = "fp32") -> Path:
    """What `load_engine` takes for the recipe `name` at `precision` on onnxruntime; its manifest may not exist yet."""
    return home() / "models" / f"{name}.{precision}.onnx"


def engine_path(name: str, precision: str = "fp32") -> Path:
    """What `load_engine` takes for its TensorRT engine at `precision`; its manifest may not exist yet."""
    return home() / "models" / f"{name}.{precision}.plan"


def remove_stale(folder: Path, pattern: str) -> None:
    """Remove what killed processes left of that name in a folder: what is a day old, for no work here takes as long."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if time.time() - path.stat().st_mtime > STALE_S:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def try_folder(folder: Path) -> None:
    """Try whether files can be written to a folder, which may not exist yet: before long work, and nothing is left.

    Raises:
        OSError: they cannot; `filename` is the part of the path that is there.
    """
    place = folder
    try:
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        os.rmdir(tempfile.mkdtemp(prefix=".edgeface-", dir=place))  # flags of a folder do not tell all: /proc has them
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(place)) from error


def write_atomically(path: Path, content: bytes | Iterable[bytes], *, mode: int = 0o644) -> None:
    """Write a file so that a reader, or a machine that lost power, sees the old file or the whole new one.

    `content` may come in parts, which are written one after the other.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file, if any, is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.writelines((content,) if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
