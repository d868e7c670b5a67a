"""The manifest: a JSON file beside every model file that says what the file is and how to feed it.

The format is specified in `docs/formats/engine.md`. `edgeface models fetch` and `edgeface build` write manifests,
`load_engine` reads them; the SDK needs nothing else to run a model, no recipe and no ONNX parser.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

from edgeface.contents import content_path, plain_path
from edgeface.errors import ModelIntegrityError, ModelNotFoundError, RecipeError
from edgeface.pad import LivenessSpec, parse_liveness
from edgeface.tables import Reader

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = "edgeface-engine"
VERSION = 1

Kind = Literal["detector", "embedder", "liveness"]
KINDS = ("detector", "embedder", "liveness")
#: The one output of the kinds that have a fixed input size; the outputs of a detector follow from its head.
NEEDS = {"embedder": ("an embedder", "embedding"), "liveness": ("a liveness model", "scores")}
Precision = Literal["fp32", "fp16", "mixed", "int8"]
PRECISIONS = ("fp32", "fp16", "mixed", "int8")

#: Five points of a 112x112 crop in which faces stand for ArcFace-style embedders, (x, y) in pixels: eyes, nose
#: tip, corners of the mouth, viewer's left first. Source: Deng et al., ArcFace (2019), reference implementation.
ARCFACE_112 = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the network's input: ``(pixel - mean) / std`` per channel, planes in `color` order.

    Attributes:
        color: order of the channels, ``rgb`` or ``bgr``.
        mean, std: three numbers each in that order, in grey levels 0 to 255.
    """

    color: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it costs: impostor pairs reach `similarity` at the false match rate `fmr`.

    Attributes:
        fmr: false match rate of one comparison (ISO/IEC 19795-1).
        similarity: the threshold.
        tar: true accept rate there (1 - FNMR).
        fmr_low, fmr_high: 95 % confidence limits of `fmr`; None where they were not measured.
    """

    fmr: float
    similarity: float
    tar: float
    fmr_low: float | None = None
    fmr_high: float | None = None

    @property
    def sure_fmr(self) -> float:
        """The rate that `similarity` does not exceed, as far as is known: the upper limit, else the estimate."""
        return self.fmr if self.fmr_high is None else self.fmr_high


@dataclass(frozen=True)
class Thresholds:
    """Measured operating points of an embedder, falling `fmr`, with where they come from.

    Attributes:
        origin: data set, number of pairs and pipeline of the measurement, for people to read.
        impostor_pairs: number of pairs behind it: no rate below ten over this number is supported.
        points: operating points with falling `fmr` and rising `similarity`; all have limits, or none.
        people: number of people behind it; None where that is not said.
        limits_origin: where the points' limits come from; empty without limits.
    """

    origin: str
    impostor_pairs: int
    points: tuple[OperatingPoint, ...]
    people: int | None = None
    limits_origin: str = ""


@dataclass(frozen=True)
class Recognizability:
    """Where an embedder puts the faces that it cannot recognise; see `edgeface.quality`.

    Attributes:
        origin: the photographs and degradations that it was measured on, for people to read.
        centre: unit vector of the embedder's dimension.
        weights: of a constant, of the logit of the view and of the distance from the centre, in the logit of the
            quality score.
    """

    origin: str
    centre: tuple[float, ...]
    weights: tuple[float, float, float]


@dataclass(frozen=True)
class Manifest:
    """What a model file is. See `docs/formats/engine.md` for every key.

    Attributes:
        name: name of the recipe, such as ``sface``.
        model_id: names network, weights and the precision that was asked for; templates of different ids are never
            compared.
        file: name of the file with the model's bytes, in the manifest's folder: the manifest's own without ``.json``,
            or that with the start of its checksum inside (`content_name`).
        sha256, size: checksum and length in bytes of that file.
        kind: ``detector``, ``embedder`` or ``liveness``.
        precision: what the file computes in.
        runtime: ``onnxruntime``, ``tensorrt`` or ``tensorrt-rtx``: what can run the file.
        licence, source: of the weights, for people to read.
        input_name, input_size: (height, width); None is a size chosen per run, a multiple of 32.
        max_batch: the largest batch; None is any.
        preprocessing: see there.
        outputs: names of the network's outputs by meaning; a detector's are ``cls_8``, ``obj_8``, ``bbox_8``,
            ``kps_8`` and so on per stride, an embedder's ``embedding``, a liveness model's ``scores``.
        head: the meaning of a detector's outputs, such as ``yunet``; empty for the others.
        dimension: length of an embedding; 0 for the others.
        template: five points of the aligned crop as (x, y) pixels; empty but for an embedder.
        thresholds: measured operating points, or None.
        recognizability: an embedder's centre of unrecognisable faces, or None.
        liveness: how a liveness model is fed and read; None for the others.
        build: what `edgeface build` adds: versions, hashes, accuracy, timings. Readers ignore what they do not know.
    """

    name: str
    model_id: str
    file: str
    sha256: str
    size: int
    kind: Kind
    precision: Precision
    runtime: str
    licence: str
    source: str
    input_name: str
    input_size: tuple[int, int] | None
    max_batch: int | None
    preprocessing: Preprocessing
    outputs: Mapping[str, str]
    head: str = ""
    dimension: int = 0
    template: tuple[tuple[float, float], ...] = ()
    thresholds: Thresholds | None = None
    recognizability: Recognizability | None = None
    liveness: LivenessSpec | None = None
    build: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The manifest's text: sorted keys, two spaces, a final newline."""
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def manifest_path(model: Path) -> Path:
    """Where the manifest of a model file stands: the same name with ``.json`` after it."""
    return model.with_name(model.name + ".json")


def is_stored(model: Path) -> bool:
    """Whether there is a model of that name: its manifest stands there. Its bytes are not looked at."""
    return manifest_path(model).exists()


def read_manifest(model: Path) -> Manifest:
    """Read and check the manifest of the model file `model`; the model file itself is not read.

    Raises:
        ModelNotFoundError: there is no manifest.
        RecipeError: it is not a manifest, is of a newer version, or a key is missing or malformed.
    """
    path = manifest_path(model)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        named = plain_path(model)
        mend = "`edgeface models fetch RECIPE` and `edgeface build` write one"
        if named != model and is_stored(named):
            mend = f"these are the bytes of {named}: give that name"
        raise ModelNotFoundError(f"{path}: no manifest beside the model; {mend}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot read the manifest: {error}") from error
    return parse_manifest(text, where=str(path))


def parse_manifest(text: str, *, where: str) -> Manifest:
    """Check a manifest's text. `where` names it in messages. Raises RecipeError."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{where}: not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise RecipeError(f'{where}: not an edgeface manifest (expected "format": "{FORMAT}")')
    if document.get("version") is True or document.get("version") != VERSION:
        raise RecipeError(
            f"{where}: manifest version {document.get('version')!r}, this edgeface reads {VERSION}; "
            "rebuild the engine or update edgeface"
        )
    read = Reader(document, where)
    kind = read.choice("kind", KINDS)
    embedder = kind == "embedder"
    size = document.get("input_size")
    manifest = Manifest(
        name=read.text("name"),
        model_id=read.text("model_id"),
        file=read.file_name("file"),
        sha256=read.sha256("sha256"),
        size=read.integer("size", low=1),
        kind=cast("Kind", kind),
        precision=cast("Precision", read.choice("precision", PRECISIONS)),
        runtime=read.choice("runtime", ("onnxruntime", "tensorrt", "tensorrt-rtx")),
        licence=read.text("licence"),
        source=read.text("source"),
        input_name=read.text("input_name"),
        input_size=None if size is None else read.size("input_size"),
        max_batch=None if document.get("max_batch") is None else read.integer("max_batch", low=1, high=1 << 16),
        preprocessing=parse_preprocessing(read.table("preprocessing")),
        outputs=read.strings("outputs"),
        head=read.text("head", empty=kind != "detector"),
        dimension=read.integer("dimension", low=2 if embedder else 0, high=1 << 14),
        template=read.points("template", 5 if embedder else 0),
        thresholds=None
        if document.get("thresholds") is None
        else parse_thresholds(read.table("thresholds")),
        recognizability=None
        if document.get("recognizability") is None
        else parse_recognizability(read.table("recognizability"), read.integer("dimension", low=2, high=1 << 14)),
        liveness=None if document.get("liveness") is None else parse_liveness(read.table("liveness")),
        build=read.table("build").document if "build" in document else {},
    )
    who, needed = NEEDS.get(kind, ("", None))
    if needed is not None and (manifest.input_size is None or needed not in manifest.outputs):
        raise RecipeError(f"{where}: {who} needs a fixed input_size and an output named {needed!r}")
    if (manifest.liveness is None) == (kind == "liveness"):
        raise RecipeError(f"{where}: expected a table 'liveness' for the kind liveness and for no other, got {kind!r}")
    return manifest


def parse_preprocessing(read: Reader) -> Preprocessing:
    """Check the preprocessing table of a recipe or manifest."""
    mean, std = read.triple("mean"), read.triple("std")
    if not all(1e-6 <= value <= 1e6 for value in std):  # what the kernels take
        raise RecipeError(f"{read.where}: std: expected numbers from 1e-6 to 1e6, got {std}")
    color = read.choice("color", ("rgb", "bgr"))
    return Preprocessing(cast("Literal['rgb', 'bgr']", color), mean, std)


def parse_thresholds(read: Reader) -> Thresholds:
    """Check the thresholds table of a recipe or manifest."""
    rows = read.document.get("points")
    if not isinstance(rows, list) or not rows:
        raise RecipeError(f"{read.where}: points: expected a list of tables with fmr, similarity and tar")
    points = tuple(_parse_point(Reader(row, f"{read.where}.points[{n}]")) for n, row in enumerate(rows))
    for before, after in pairwise(points):
        if (before.fmr_high is None) != (after.fmr_high is None):
            raise RecipeError(f"{read.where}: points: expected limits at all points or at none, got {before}, {after}")
        if not (after.fmr < before.fmr and after.sure_fmr < before.sure_fmr and after.similarity > before.similarity):
            raise RecipeError(
                f"{read.where}: points: expected falling fmr and rising similarity, got {before}, {after}"
            )
    return Thresholds(
        origin=read.text("origin"),
        impostor_pairs=read.integer("impostor_pairs", low=1),
        points=points,
        people=None if read.document.get("people") is None else read.integer("people", low=2),
        limits_origin=read.text("limits_origin", empty=points[0].fmr_high is None),
    )


def _parse_point(read: Reader) -> OperatingPoint:
    fmr = read.number("fmr", 1e-12, 1.0)  # its logarithm is taken
    similarity, tar = read.number("similarity", -1.0, 1.0), read.number("tar", 0.0, 1.0)
    if read.document.get("fmr_low") is None and read.document.get("fmr_high") is None:
        return OperatingPoint(fmr, similarity, tar)
    return OperatingPoint(fmr, similarity, tar, read.number("fmr_low", 0.0, fmr), read.number("fmr_high", fmr, 1.0))


def parse_recognizability(read: Reader, dimension: int) -> Recognizability:
    """Check the recognizability table of a recipe or manifest; the centre is scaled to length 1."""
    centre = read.vector("centre", dimension)
    length = math.hypot(*centre)
    if length < 1e-6:
        raise RecipeError(f"{read.where}: centre: expected a direction, got zeros")
    return Recognizability(read.text("origin"), tuple(v / length for v in centre), read.triple("weights"))


def check_file(model: Path, manifest: Manifest) -> bytes:
    """Read the model file once and hold it against its manifest.

    Args:
        model: the name that the manifest stands beside; the bytes may be in another file, see `content_path`.

    Returns:
        The file's bytes, so that what was checked is what runs.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelIntegrityError: it is no regular file, or its length or checksum is another.
        EngineIncompatibleError: the manifest is for a file of another name.
    """
    model = content_path(model, manifest)
    try:
        there = model.stat()
        if not stat.S_ISREG(there.st_mode):  # reading a pipe would wait for ever
            raise ModelIntegrityError(f"{model}: expected a file with the model's bytes, got no regular file")
        if there.st_size != manifest.size:
            raise ModelIntegrityError(
                f"{model}: expected {manifest.size} bytes, got {there.st_size} bytes; fetch or build it again"
            )
        content = model.read_bytes()
    except FileNotFoundError:
        raise ModelNotFoundError(
            f"{model}: no such model file; its manifest is there, so fetch or build again"
        ) from None
    except OSError as error:
        raise ModelIntegrityError(f"{model}: cannot read the model file: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256:
        raise ModelIntegrityError(
            f"{model}: expected {manifest.size} bytes with sha256 {manifest.sha256}, "
            f"got {len(content)} bytes with sha256 {digest}; fetch or build it again"
        )
    return content
