"""`edgeface eval quality`: does the quality score foretell errors?"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface.errors import ConfigurationError, InputError
from edgeface.tools.output import (
    json_option,
    precision_option,
    print_json,
    print_table,
    progress_bar,
    threads_option,
)

if TYPE_CHECKING:
    from edgeface.engines.quality_study import Study
    from edgeface.manifest import Recognizability

ASKED_FMR = 1e-4  # the rate whose threshold divides matches from false non-matches


@click.command("quality")
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True,
              help="Folder with one folder of photographs a person.")
@click.option("--people", "most", type=click.IntRange(20), default=150, show_default=True,
              help="How many people with two photographs or more to draw.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the draw.")
@click.option("--detector", default="yunet", show_default=True, help="Recipe name or model file.")
@click.option("--embedder", default="sface", show_default=True, help="Recipe name or model file.")
@precision_option
@click.option("--fit", is_flag=True, help="Fit weights and centre on half of the people first, and print them.")
@threads_option
@json_option
def quality(
    images: Path, most: int, seed: int, detector: str, embedder: str, precision: str, fit: bool,
    threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Error-versus-reject curves of the quality score on photographs degraded by blur, low resolution, noise, darkness
    and JPEG.

    The second photograph of each person, clean and degraded, is compared with the first. The figures are of people
    whom the shipped weights were not fitted on (half of all names).
    """
    from edgeface import Detector, Embedder
    from edgeface.engines.quality_study import known_half, run_study
    from edgeface.policy import make_policy
    from edgeface.tools.session import open_engine

    pairs = photo_pairs(images, most, seed)
    with (
        open_engine(detector, precision, threads) as detecting,
        open_engine(embedder, precision, threads) as embedding,
        progress_bar("people", len(pairs)) as progress,
    ):
        threshold = make_policy(embedding.manifest, fmr=ASKED_FMR).threshold
        loose = make_policy(embedding.manifest, fmr=1e-3).threshold
        study = run_study(pairs, Detector(detecting), Embedder(embedding), progress=progress)
        centre, model_id = embedding.manifest.recognizability, embedding.manifest.model_id
    known = np.array([known_half(pairs[person][0].parent.name) for person in study.people])
    fitted = _fit(study.rows(known), threshold, loose) if fit else None
    if fitted is not None:
        centre = fitted
    elif centre is None:
        raise ConfigurationError(f"{model_id}: no centre of unrecognisable faces in its manifest; find it with --fit")
    result = {"model": model_id, "threshold": threshold, **report(study.rows(~known), threshold, centre)}
    if as_json:
        print_json(result)
    else:
        _show(result)


def photo_pairs(images: Path, most: int, seed: int) -> list[tuple[Path, Path]]:
    """Two photographs of each of some people, drawn at random but the same for the same seed."""
    from edgeface.photos import SUFFIXES

    pairs = []
    for folder in sorted(path for path in images.iterdir() if path.is_dir()):
        photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if len(photos) >= 2:
            pairs.append((photos[0], photos[1]))
    if len(pairs) < 20:
        raise InputError(f"{images}: expected folders of 20 people at least with two photographs, got {len(pairs)}")
    random.Random(seed).shuffle(pairs)
    return pairs[:most]


def report(study: Study, threshold: float, centre: Recognizability) -> dict[str, Any]:
    """Error-versus-reject curves by the score and by its parts alone."""
    from edgeface.engines.quality_study import reject_curve

    quality = study.quality.with_embeddings(study.embeddings, centre)
    missed = study.similarities < threshold
    kinds = {kind: study.kinds == kind for kind in sorted(set(study.kinds.tolist()))}
    measures = {
        "score": quality.score,
        "score before the network": study.quality.score,
        "recognizability": quality.recognizability,
        "size": quality.size_px,
        "sharpness": quality.sharpness,
    }
    return {
        "people": len(set(study.people.tolist())),
        "comparisons": len(study.people),
        "undetected": study.undetected,
        "fnmr": float(missed.mean()),
        "fnmr_by_kind": {kind: float(missed[rows].mean()) for kind, rows in kinds.items()},
        "by_measure": {name: reject_curve(values, missed) for name, values in measures.items()},
    }


def _fit(study: Study, threshold: float, loose: float) -> Recognizability:
    from edgeface import quality as weights
    from edgeface.engines.quality_study import fit_centre, fit_score, fit_view
    from edgeface.manifest import Recognizability

    view = fit_view(study, threshold)
    click.echo("VIEW_WEIGHTS = (" + ", ".join(f"{value:.3f}" for value in view) + ")")
    weights.VIEW_WEIGHTS = tuple(float(value) for value in view)
    centre = fit_centre(study, loose)
    bias, slope, away = (float(value) for value in fit_score(study, threshold, centre))
    click.echo("[recognizability]")
    click.echo(f"weights = [{bias:.3f}, {slope:.3f}, {away:.3f}]")
    rows = [", ".join(f"{value:.4f}" for value in centre[i : i + 12]) for i in range(0, len(centre), 12)]
    click.echo("centre = [\n    " + ",\n    ".join(rows) + ",\n]")
    return Recognizability("this run", tuple(float(value) for value in centre), (bias, slope, away))


def _show(result: dict[str, Any]) -> None:
    click.echo(f"{result['model']}: {result['people']} people, {result['comparisons']} genuine comparisons, threshold "
               f"{result['threshold']:.3f}; faces not found: {result['undetected']}")  # fmt: skip
    print_table(
        "false non-match rate by degradation",
        ("degradation", "FNMR"),
        [(kind, f"{rate:.4f}") for kind, rate in result["fnmr_by_kind"].items()],
    )
    shares = list(result["by_measure"]["score"]["fnmr"])
    rows = [
        (name, *(f"{curve['fnmr'][share]:.4f}" for share in shares), f"{curve['removed']:.3f}")
        for name, curve in result["by_measure"].items()
    ]
    print_table(
        "false non-match rate when the worst are dropped",
        ("by", *(f"{float(share):.0%} dropped" for share in shares), "false non-matches in the worst 20 %"),
        rows,
    )
