"""`edgeface compare`: layer by layer where two versions of a model first differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeface.manifest import PRECISIONS
from edgeface.tools.output import (
    MODEL_FILES,
    RecipeName,
    json_option,
    not_nan,
    print_json,
    print_table,
    progress_bar,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeface.engines.compare import Model


class ModelName(RecipeName):
    """A recipe with a precision behind an @ (float32 without one), or a model file."""

    name = "model"

    def __init__(self) -> None:
        super().__init__(or_model=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        recipe, at, precision = text.rpartition("@")
        if text.endswith(MODEL_FILES) or not at:
            return super().convert(text, param, ctx)
        if precision not in PRECISIONS:
            self.fail(f"{text!r}: expected one of {', '.join(PRECISIONS)} behind the @, got {precision!r}", param, ctx)
        return f"{super().convert(recipe, param, ctx)}@{precision}"


@click.command("compare")
@click.argument("a", type=ModelName())
@click.argument("b", type=ModelName())
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of photographs or crops; for a detector, of frames.",
)
@click.option(
    "--pictures", type=click.IntRange(8, 5000), default=64, show_default=True, help="Most pictures to compare on."
)
@click.option(
    "--limit",
    "limit_db",
    type=click.FloatRange(0, 140),
    callback=not_nan,
    default=15.0,
    show_default=True,
    help="A layer differs where signal over error of one of its channels, by its own doing, is less (in dB).",
)
@click.option("--max-side", "max_side_px", type=click.IntRange(32, 8192), default=640, show_default=True,
              help="Longest side in px of a detector's frames.")  # fmt: skip
@json_option
def command(a: str, b: str, images: Path, as_json: bool, **options: Any) -> None:  # fmt: skip
    """Show layer by layer where the models A and B first differ, and what that does to their outputs.

    A and B are two versions of one network: names such as sface and sface@int8, or model files with their manifests.
    Pictures pass through the preprocessing of A. Channels that equalisation rescaled are scaled back before they are
    compared, so errors are in units of A.
    """
    from edgeface.engines.compare import compare

    models = _open(a), _open(b)
    with _detector(models[0]) as detector, progress_bar("comparing", 3 * options["pictures"]) as update:
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            update(done)

        document = compare(*models, images, detector=detector, tick=tick, **options)
    if as_json:
        print_json(document)
    else:
        _show(a, b, document)


def _open(given: str) -> Model:
    from edgeface.engines.compare import open_model, stored_path
    from edgeface.engines.recipe import load_recipe
    from edgeface.tools.session import fetch_if_default

    if given.endswith(MODEL_FILES):
        return open_model(Path(given))
    name, _, precision = given.rpartition("@") if "@" in given else (given, "", "fp32")
    if precision == "fp32":
        fetch_if_default(name)
    return open_model(stored_path(load_recipe(name).name, precision))


def _detector(model: Model) -> Any:
    """A context with what cuts faces out of photographs; with None where the frames are whole."""
    from contextlib import contextmanager, nullcontext

    from edgeface import Detector, load_engine
    from edgeface.engines.recipe import load_recipe
    from edgeface.tools.models import ensure_models

    if model.manifest.kind == "detector":
        return nullcontext()

    @contextmanager
    def opened() -> Any:
        with load_engine(ensure_models([load_recipe("yunet")])[0]) as engine:
            yield Detector(engine)

    return opened()


def _show(a: str, b: str, document: Mapping[str, Any]) -> None:
    for item in document["preprocessing"]:
        click.echo(f"PREPROCESSING DIFFERS: {item['key']} is {item['a']} in A and {item['b']} in B")
    if document["layers"]:
        columns = ["layer", "A", "B", "own dB", "worst channel", "input dB", "dB", "cosine"]
        columns += ["mean error", "largest", "scaled by"]
        print_table(f"A = {a}, B = {b}", columns, [_cells(row) for row in document["layers"]])
        click.echo(
            f"layers matched by {document['matched_by']}; dB: signal over error; own, of the layer alone when it reads "
            "what it reads in A, and of its worst channel; then accumulated at its input and output; scaled by: "
            "factors that B's channels were given"
        )
    else:
        click.echo(document["layers_note"])
    _verdict(document)
    titles = {"outputs": "outputs, both fed as A", "outputs_own": "outputs, each fed as its manifest says"}
    for key, title in titles.items():
        if key in document:
            click.echo(title)  # a table this narrow would break it
            print_table("", ("", ""), _outputs(document[key]))
    used = document["pictures"]
    click.echo(f"{used['used']} pictures, {used['dropped']} gave no input")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    levels = [row["own_db"], row["channel_db"], row["input"]["sqnr_db"], row["output"]["sqnr_db"]]
    written = row["output"]
    if written["sqnr_db"] is None:
        shown = [f"NaN or infinity on {written['not_finite_pictures']} pictures", "-", "-", "-"]
    else:
        gains = "-" if written["gain_least"] is None else f"{written['gain_least']:.3g} to {written['gain_most']:.3g}"
        numbers = (f"{written[key]:.3g}" for key in ("mean_error", "largest_error"))
        shown = [f"{written['cosine']:.5f}", *numbers, gains]
    decibels = ("-" if level is None else f"{level:.1f}" for level in levels)
    return (row["layer"], row["precision_a"], row["precision_b"], *decibels, *shown)


def _verdict(document: Mapping[str, Any]) -> None:
    if not document["layers"]:
        return
    first, worst = document["first"], document["worst"]
    limit = f"{document['limit_db']:g} dB"
    if first is not None:
        click.echo(f"the first layer with a channel below {limit} by its own doing is {_named(first)}")
        click.echo("(a wrong scale in a layer whose bias is near 0 shows in the next one)")
    elif worst is not None:
        click.echo(f"no layer has a channel below {limit} by its own doing; the worst is {_named(worst)}")
    else:
        click.echo("every layer computes the same but for the rounding of float32")


def _named(found: Mapping[str, Any]) -> str:
    if found["own_db"] is None:
        return f"{found['layer']}: NaN or infinity"
    level = f"{found['channel_db']:.1f} dB in channel {found['channel']}"
    before = ", ".join(found["reads_from"]) or "the picture"
    return f"{found['layer']}: {level}, {found['own_db']:.1f} dB in all; it reads from {before}"


def _outputs(figures: Mapping[str, Any]) -> list[tuple[str, object]]:
    if "not_finite" in figures:
        return [("NaN or infinity in", ", ".join(figures["not_finite"]))]
    rows = [(key, f"{value:.5f}" if isinstance(value, float) else value) for key, value in figures.items()
            if key != "losses"]  # fmt: skip
    for loss in figures.get("losses", []):
        rows.append((f"loss of TAR at FAR {loss['far']:g}", f"{loss['loss']:.5f} (error {loss['error']:.5f})"))
    return rows
