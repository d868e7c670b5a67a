"""`edgeface eval`: error rates on photographs of known people."""

from __future__ import annotations

import io
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface.errors import EdgefaceError, InputError
from edgeface.home import try_folder, write_atomically
from edgeface.tools.eval_identify import identify
from edgeface.tools.eval_liveness import liveness
from edgeface.tools.eval_quality import quality
from edgeface.tools.output import (
    MODEL_FILES,
    RecipeName,
    json_option,
    print_json,
    print_table,
    progress_bar,
    threads_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeface.engines.embed_photos import Embedded
    from edgeface.runtime import Engine


@click.group("eval")
def command() -> None:
    """Measure error rates on photographs of known people."""


@command.command("pairs")
@click.option("--images", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Folder with name/name_0001.jpg and so on.")
@click.option("--pairs", "pairs_file", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="Pairs file in LFW's format.")
@click.option("--recipe", type=RecipeName(or_model=True), default="sface", show_default=True,
              help="The embedder: recipe name or file, or model file.")
@click.option("--engine", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="A built engine of the embedder, instead of the recipe's FP32 model.")
@click.option("--detector", type=RecipeName(or_model=True), default="yunet", show_default=True,
              help="Recipe name, recipe file or model file.")
@click.option("--max-side", "max_side_px", type=click.IntRange(32, 8192), default=640, show_default=True)
@click.option("--embeddings", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="Keep names and vectors in this .npz file (names, E).")
@click.option("--fresh", is_flag=True, help="Do not resume an interrupted run.")
@threads_option
@json_option
def pairs(
    images: Path,
    pairs_file: Path,
    recipe: str,
    engine: Path | None,
    detector: str,
    max_side_px: int,
    embeddings: Path | None,
    fresh: bool,
    threads: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Run the LFW protocol from the photographs on: detect, align, embed, compare.

    Gives the accuracy over the folds (threshold chosen on the other folds), TAR at FAR 1e-2 to 1e-6 over the pairs and
    over all pairs of the photographs that the file names, rank-1 identification, failures to detect and times.
    An interrupted run goes on where it stopped.
    """
    from edgeface import Detector, Embedder, load_engine
    from edgeface.engines import pairs as protocol
    from edgeface.engines.embed_photos import embed_photos

    listed = protocol.read_pairs(pairs_file)
    photos = listed.photos
    paths = [protocol.photo_path(images, photo) for photo in photos]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise InputError(
            f"{images}: {len(absent)} of {len(paths)} photographs of {pairs_file} are absent, first {absent[0]}"
        )
    if embeddings is not None:
        with _keeping(embeddings):  # before hours of work
            try_folder(embeddings.parent)
    with (
        _engine(detector, threads) as detecting,
        (load_engine(engine, threads=threads) if engine else _engine(recipe, threads)) as embedding,
        progress_bar("photographs", len(paths)) as progress,
    ):
        finder, embedder = Detector(detecting, max_side_px=max_side_px), Embedder(embedding)
        done = embed_photos(paths, finder, embedder, resume=not fresh, progress=progress)
        runtime, manifest = embedding.description, embedding.manifest
    result = {
        "model": manifest.model_id,
        "precision": manifest.precision,
        "runtime": runtime,
        **protocol.score(listed, photos, done.embeddings),
        "photos": len(photos),
        "failures_to_detect": int((~done.detected).sum()),
        "unreadable": done.errors,
        "stages_ms": stage_times(done),
    }
    if embeddings is not None:
        _keep(embeddings, photos, done)
    if as_json:
        print_json(result)
    else:
        _show(result)


def _engine(name: str, threads: int | None) -> Engine:
    """The engine of a recipe by name or file, fetched when absent, or of a model file."""
    from edgeface import load_engine
    from edgeface.engines.recipe import load_recipe
    from edgeface.tools.models import ensure_models

    if name.endswith(MODEL_FILES):
        return load_engine(name, threads=threads)
    return load_engine(ensure_models([load_recipe(name)])[0], threads=threads)


def stage_times(done: Embedded) -> dict[str, dict[str, float]]:
    """Median and 99th percentile of each stage in milliseconds, over the photographs in which it ran."""
    from edgeface.engines.embed_photos import STAGES

    times = {}
    for column, stage in enumerate(STAGES):
        values = done.stages_ms[:, column]
        values = values[~np.isnan(values)]
        if len(values):
            times[stage] = {"median": float(np.median(values)), "p99": float(np.percentile(values, 99))}
    return times


def _keep(file: Path, photos: list[tuple[str, int]], done: Embedded) -> None:
    packed = io.BytesIO()
    names = np.array([f"{name}/{name}_{number:04d}" for name, number in photos])
    np.savez(packed, names=names, E=done.embeddings)
    with _keeping(file):
        write_atomically(file, packed.getvalue(), mode=0o600)


@contextmanager
def _keeping(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EdgefaceError(f"{file}: cannot write the embeddings: {error}") from error


def _show(result: dict[str, Any]) -> None:
    click.echo(f"{result['model']} computing in {result['precision']} on {result['runtime']}")
    click.echo(f"accuracy {result['accuracy_mean']:.2f} % +- {result['accuracy_std']:.2f}")
    rank1 = result["rank1"]
    click.echo(f"rank-1 identification {'-' if rank1 is None else f'{rank1:.4f}'}")
    click.echo(f"{result['photos']} photographs, {result['failures_to_detect']} without a face found")
    rows = [
        (title, rate, point["tar"], point["similarity"], "" if point["supported"] else "fewer than 10 pairs behind it")
        for title, key in (("the pairs", "pairs_tar"), ("all pairs", "all_pairs_tar"))
        for rate, point in result[key].items()
    ]
    rows = [(a, b, f"{c:.4f}", f"{d:.4f}", e) for a, b, c, d, e in rows]
    print_table("true accept rates", ("over", "FAR", "TAR", "similarity", "note"), rows)
    if result["thresholds"] is not None:
        from edgeface.tools.output import print_thresholds

        print_thresholds(result["thresholds"])
    times = [(stage, value["median"], value["p99"]) for stage, value in result["stages_ms"].items()]
    print_table("milliseconds", ("stage", "median", "p99"), times)


command.add_command(identify)
command.add_command(liveness)
command.add_command(quality)
