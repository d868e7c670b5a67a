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


def fetch_if_default(*models: str) -> None:
    """Fetch default models that are named and absent, so that a first command works by itself."""
    from edgeface.engines.recipe import load_recipe
    from edgeface.tools.models import DEFAULT, ensure_models

    ensure_models([load_recipe(name) for name in DEFAULT if name in models])


def open_recognizer(gallery: Path, options: dict[str, Any]) -> FaceRecognizer:
    """A recogniser from the options that `model_options` and `decision_options` gave."""
    from edgeface import FaceRecognizer

    if options.get("precision", "fp32") == "fp32":
        fetch_if_default(options["detector"], options["embedder"])
    return FaceRecognizer.open(gallery, **options)


def open_engine(model: str, precision: str, threads: int | None) -> Engine:
    """The engine of a recipe's name or of a model file."""
    from edgeface.recognizer import load_model

    if precision == "fp32":
        fetch_if_default(model)
    return load_model(model, precision=precision, threads=threads)


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
