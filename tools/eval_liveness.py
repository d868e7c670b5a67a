"""`edgeface eval liveness`: how often a liveness model is deceived, and how often it refuses people."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface.errors import InputError
from edgeface.tools.output import json_option, print_json, print_table, progress_bar, threads_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface import Detector, LivenessDetector
    from edgeface.engines.attack_rates import Presentations

BONA_FIDE, ATTACK = "bona_fide", "attack_"
LEAST = 30  # pictures of a kind: without a single error among so many, up to 12 % may be wrong


@click.command("liveness")
@click.option("--images", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Folder with bona_fide/ and attack_KIND/ for each kind of attack.")
@click.option("--model", required=True, metavar="MODEL",
              help="Your own liveness model: its recipe's name after `edgeface models fetch`, or its file.")
@click.option("--detector", default="yunet", show_default=True, help="Recipe name or model file.")
@click.option("--max-side", "max_side_px", type=click.IntRange(32, 8192), default=640, show_default=True,
              help="Longest side in px at which the detector runs.")
@threads_option
@json_option
def liveness(
    images: Path, model: str, detector: str, max_side_px: int, threads: int | None, as_json: bool
) -> None:  # fmt: skip
    """APCER of each kind of attack and BPCER (ISO/IEC 30107-3), with 95 % limits, of single pictures.

    The folders hold pictures, or one folder of pictures a subject: a person, or an instrument such as one print.
    A picture is accepted as live at the model's `live_from`; `unsure` is not accepted. A picture without a face is a
    non-response and counted apart. Of several faces the largest near the middle counts.
    """
    from edgeface import Detector, LivenessDetector
    from edgeface.engines.attack_rates import report
    from edgeface.runtime.choice import choose, is_file
    from edgeface.tools.session import open_engine

    kinds = listed(images)
    _enough(images, {kind: len(pictures) for kind, pictures in kinds.items()})
    alive = choose(model, runtime="auto" if is_file(model) else "onnxruntime", threads=threads)[0]
    with (
        alive,
        open_engine(detector, "fp32", threads) as detecting,
        progress_bar("pictures", sum(map(len, kinds.values()))) as progress,
    ):
        judge, finder = LivenessDetector(alive), Detector(detecting, max_side_px=max_side_px)
        unreadable: dict[str, str] = {}
        shown = _scored(kinds, finder, judge, unreadable, progress)
        _enough(images, {kind: len(one.scores) for kind, one in shown.items()})
        genuine = shown.pop(BONA_FIDE)
        result: dict[str, Any] = {
            "model": alive.manifest.model_id,
            "detector": detecting.manifest.model_id,
            "thresholds": {"live_from": judge.spec.live_from, "spoof_below": judge.spec.spoof_below},
            **report(genuine, shown, judge.spec),
            "unreadable": unreadable,
        }
    if as_json:
        print_json(result)
    else:
        _show(result)
    click.get_current_context().exit(1 if unreadable else 0)


def listed(images: Path) -> dict[str, list[tuple[Path, str]]]:
    """The pictures of each kind with their subjects; bona fide first.

    Raises:
        InputError: a folder is missing or is of no kind: a misspelt one must not be left out in silence.
    """
    from edgeface.photos import SUFFIXES

    if not images.is_dir():
        raise InputError(f"{images}: no such folder")
    folders = sorted(path for path in images.iterdir() if path.is_dir() and not path.name.startswith("."))
    strange = [path for path in folders if path.name != BONA_FIDE and not re.fullmatch(f"{ATTACK}.+", path.name)]
    attacks = [path for path in folders if path.name.startswith(ATTACK)]
    if strange or not attacks or not (images / BONA_FIDE).is_dir():
        found = ", ".join(path.name for path in folders) or "none"
        raise InputError(
            f"{images}: expected the folders {BONA_FIDE} and {ATTACK}KIND for each kind of attack, such as "
            f"{ATTACK}print, and no others; got {found}"
        )
    kinds = {}
    for folder in (images / BONA_FIDE, *attacks):
        pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        kinds[folder.name] = [(path, path.relative_to(folder).parts[0]) for path in pictures]
    return kinds


def _enough(images: Path, counts: dict[str, int]) -> None:
    few = ", ".join(f"{kind} has {count}" for kind, count in counts.items() if count < LEAST)
    if few:
        raise InputError(f"{images}: expected {LEAST} readable pictures or more of every kind; {few}")


def _scored(
    kinds: dict[str, list[tuple[Path, str]]],
    finder: Detector,
    judge: LivenessDetector,
    unreadable: dict[str, str],
    progress: Callable[[int], None],
) -> dict[str, Presentations]:
    from edgeface.engines.attack_rates import Presentations
    from edgeface.photos import read_photo

    shown: dict[str, Presentations] = {}
    done = 0
    for kind, pictures in kinds.items():
        scores: list[float] = []
        subjects: list[str] = []
        for path, subject in pictures:
            try:
                frame = read_photo(path)
                face = finder.detect(frame).subject(*frame.shape[:2])
            except InputError as error:
                unreadable[str(path)] = str(error)
                click.echo(f"edgeface: {error}", err=True)
            else:
                scores.append(float(judge.scores(frame, face.boxes)[0]) if len(face) else float("nan"))
                subjects.append(subject)
            done += 1
            progress(done)
        codes = np.unique(np.array(subjects, str), return_inverse=True)[1].astype(np.int64)
        shown[kind] = Presentations(np.array(scores, np.float64), codes)
    return shown


def _show(result: dict[str, Any]) -> None:
    given = result["thresholds"]
    click.echo(f"{result['model']}: live from {given['live_from']:g}, spoof below {given['spoof_below']:g}; "
               "single pictures, 95 % limits")  # fmt: skip
    rows = [("bona fide", "BPCER", *_cells(result["bona_fide"], "bpcer", "bpnrr"))]
    rows += [(kind, "APCER", *_cells(row, "apcer", "apnrr")) for kind, row in result["attacks"].items()]
    columns = ("pictures of", "rate", "", "95 % limits", "with a face", "subjects", "no face found", "unsure")
    print_table("presentation attack detection", columns, rows)
    if result["worst"] is not None:
        click.echo(f"worst APCER: {result['worst']['apcer']['rate']:.4f} of {result['worst']['kind']}")
    for row in result["bpcer_at_apcer"]:
        if row["bpcer"] is None:
            click.echo(f"BPCER at APCER {row['apcer']:.0%}: not supported: {row['why']}")
        else:
            click.echo(f"BPCER at APCER {row['apcer']:.0%}: {row['bpcer']['rate']:.4f} ({_limits(row['bpcer'])}), "
                       f"live from {row['live_from']:.4f}")  # fmt: skip


def _cells(row: dict[str, Any], error: str, silent: str) -> tuple[object, ...]:
    rate = row[error]
    shown = "-" if rate["rate"] is None else f"{rate['rate']:.4f}"
    unsure = "-" if row["unsure"] is None else f"{row['unsure']:.4f}"
    return shown, _limits(rate), rate["count"], rate["subjects"], f"{row[silent]['rate']:.4f}", unsure


def _limits(rate: dict[str, Any]) -> str:
    return f"{rate['low']:.4f} to {rate['high']:.4f}"
