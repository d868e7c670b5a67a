"""INT8 by edgeface, by onnxruntime and by nvidia-modelopt: the same network, calibration pictures and other people.

All are measured by the exact simulation, Q/DQ as written: onnxruntime's fusions differ from file to file, and on x86
those of 1.32 make noise of nvidia-modelopt's files with FP16 between INT8 layers. Seconds are of quantisation alone.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface.errors import BuildError, MissingDependencyError
from edgeface.tools.output import RecipeName, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeface.engines.judge import Judge
    from edgeface.engines.material import Material
    from edgeface.engines.recipe import Recipe

TITLE = "INT8 beside other quantisers"
OPTIONS = [
    click.Option(["--images"], type=click.Path(exists=True, file_okay=False, path_type=Path), required=True,
                 help="Folder of photographs or crops, best one folder a person."),
    click.Option(["--pairs"], type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None,
                 help="Verify on the people of this pairs file (LFW's format) who were not calibrated on."),
    click.Option(["--model", "models"], type=RecipeName(), multiple=True, default=("sface", "yunet"),
                 show_default=True, help="Recipe, shipped or a file; may be repeated."),
    click.Option(["--pictures"], type=click.IntRange(32, 512), default=128, show_default=True,
                 help="Most calibration pictures."),
    click.Option(["--held-out"], type=click.IntRange(50, 20000), default=1000, show_default=True,
                 help="Most verification pictures."),
    click.Option(["--modelopt"], type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None,
                 help="Python of an environment with nvidia-modelopt[onnx] (default: this one)."),
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One quantiser on one model.

    Attributes:
        model, kind: of the recipe. quantiser: with its version.
        failed: why there are no figures.
        seconds: of quantisation. size_ratio: of the file to float32's. int8_share: of multiply-accumulates.
        objections: to NVIDIA's rules, read off the file. parsed: what NVIDIA's parser says, empty where it accepts,
            None where it is not installed.
        figures: of accuracy against float32, by name.
    """

    model: str
    kind: str
    quantiser: str
    failed: str = ""
    seconds: float = 0.0
    size_ratio: float = 0.0
    int8_share: float = 0.0
    objections: list[str] = field(default_factory=list)
    parsed: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """One line for who waits."""
        return f"{self.model}, {self.quantiser}: {self.failed or f'{self.seconds:.1f} s'}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rows(
    *, images: Path, pairs: Path | None, models: tuple[str, ...], pictures: int, held_out: int, modelopt: Path | None
) -> Iterator[Row]:
    """One row for each model and quantiser."""
    from edgeface import Detector, load_engine
    from edgeface.engines.intake import check_kind
    from edgeface.engines.material import gather
    from edgeface.engines.recipe import load_recipe
    from edgeface.tools.models import ensure_models

    for name in models:
        recipe = load_recipe(name)
        check_kind(recipe)
        detecting = ensure_models([recipe, load_recipe("yunet")])[1]
        with ExitStack() as stack:
            detector = Detector(stack.enter_context(load_engine(detecting))) if recipe.kind == "embedder" else None
            material = gather(
                recipe, images, pairs=pairs if recipe.kind == "embedder" else None, images=images, detector=detector,
                count=pictures, most_held_out=held_out,
            )  # fmt: skip
        yield from _model_rows(recipe, material, modelopt)


def _model_rows(recipe: Recipe, material: Material, python: Path | None) -> Iterator[Row]:
    from edgeface.engines import quantisers
    from edgeface.engines.intake import read_network
    from edgeface.engines.judge import graph_run, make_judge
    from edgeface.engines.models import load_stored
    from edgeface.engines.pack import pack
    from edgeface.engines.prepare import prepare
    from edgeface.engines.quantize import quantize

    content = load_stored(recipe)
    network = read_network(content, recipe)
    judge = make_judge(recipe, graph_run(recipe, network), material)

    def ours(content: bytes, name: str, inputs: Any) -> bytes:
        return pack(quantize(prepare(network), inputs, judge.error, recipe=recipe).graph).to_bytes()

    runtime = f"onnxruntime {metadata.version('onnxruntime')}"
    peers: list[tuple[str, Callable[[bytes, str, Any], bytes]]] = [
        (f"edgeface {metadata.version('edgeface')}", ours),
        (f"{runtime}, quantize_static, all defaults", quantisers.onnxruntime_default),
        (f"{runtime}, quantize_static, as NVIDIA's parser takes it", quantisers.onnxruntime_for_nvidia),
    ]
    lacking = None
    try:
        version = quantisers.modelopt_version(python)
        peers.append((f"nvidia-modelopt {version}, INT8, all defaults", quantisers.modelopt(python)))
    except (MissingDependencyError, BuildError) as error:
        lacking = Row(recipe.name, recipe.kind, "nvidia-modelopt", failed=str(error))
    for title, quantise in peers:
        start = time.perf_counter()
        try:
            result = quantise(content, recipe.input_name, material.calibration)
            seconds = time.perf_counter() - start
            yield _measured(recipe, material, judge, title, seconds, len(content), result)
        except BuildError as error:
            yield Row(recipe.name, recipe.kind, title, failed=str(error))
    if lacking:
        yield lacking


def _measured(
    recipe: Recipe, material: Material, judge: Judge, title: str, seconds: float, before: int, content: bytes
) -> Row:
    from edgeface.engines import quantisers
    from edgeface.engines.judge import graph_run

    graph = quantisers.graph_of(content)
    share = quantisers.int8_share(graph, material.calibration)
    figures = judge.measure(graph_run(recipe, graph), int8_share=share, quantised=True).figures
    if recipe.kind == "detector":
        errors = np.array(figures["point_errors"])
        figures = {key: figures[key] for key in ("faces", "recall", "extra", "box_overlap")} | {
            f"points_share_{limit}": float((errors <= limit / 100).mean()) if len(errors) else 0.0 for limit in (1, 3)
        }
    else:
        keys = ("pictures", "people", "impostor_pairs", "cosine_mean", "cosine_p1", "cosine_min", "losses")
        figures = {key: figures[key] for key in keys}
    return Row(
        recipe.name, recipe.kind, title, seconds=seconds, size_ratio=len(content) / before, int8_share=share,
        objections=quantisers.objections(graph), parsed=quantisers.parsed(content), figures=figures,
    )  # fmt: skip


def show(title: str, facts: dict[str, Any], rows: list[Row]) -> None:
    """A table for each model: embedders and detectors have other columns."""
    tail = ("size", "INT8", "NVIDIA's rules", "s")
    for name in dict.fromkeys(row.model for row in rows):
        some = [row for row in rows if row.model == name]
        embedder = some[0].kind == "embedder"
        head = ("cosine mean", "p1", "least", "TAR loss 1e-3", "1e-4", "1e-5", "shift 1e-4")
        columns = head if embedder else ("recall", "points in 1 %", "in 3 %", "extra faces")
        cells = [(row.quantiser, *(_embedder if embedder else _detector)(row), *_tail(row)) for row in some
                 if not row.failed]  # fmt: skip
        print_table(f"{name}: {title}", ("", *columns, *tail), cells)
        for row in some:
            if row.failed:
                click.echo(f"{row.quantiser}: no figures: {row.failed}")
    click.echo(
        "size: of the file to float32's; INT8: share of multiply-accumulates; (n): fewer than ten impostor pairs"
    )
    click.echo(", ".join(f"{key} {value}" for key, value in facts.items() if value is not None))


def _embedder(row: Row) -> list[str]:
    figures = row.figures
    losses = [loss if loss["supported"] else None for loss in figures["losses"]] or [None] * 3
    cells = [f"{figures[key]:.4f}" for key in ("cosine_mean", "cosine_p1", "cosine_min")]
    cells += ["(n)" if loss is None else f"{loss['loss']:.4f} ({loss['error']:.4f})" for loss in losses]
    return [*cells, "(n)" if losses[1] is None else f"{losses[1]['shift']:.4f}"]


def _detector(row: Row) -> list[str]:
    figures = row.figures
    shares = [f"{figures[key]:.4f}" for key in ("recall", "points_share_1", "points_share_3")]
    return [*shares, f"{figures['extra']} of {figures['faces']}"]


def _tail(row: Row) -> list[str]:
    says = "" if row.parsed is None else "parser refuses" if row.parsed else "parser accepts"
    rules = "; ".join(part for part in (", ".join(row.objections) or "kept", says) if part)
    return [f"{row.size_ratio:.3f}", f"{row.int8_share:.1%}", rules, f"{row.seconds:.0f}"]
