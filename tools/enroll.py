"""`edgeface enroll`: add a person to a gallery, from photographs or guided in front of a camera."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeface.enrolment import EnrolmentLimits
from edgeface.errors import EdgefaceError
from edgeface.tools.output import (
    PersonName,
    decision_options,
    gallery_option,
    json_option,
    key_option,
    model_options,
    not_nan,
    print_json,
)
from edgeface.tools.session import Photos, open_recognizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.gallery import Person

F = TypeVar("F", bound="Callable[..., Any]")


def limit_options(function: F) -> F:
    """One option for each limit of the enrolment gate."""
    for limit in reversed(fields(EnrolmentLimits)):
        words = limit.name.replace("_", "-")
        shown = "from the model's thresholds" if limit.default is None else f"{limit.default:g}"
        function = click.option(
            f"--{words}",
            limit.name,
            type=float,
            callback=not_nan,
            default=limit.default,
            help=f"Limit of the gate (default {shown}).",
        )(function)
    return function


@click.command("enroll")
@click.argument("name", type=PersonName())
@click.argument("photos", nargs=-1, metavar="[PHOTO...]", type=click.Path(path_type=Path))
@click.option("--camera", default=None, metavar="SOURCE",
              help="Take the photographs from this camera, file or address, with hints for the person.")  # fmt: skip
@gallery_option
@key_option
@model_options
@decision_options
@limit_options
@click.option("--force", is_flag=True, help="Enrol what the gate refuses; every refusal is logged.")
@json_option
def command(
    name: str,
    photos: tuple[Path, ...],
    camera: str | None,
    gallery_path: Path,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Enrol NAME from photographs with exactly one face each, or add to what is there of NAME.

    Each photograph passes a gate first: size, sharpness, light, pose, and that the face is not somebody else's.
    A photograph that is refused is reported and the rest is enrolled; exit code 1 says that some were refused.
    """
    limits = EnrolmentLimits(**{limit.name: options.pop(limit.name) for limit in fields(EnrolmentLimits)})
    if (camera is None) == (not photos):
        raise click.UsageError("expected photographs or --camera, and not both")
    if camera is not None:
        from edgeface.tools.enroll_camera import enroll_from_camera

        person = enroll_from_camera(name, camera, gallery_path, options, limits)
        if as_json:
            print_json({"person": vars(person)})
        else:
            click.echo(f"{person.name}: {person.templates} templates in {gallery_path}")
        return
    places = Photos(photos)
    added: Person | None = None
    enrolled = 0
    with open_recognizer(gallery_path, options) as recognizer:
        for path, frame in places:
            try:
                added = recognizer.enroll(name, frame, limits=limits, force=force)
                enrolled += 1
            except EdgefaceError as error:
                places.fail(path, error)
    if added is None:
        raise EdgefaceError(f"{name}: nothing was enrolled: none of {len(places.paths)} photographs could be used")
    if as_json:
        print_json({"person": vars(added), "photos": enrolled, "failed": places.failed})
    else:
        click.echo(f"{added.name}: {enrolled} photographs enrolled, {added.templates} templates in {gallery_path}")
    click.get_current_context().exit(places.exit_code())
