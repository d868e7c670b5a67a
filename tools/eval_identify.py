"""`edgeface eval identify`: does a rate that was asked for hold on people whom the thresholds were not measured on?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface.errors import InputError
from edgeface.tools.output import (
    json_option,
    precision_option,
    print_json,
    print_table,
    progress_bar,
    threads_option,
)

if TYPE_CHECKING:
    from edgeface.manifest import Thresholds
    from edgeface.types import FloatArray, IntArray

ASKED = (0.1, 0.03, 0.01, 0.003, 0.001)


@click.command("identify")
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True,
              help="Folder with one folder of photographs a person.")
@click.option("--people", "most", type=click.IntRange(50), default=600, show_default=True, help="How many to draw.")
@click.option("--photos", "each", type=click.IntRange(2), default=3, show_default=True, help="Of each person, at most.")
@click.option("--enrolled", type=click.IntRange(1), default=50, show_default=True, help="People in the gallery.")
@click.option("--templates", type=click.IntRange(1), default=1, show_default=True, help="Photographs enrolled of each.")
@click.option("--halves", type=click.IntRange(0, 1000), default=0, show_default=True,
              help="Also split the people anew so many times, and sum up.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of every draw.")
@click.option("--detector", default="yunet", show_default=True, help="Recipe name or model file.")
@click.option("--embedder", default="sface", show_default=True, help="Recipe name or model file.")
@precision_option
@threads_option
@json_option
def identify(
    images: Path, most: int, each: int, enrolled: int, templates: int, halves: int, seed: int, detector: str,
    embedder: str, precision: str, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Open-set identification: FPIR and FNIR measured against the FPIR that was asked for.

    The people are split in halves. A table of thresholds is measured on the first; the rates are measured on the
    second, whom it has not seen. The table of the model's recipe is held against the second half too, though it may
    have been measured on the same people; its origin says so. Limits are 95 % confidence limits over other people; a
    rate that rests on fewer than ten pairs of people is shown, and not judged.
    """
    from edgeface.engines.identification import open_set, over_halves
    from edgeface.engines.rates import measure_table, rate_limits
    from edgeface.policy import make_policy

    embeddings, labels, manifest = _embed(images, most, each, seed, detector, embedder, precision, threads)
    first = labels % 2 == 0  # numbers were given in drawn order
    table = measure_table(embeddings[first], labels[first], f"{int(first.sum())} photographs of half of the people")
    own = manifest.thresholds
    threshold = make_policy(manifest).threshold if own else table.points[-1].similarity

    def measured(by: Thresholds) -> list[dict[str, Any]]:
        rows = open_set(
            embeddings[~first], labels[~first], by, ASKED, enrolled=enrolled, templates=templates, seed=seed
        )
        return [asdict(row) for row in rows]

    result: dict[str, Any] = {
        "model": manifest.model_id,
        "enrolled": enrolled,
        "templates": templates,
        "table": asdict(table),
        "held_out": measured(table),
        "recipe_table": None if own is None else asdict(own),
        "recipe": [] if own is None else measured(own),
        "halves": [
            asdict(row)
            for row in over_halves(
                embeddings, labels, ASKED, enrolled=enrolled, templates=templates, halves=halves, seed=seed
            )
        ],
        "fmr_at_default": {"threshold": threshold, **asdict(rate_limits(embeddings, labels, threshold))},
    }
    if as_json:
        print_json(result)
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    click.echo(f"{result['model']}: {result['enrolled']} people enrolled, {result['templates']} templates each, "
               "drawn 30 times")  # fmt: skip
    for title, key in (("table of the other half", "held_out"), ("table of the model", "recipe")):
        rows = [
            (f"{row['asked']:g}", f"{row['fpir']:.5f}", f"{row['fpir_low']:.5f} - {row['fpir_high']:.5f}",
             f"{row['fpir'] / row['asked']:.2f}" if row["supported"] else "-", row["people_pairs"],
             f"{row['fnir']:.4f}", f"{row['threshold']:.3f}", row["strangers"], row["mates"])
            for row in result[key]
        ]  # fmt: skip
        heads = ("FPIR asked", "FPIR", "95 % limits", "ratio", "people's pairs", "FNIR", "similarity", "strangers",
                 "mates")  # fmt: skip
        print_table(title, heads, rows)
    if result["halves"]:
        _show_halves(result["halves"])
    if result["recipe_table"] is not None:
        click.echo(f"table of the model: {result['recipe_table']['origin']}")
    at = result["fmr_at_default"]
    click.echo(f"false match rate at similarity {at['threshold']:.3f}: {at['rate']:.2e}, 95 % limits "
               f"{at['low']:.2e} to {at['high']:.2e} ({at['people_pairs']} pairs of people)")  # fmt: skip


def _show_halves(halves: list[dict[str, Any]]) -> None:
    rows = [
        (f"{row['asked']:g}", row["judged"], f"{row['median']:.2f}", f"{row['least']:.2f} - {row['greatest']:.2f}",
         row["within_two"], row["exceeded"], f"{row['fnir']:.4f}")
        for row in halves
    ]  # fmt: skip
    heads = ("FPIR asked", "halves judged", "median ratio", "least - greatest", "within two", "exceeded", "FNIR")
    print_table("many halves", heads, rows)


def _embed(
    images: Path, most: int, each: int, seed: int, detector: str, embedder: str, precision: str, threads: int | None
) -> tuple[FloatArray, IntArray, Any]:
    """Unit rows, and the number of each row's person in drawn order, of photographs in which a face was found."""
    from edgeface import Detector, Embedder
    from edgeface.engines.embed_photos import embed_photos
    from edgeface.photos import SUFFIXES
    from edgeface.tools.session import open_engine

    folders = sorted(path for path in images.iterdir() if path.is_dir())
    drawn = np.random.default_rng(seed).permutation(len(folders))[:most]
    paths: list[Path] = []
    labels: list[int] = []
    for number, index in enumerate(drawn):
        photos = sorted(photo for photo in folders[index].iterdir() if photo.suffix.lower() in SUFFIXES)[:each]
        paths += photos
        labels += [number] * len(photos)
    if len(drawn) < 50 or not paths:
        raise InputError(f"{images}: expected folders of 50 people at least, got {len(drawn)}")
    with (
        open_engine(detector, precision, threads) as detecting,
        open_engine(embedder, precision, threads) as embedding,
        progress_bar("photographs", len(paths)) as progress,
    ):
        done = embed_photos(paths, Detector(detecting), Embedder(embedding), progress=progress)
        manifest = embedding.manifest
    found = done.detected
    return done.embeddings[found], np.array(labels, np.int64)[found], manifest
