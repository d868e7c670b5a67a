"""Gathers what a build measures with: pictures to calibrate on, and pictures of other people to verify on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.engines.pairs import photo_path, read_pairs
from edgeface.engines.pictures import (
    Inputs,
    Picture,
    Split,
    embedder_inputs,
    find_pictures,
    frame_inputs,
    split_pictures,
)
from edgeface.errors import BuildError, InputError

if TYPE_CHECKING:
    from pathlib import Path

    from edgeface.detect import Detector
    from edgeface.engines.quantize import Stage
    from edgeface.engines.recipe import Recipe
    from edgeface.types import FloatArray

#: Fewer calibration crops than this leave outliers of the activations unseen: 32 cost SFace 0.0006 of mean cosine,
#: 8 cost it 0.005 (docs/quantisation.md).
LEAST_PICTURES = 32
LEAST_PEOPLE = 8
#: Fewer held-out pictures say nothing about a first percentile.
LEAST_HELD_OUT = 50
#: Two embeddings nearer than this are taken for one person when people are counted. Two people are that near once in a
#: few hundred pairs at most, whatever the embedder.
SAME_PERSON = 0.5


@dataclass
class Material:
    """Pictures of one build.

    Attributes:
        calibration: the first two thirds give the ranges, the rest chooses among candidates.
        held_out: of people who are not in `calibration`.
        people: who each held-out picture shows. paths: where it is.
        facts: what was taken and left, for manifest and report.
    """

    calibration: Inputs
    held_out: Inputs
    people: list[str]
    paths: list[Path]
    facts: dict[str, Any] = field(default_factory=dict)


def gather(
    recipe: Recipe,
    folder: Path,
    *,
    pairs: Path | None = None,
    images: Path | None = None,
    detector: Detector | None = None,
    count: int,
    most_held_out: int,
    max_side_px: int = 640,
    stage: Stage | None = None,
) -> Material:
    """Pictures of `folder` for calibration and of the other people in it, or in a pairs file, for verification.

    Raises:
        InputError: no picture, or an unreadable pairs file.
        BuildError: too few pictures, people or faces; the message has the numbers.
    """
    begin = stage or (lambda title, steps: lambda done: None)
    split = _split(folder, pairs, images, count=count, most_held_out=most_held_out)
    total = len(split.calibration) + len(split.held_out)
    tick = begin("reading pictures", total)
    both = []
    for pictures in (split.calibration, split.held_out):
        if recipe.kind == "embedder":
            both.append(embedder_inputs(recipe, pictures, detector, tick=tick))
        else:
            both.append(frame_inputs(recipe, pictures, max_side_px=max_side_px, tick=tick))
    (calibration, taken, dropped), (held_out, kept, lost) = both
    if len(calibration) < LEAST_PICTURES:
        example = "".join(f": {path}: {reason}" for path, reason in list(dropped.items())[:1])
        raise BuildError(
            f"{folder}: {len(calibration)} usable calibration pictures, at least {LEAST_PICTURES} are needed; of "
            f"{len(split.calibration)} chosen, {len(dropped)} gave none{example}"
        )
    if len(held_out) < LEAST_HELD_OUT:
        raise BuildError(
            f"{folder}: {len(held_out)} usable pictures of people who are not calibrated on, at least {LEAST_HELD_OUT} "
            f"are needed to verify; give more people, or a --pairs file with others ({len(lost)} gave no face)"
        )
    facts = {
        "seed": "edgeface",
        "calibration_pictures": len(calibration),
        "calibration_people": len({picture.person for picture in taken}),
        "calibration_sha256": calibration.digest(),
        "calibration_dropped": len(dropped),
        "held_out_pictures": len(held_out),
        "held_out_people": len({picture.person for picture in kept}),
        "held_out_sha256": held_out.digest(),
        "held_out_dropped": len(lost),
    }
    return Material(calibration, held_out, [p.person for p in kept], [p.path for p in kept], facts)


def _split(folder: Path, pairs: Path | None, images: Path | None, *, count: int, most_held_out: int) -> Split:
    if pairs is None:
        return split_pictures(find_pictures(folder), count=count, most_held_out=most_held_out)
    root = images or folder
    named = [Picture(photo_path(root, photo), photo[0]) for photo in read_pairs(pairs).photos]
    absent = [picture.path for picture in named if not picture.path.is_file()]
    if absent:
        raise InputError(f"{pairs}: {len(absent)} of {len(named)} photographs are absent, first {absent[0]}")
    split = split_pictures(find_pictures(folder), count=count, most_held_out=0)
    used = {picture.person for picture in split.calibration}
    others = [picture for picture in named if picture.person not in used]
    return Split(split.calibration, others[:most_held_out])


def count_people(embeddings: FloatArray) -> int:
    """How many people some unit embeddings show, at least: each is compared with those counted so far."""
    leaders: list[FloatArray] = []
    for row in embeddings:
        if not leaders or float((np.stack(leaders) @ row).max()) < SAME_PERSON:
            leaders.append(row)
    return len(leaders)


def check_people(embeddings: FloatArray, name: str) -> int:
    """The number of people in the calibration pictures; BuildError when they are too few to stand for others."""
    people = count_people(embeddings)
    if people < LEAST_PEOPLE:
        raise BuildError(
            f"{name}: the {len(embeddings)} calibration pictures show {people} people as the model sees them, at least "
            f"{LEAST_PEOPLE} are needed; if they do show more, the model or its preprocessing tells nobody apart"
        )
    return people
