"""What the commands on photographs share: models at hand, photographs one by one, reports of those that fail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeface.errors import InputError
from edgeface.photos import find_photos, read_photo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeface import FaceRecognizer
    from edgeface.runtime import Engine
    from edgeface.types import ByteArray


def fetch_if_default(*models: str, runtime: str = "auto") -> None:
    """Fetch default models that are named, absent and about to run, so that a first command works by itself.

    A board that runs TensorRT engines needs no float32 model, and may have no way to fetch one.
    """
    from edgeface.engines.models import looks_stored
    from edgeface.engines.recipe import load_recipe
    from edgeface.home import engine_path
    from edgeface.manifest import is_stored
    from edgeface.tools.models import DEFAULT, ensure_models

    if runtime == "tensorrt":
        return
    wanted = [name for name in DEFAULT if name in models]
    needed = [load_recipe(name) for name in wanted if runtime != "auto" or not is_stored(engine_path(name))]
    # Loading hashes the files that are there, once; only what is plainly absent or another version's is fetched.
    if not all(looks_stored(recipe) for recipe in needed):
        ensure_models(needed)


def open_recognizer(gallery: Path, options: dict[str, Any]) -> FaceRecognizer:
    """A recogniser from the options that `model_options`, `decision_options` and `key_option` gave."""
    from edgeface import FaceRecognizer
    from edgeface.gallery import key_from_file

    if options.get("precision", "fp32") == "fp32":
        fetch_if_default(options["detector"], options["embedder"], runtime=options.get("runtime", "auto"))
    given = dict(options)
    key_file = given.pop("key_file", None)
    return FaceRecognizer.open(gallery, key=None if key_file is None else key_from_file(key_file), **given)


def open_engine(model: str, precision: str, threads: int | None) -> Engine:
    """The engine of a recipe's name or of a model file."""
    from edgeface.runtime.choice import choose

    if precision == "fp32":
        fetch_if_default(model)
    return choose(model, precision=precision, threads=threads)[0]


class Photos:
    """Iterates over readable photographs of some places; the others are reported, and the rest goes on.

    Attributes:
        paths: the photographs of the places that have any.
        failed: what went wrong, by path or place.
    """

    def __init__(self, places: Sequence[str | Path]) -> None:
        self.failed: dict[str, str] = {}
        found: dict[Path, None] = {}
        for place in places:
            try:
                found.update(dict.fromkeys(find_photos([place])))
            except InputError as error:
                self.fail(Path(place), error)
        self.paths = list(found)

    def __iter__(self) -> Iterator[tuple[Path, ByteArray]]:
        for path in self.paths:
            try:
                yield path, read_photo(path)
            except InputError as error:
                self.fail(path, error)

    def fail(self, path: Path, error: Exception) -> None:
        self.failed[str(path)] = str(error)
        click.echo(f"edgeface: {error}" if str(path) in str(error) else f"edgeface: {path}: {error}", err=True)

    def exit_code(self) -> int:
        """1 when any photograph failed: the job was not done whole."""
        return 1 if self.failed else 0
