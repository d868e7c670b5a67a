"""`edgeface build`: an INT8 engine that is held against float32, or a refusal."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeface.errors import GateError
from edgeface.manifest import PRECISIONS
from edgeface.tools.output import RecipeName, json_option, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgeface.engines.build import Built, Options
    from edgeface.engines.recipe import Recipe


@click.command("build")
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...", type=RecipeName())
@click.option("--all", "every", is_flag=True, help="Build all shipped recipes.")
@click.option(
    "--calibration",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of photographs or crops, best one folder a person; for a detector, of frames.",
)
@click.option(
    "--pairs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="Verify on the people of this pairs file (LFW's format) who were not calibrated on.",
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Folder of the pairs file's photographs (default: the calibration folder).",
)
@click.option(
    "--target",
    type=click.Choice(["onnxruntime", "tensorrt", "tensorrt-rtx"]),
    default="onnxruntime",
    show_default=True,
    help="What shall run the engine.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=None,
    help="Default: INT8, with as few layers in float as the limits need; for TensorRT on this machine also FP16, and "
    "whichever is faster. int8: INT8 alone or nothing.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder of engine and report (default: the model folder).",
)
@click.option(
    "--pictures", type=click.IntRange(32, 512), default=384, show_default=True, help="Most calibration pictures."
)
@click.option(
    "--held-out", type=click.IntRange(50, 20000), default=2000, show_default=True, help="Most verification pictures."
)
@click.option(
    "--dla",
    type=click.IntRange(0, 15),
    default=None,
    metavar="CORE",
    help="With --target tensorrt: run what can run there on this DLA core (experimental).",
)
@click.option("--force", is_flag=True, help="Build even what is up to date.")
@json_option
def command(recipes: tuple[str, ...], every: bool, as_json: bool, **given: Any) -> None:  # fmt: skip
    """Quantise models to INT8, prove them against float32 on other people, and write them - or refuse.

    A RECIPE is the name of a shipped recipe or the path of a recipe file. An engine that recognises worse than its
    recipe allows is not written: exit code 1, and the report says why. What is up to date is not built again, so an
    interrupted `build --all` goes on where it stopped.
    """
    from edgeface.engines.build import Options
    from edgeface.engines.recipe import load_recipe, shipped

    if every == bool(recipes):
        raise click.UsageError("give either recipes or --all")
    if given["dla"] is not None and given["target"] != "tensorrt":
        raise click.UsageError("--dla is for --target tensorrt")
    chosen = [load_recipe(name) for name in (recipes or list(shipped()))]
    options = Options(**given)
    failures, results = [], []
    for recipe in chosen:
        try:
            results.append(_one(recipe, options))
        except GateError as error:
            if len(chosen) == 1:
                raise
            failures.append(str(error))
    if as_json:
        print_json([_document(built) for built in results])
    else:
        for built in results:
            _show(built)
    if failures:
        raise GateError("; ".join(failures))


def _one(recipe: Recipe, options: Options) -> Built:
    from edgeface import Detector, load_engine
    from edgeface.engines.build import build
    from edgeface.engines.recipe import load_recipe
    from edgeface.tools.models import ensure_models

    needed = [recipe, load_recipe("yunet")] if recipe.kind == "embedder" else [recipe]
    paths = ensure_models(needed)
    with _stages(recipe.name) as stage:
        if recipe.kind != "embedder":
            return build(recipe, options, stage=stage)
        with load_engine(paths[1]) as engine:
            return build(recipe, options, detector=Detector(engine), stage=stage)


@contextmanager
def _stages(name: str) -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """One progress bar after the other, on standard error."""
    opened = ExitStack()

    def stage(title: str, steps: int) -> Callable[[int], None]:
        opened.close()
        update = opened.enter_context(progress_bar(f"{name}: {title}", max(steps, 1)))
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            update(done)

        return tick

    with opened:  # what fails leaves its bar where it stopped
        yield stage


def _document(built: Built) -> dict[str, Any]:
    return {"path": built.path, "precision": built.precision, "up_to_date": built.up_to_date, **built.document}


def _show(built: Built) -> None:
    if built.up_to_date:
        click.echo(f"{built.path}: up to date")
        return
    from edgeface.engines.limits import verdict

    document = built.document
    rows: Sequence[Sequence[object]] = [
        (f["name"], f"{f['value']:.5f}", f"{f['limit']:g}", verdict(f), f["note"]) for f in document["findings"]
    ]
    print_table(
        f"{document['recipe']}: {built.precision} against float32", ("limit", "measured", "allowed", "", ""), rows
    )
    file = document["file"]
    left = ", ".join(document["float_layers"]) or "none"
    click.echo(f"{document['int8_share']:.2%} of the multiply-accumulates in INT8; layers left in float: {left}")
    if document["reason"]:
        click.echo(document["reason"])
    for text in document.get("off_plan", []):
        click.echo(f"warning: {text}", err=True)
    click.echo(
        f"{built.path}: {file['bytes']} bytes in {file['name']}, {file['bytes'] / file['fp32_bytes']:.3f} of float32"
    )
    click.echo(f"report: {built.path.parent / (document['recipe'] + '.' + document['asked'] + '.report.html')}")
