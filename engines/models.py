"""The model folder: fetching, storing and checking the models that recipes describe."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.contents import content_name, content_path
from edgeface.engines.exchange import exchange, locked, sweep
from edgeface.engines.wheels import MAX_MODEL_BYTES, downloaded, read_wheel
from edgeface.errors import ModelError, ModelFetchError, ModelIntegrityError, ModelNotFoundError
from edgeface.home import model_path, write_atomically
from edgeface.manifest import Manifest, check_file, manifest_path, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeface.engines.recipe import Recipe
    from edgeface.engines.wheels import Progress


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
        manifest, _ = _read(path)
    except ModelNotFoundError as error:
        return State(recipe.name, path, "absent" if not path.exists() else "damaged", str(error))
    except ModelError as error:
        return State(recipe.name, path, "damaged", str(error))
    if manifest.model_id != recipe.model_id():
        return State(recipe.name, path, "other", f"stored is {manifest.model_id}, the recipe is {recipe.model_id()}")
    if manifest != _stamped(recipe, manifest):
        return State(recipe.name, path, "other", "the recipe was edited after the model was stored")
    return State(recipe.name, path, "stored", manifest.model_id)


def looks_stored(recipe: Recipe) -> bool:
    """Whether a recipe's model is there, with its manifest and of its length; nothing is hashed."""
    path = model_path(recipe.name)
    try:
        manifest = read_manifest(path)
        return manifest == _stamped(recipe, manifest) and content_path(path, manifest).stat().st_size == manifest.size
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
    return _read(found.path)[1]


def _read(path: Path) -> tuple[Manifest, bytes]:
    """A stored model's manifest and the bytes that belong to it."""
    while True:
        manifest = read_manifest(path)
        try:
            return manifest, check_file(path, manifest)
        except ModelError:
            if read_manifest(path) == manifest:
                raise
            # Another fetch exchanged it between the two reads: the new one is there.


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
            with downloaded(requirement, progress) as wheel:
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
        with downloaded(source.wheel, progress) as fetched:
            return fetch(recipe, wheel=fetched)
    if source.wheel is None and wheel is not None:
        raise ModelFetchError(f"{recipe.name}: its source is the file {source.file}, not a wheel")
    content = _read_file(recipe) if wheel is None else read_wheel(recipe, wheel)
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
    if not path.parent.exists():
        return False
    # Locked from the first look on: a fetch in between would be undone, and its bytes be without a manifest.
    with _storing(path, "its manifest"), locked(path.parent):
        try:
            stored, _ = _read(path)
        except ModelError:
            return False
        manifest = _stamped(recipe, stored)
        if any(getattr(manifest, name) != getattr(stored, name) for name in FOLDED):
            return False
        write_atomically(manifest_path(path), manifest.to_json().encode())
    return True


def _store(recipe: Recipe, content: bytes) -> Path:
    """Store a model under its own name; where other bytes stand under that name, exchange them in one step."""
    path = model_path(recipe.name)
    digest = hashlib.sha256(content).hexdigest()
    with _storing(path, f"the model ({len(content) >> 20} MiB)"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent) as handle:
            sweep(path.parent, handle, recipe.name)
            try:
                stands = read_manifest(path)
            except ModelError:
                stands = None  # nothing that could be loaded, so nothing to keep whole
            if stands is None or (stands.sha256, stands.file) == (digest, path.name):
                write_atomically(path, content)
                manifest = _manifest(recipe, path.name, digest, len(content))
                write_atomically(manifest_path(path), manifest.to_json().encode())
            else:
                file = content_name(path.name, digest)
                exchange(path, content, _manifest(recipe, file, digest, len(content)))
            sweep(path.parent, handle, recipe.name)
    return path


def _stamped(recipe: Recipe, stored: Manifest) -> Manifest:
    """The manifest of stored bytes as the recipe says it now."""
    return _manifest(recipe, stored.file, stored.sha256, stored.size)


def _manifest(recipe: Recipe, file: str, sha256: str, size: int) -> Manifest:
    source = recipe.source
    return Manifest(
        name=recipe.name,
        model_id=recipe.model_id(),
        file=file,
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


@contextmanager
def _storing(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelFetchError(
            f"{path}: cannot store {what}: {error}; "
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
