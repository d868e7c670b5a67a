"""What every subcommand shares: tables or JSON on standard output, progress bars on standard error, common options."""

from __future__ import annotations

import json
import math
import sys
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np

from edgeface.errors import InputError
from edgeface.gallery import check_name
from edgeface.manifest import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgeface.policy import Policy

F = TypeVar("F", bound="Callable[..., Any]")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
threads_option = click.option(
    "--threads", type=click.IntRange(1, 256), default=None, help="CPU threads of one run (default: all, 4 at most)."
)
gallery_option = click.option(
    "--gallery",
    "gallery_path",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="EDGEFACE_GALLERY",
    required=True,
    help="The gallery file (or set EDGEFACE_GALLERY).",
)
key_option = click.option(
    "--key-file",
    "key_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="EDGEFACE_GALLERY_KEY_FILE",
    help="The key of an encrypted gallery (or set EDGEFACE_GALLERY_KEY_FILE).",
)
liveness_option = click.option(
    "--liveness",
    default=None,
    metavar="MODEL",
    help="Your own liveness model: its recipe's name after `edgeface models fetch`, or its file. None is shipped.",
)
MODEL_FILES = (".onnx", ".plan")

precision_option = click.option(
    "--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True, help="Of models given by name."
)


def not_nan(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Callback of an option for a number: refuse NaN, which the comparisons of every range let through."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("expected a number, got NaN", context, option)
    return value


class PersonName(click.types.StringParamType):
    """A person's name, as the gallery takes it."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_name("person", value)
        except InputError as error:
            self.fail(str(error), param, ctx)


class RecipeName(click.types.StringParamType):
    """The name of a shipped recipe, or a recipe file that is there.

    Args:
        or_model: also any model file, which is looked for when it is loaded.
    """

    name = "recipe"

    def __init__(self, *, or_model: bool = False) -> None:
        self.or_model = or_model

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from edgeface.engines.recipe import shipped

        text = str(value)
        if text in shipped() or (self.or_model and text.endswith(MODEL_FILES)) or (text and Path(text).exists()):
            return text
        return self.fail(f"{text!r}: no such recipe file; shipped recipes are {', '.join(shipped())}", param, ctx)


def model_options(function: F) -> F:
    """The options that choose models: of every command that recognises."""
    options = [
        click.option("--detector", default="yunet", show_default=True, help="Recipe name or model file."),
        click.option("--embedder", default="sface", show_default=True, help="Recipe name or model file."),
        precision_option,
        click.option("--runtime", type=click.Choice(["auto", "tensorrt", "onnxruntime"]), default="auto",
                     show_default=True, help="auto: TensorRT where an engine runs, else the CPU; others: only that."),
        click.option("--max-side", "max_side_px", type=click.IntRange(32, 8192), default=640, show_default=True,
                     help="Longest side in px at which the detector runs."),
        threads_option,
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


RATE = click.FloatRange(0, 1, min_open=True, max_open=True)


def decision_options(function: F) -> F:
    """The options that set the threshold of a search."""
    fpir = click.option("--fpir", type=RATE, default=None, callback=_one_threshold,
                        help="False positive identification rate of one search instead, whatever the number of "
                             "templates.")  # fmt: skip
    return comparison_options(fpir(function))


def comparison_options(function: F) -> F:
    """The options that set the threshold of one comparison."""
    options = [
        click.option("--fmr", type=RATE, default=None, callback=_one_threshold,
                     help="False match rate of one comparison (default 1e-4)."),
        click.option("--threshold", type=click.FloatRange(-1, 1), default=None, callback=_one_threshold,
                     help="A similarity instead of a rate."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def _one_threshold(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Refuse a second of the options that set the threshold."""
    given: list[str] = context.meta.setdefault("edgeface.threshold", [])
    if value is not None:
        given.append(f"--{option.name}")
    if len(given) > 1:
        raise click.UsageError(f"give one of --fmr, --fpir and --threshold, got {' and '.join(given)}", context)
    return not_nan(context, option, value)


def print_json(document: Any) -> None:
    """JSON with stable order; NaN and infinity, which JSON lacks, become null."""
    text = json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a terminal without Unicode, or the name of a file that is not UTF-8
        text = json.dumps(_plain(document), indent=2, allow_nan=False)
    click.echo(text)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; columns of numbers are aligned to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left")
    for number, column in enumerate(columns):
        cells = [row[number] for row in rows]
        numeric = bool(cells) and all(isinstance(cell, (int, float, np.number)) or cell is None for cell in cells)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:  # a file or pipe has no width: let long lines be
        console.width = 200
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.3g}" if 0 < abs(float(value)) < 0.01 else f"{float(value):.2f}"
    return str(value)


@contextmanager
def progress_bar(title: str, total: int, *, as_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; the value is called with what is done so far. Silent where nobody watches.

    Work that fails leaves the bar where it stopped.
    """
    if not sys.stderr.isatty():  # a log file or a service's journal is no place for a bar
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    amount = DownloadColumn() if as_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)

        def update(done: int) -> None:
            progress.update(task, completed=min(done, total))

        yield update
        progress.update(task, completed=total)


def print_thresholds(table: dict[str, Any]) -> None:
    """A table of thresholds, as `asdict` gives it: rates with their limits, and where they come from."""
    rows = []
    for point in table["points"]:
        limits = "-" if point["fmr_high"] is None else f"{point['fmr_low']:.3g} - {point['fmr_high']:.3g}"
        rows.append((f"{point['fmr']:.3g}", limits, f"{point['similarity']:.4f}", f"{point['tar']:.4f}"))
    print_table("thresholds", ("false match rate", "95 % limits", "similarity", "TAR"), rows)
    click.echo(f"{table['impostor_pairs']} impostor pairs: {table['origin']}")
    if table["limits_origin"]:
        click.echo(f"limits: {table['limits_origin']}")


def describe_rate(policy: Policy) -> str:
    """A policy's threshold and what it costs, in a line."""
    if policy.fmr is None or policy.measured is None:
        return f"match from similarity {policy.threshold:.3f}: {policy.origin}"
    asked = "" if policy.fpir is None else f", for a false positive identification rate of {policy.fpir:g}"
    at = policy.measured
    known = "" if at.fmr_low is None else f", 95 % limits {at.fmr_low:.2g} to {at.fmr_high:.2g}"
    return (
        f"match from similarity {policy.threshold:.3f}: false match rate of a comparison at most {policy.fmr:.3g}"
        f"{asked} (measured {at.fmr:.2g}{known})"
    )
