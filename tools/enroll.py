"""`edgeface enroll`: add a person to a gallery, from photographs or guided in front of a camera."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeface.enrolment import EnrolmentLimits
from edgeface.errors import EdgefaceError, InputError
from edgeface.gallery.person import pack_metadata
from edgeface.tools.enroll_people import find_people
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

    from edgeface import FaceRecognizer
    from edgeface.gallery import Person

F = TypeVar("F", bound="Callable[..., Any]")


#: Each limit of the gate in a few words.
LIMITS = {
    "min_size_px": "Shorter side of the face in pixels",
    "min_sharpness": "Variance of the Laplacian of the aligned face",
    "min_exposure": "Mean grey of the face, 0 to 1, at least",
    "max_exposure": "Mean grey of the face, 0 to 1, at most",
    "min_contrast": "Standard deviation of the face's grey, 0 to 0.5",
    "max_yaw_deg": "Head turned left or right",
    "max_pitch_deg": "Head turned up or down",
    "max_roll_deg": "Head tilted to a shoulder",
    "min_quality": "Quality score of the view, 0 to 1",
    "min_agreement": "Least similarity to the person's other photographs",
    "max_other_similarity": "From this similarity to another person on the face is theirs",
}


def limit_options(function: F) -> F:
    """One option for each limit of the enrolment gate."""
    for limit in reversed(fields(EnrolmentLimits)):
        shown = "from the model's thresholds" if limit.default is None else f"{limit.default:g}"
        function = click.option(
            f"--{limit.name.replace('_', '-')}",
            limit.name,
            type=float,
            callback=not_nan,
            default=limit.default,
            help=f"{LIMITS[limit.name]} (default {shown}).",
        )(function)
    return function


def _json_object(_context: click.Context, _option: click.Parameter, given: str | None) -> dict[str, Any] | None:
    if given is None:
        return None
    try:
        found = json.loads(given)
        pack_metadata("--metadata", found)
    except (ValueError, RecursionError, InputError) as error:
        raise click.BadParameter(f"expected a JSON object such as '{{\"badge\": 7}}': {error}") from error
    return dict(found)


@click.command("enroll")
@click.argument("name", required=False, type=PersonName())
@click.argument("photos", nargs=-1, metavar="[PHOTO...]", type=click.Path(path_type=Path))
@click.option("--camera", default=None, metavar="SOURCE",
              help="Take the photographs from this camera, file or address, with hints for the person.")  # fmt: skip
@click.option("--people", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Enrol everybody of this folder: a folder of photographs for each person, or NAME.jpg.")  # fmt: skip
@click.option("--metadata", default=None, metavar="JSON", callback=_json_object,
              help="Keep this JSON object with NAME, in place of the one there: a badge, for instance.")  # fmt: skip
@gallery_option
@key_option
@model_options
@decision_options
@limit_options
@click.option("--force", is_flag=True, help="Enrol what the gate refuses; every refusal is logged.")
@json_option
def command(
    name: str | None,
    photos: tuple[Path, ...],
    camera: str | None,
    folder: Path | None,
    metadata: dict[str, Any] | None,
    gallery_path: Path,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Enrol NAME from photographs with exactly one face each, or add to what is there of NAME.

    Each photograph passes a gate first: size, sharpness, light, pose, and that the face is not somebody else's.
    A photograph that is refused is reported and the rest is enrolled, and so is a name of --people that no gallery
    takes; exit code 1 says that some were refused. With --json, `nobody` has the people of whom none was taken.
    """
    limits = EnrolmentLimits(**{limit.name: options.pop(limit.name) for limit in fields(EnrolmentLimits)})
    if (name is None) != (folder is not None) or (bool(photos) + (camera is not None) + (folder is not None)) != 1:
        raise click.UsageError("expected NAME with photographs, NAME with --camera, or --people alone")
    if metadata is not None and folder is not None:
        raise click.UsageError("--metadata is of one person: it goes with NAME, not with --people")
    if camera is not None:
        from edgeface.tools.enroll_camera import enroll_from_camera

        person = enroll_from_camera(str(name), camera, gallery_path, options, limits, metadata)
        if as_json:
            print_json({"person": vars(person)})
        else:
            click.echo(f"{person.name}: {person.templates} templates in {gallery_path}")
        return
    people, failed = ({str(name): list(photos)}, {}) if folder is None else find_people(folder)
    for why in failed.values():
        click.echo(f"edgeface: {why}", err=True)
    enrolled: list[dict[str, Any]] = []
    nobody: list[str] = []
    with open_recognizer(gallery_path, options) as recognizer:
        for who, places in people.items():
            found = Photos(places)
            added, count = _enroll(recognizer, who, found, limits, force=force, metadata=metadata)
            failed |= found.failed
            if added is None:
                nobody.append(who)
                why = f"nothing was enrolled: none of {len(found.paths)} photographs could be used"
                click.echo(f"edgeface: {who}: {why}", err=True)
                continue
            enrolled.append({"person": vars(added), "photos": count})
            if not as_json:
                counted = f"{count} photograph{'s' * (count != 1)} enrolled, {added.templates} template"
                click.echo(f"{added.name}: {counted}{'s' * (added.templates != 1)} in {gallery_path}")
    if as_json:
        one = enrolled[0] if enrolled else {"person": None, "photos": 0}
        print_json({**(one if folder is None else {"people": enrolled, "nobody": nobody}), "failed": failed})
    click.get_current_context().exit(1 if failed or nobody else 0)


def _enroll(
    recognizer: FaceRecognizer,
    name: str,
    photos: Photos,
    limits: EnrolmentLimits,
    *,
    force: bool,
    metadata: dict[str, Any] | None,
) -> tuple[Person | None, int]:
    """The person as the gallery has them after the last photograph that passed, and how many passed."""
    added, count = None, 0
    for path, frame in photos:
        try:
            added = recognizer.enroll(name, frame, limits=limits, force=force, metadata=metadata)
            count += 1
        except EdgefaceError as error:
            photos.fail(path, error)
    return added, count
