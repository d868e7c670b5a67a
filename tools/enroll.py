"""`edgeface enroll`: add a person to a gallery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeface.errors import EdgefaceError
from edgeface.tools.output import gallery_option, json_option, model_options, print_json
from edgeface.tools.session import Photos, open_recognizer


@click.command("enroll")
@click.argument("name")
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(path_type=Path))
@gallery_option
@model_options
@json_option
def command(
    name: str, photos: tuple[Path, ...], gallery_path: Path, as_json: bool, **options: Any
) -> None:
    """Enrol NAME from photographs with exactly one face each, or add to what is there of NAME.

    A photograph that is refused is reported and the rest is enrolled; exit code 1 says that some were refused.
    """
    places = Photos(photos)
    person, enrolled = None, 0
    with open_recognizer(gallery_path, {**options, "threshold": 0.0}) as recognizer:
        for path, frame in places:
            try:
                person = recognizer.enroll(name, frame)
                enrolled += 1
            except EdgefaceError as error:
                places.fail(path, error)
    if person is None:
        raise EdgefaceError(f"{name}: nothing was enrolled: none of {len(places.paths)} photographs could be used")
    if as_json:
        print_json({"person": vars(person), "photos": enrolled, "failed": places.failed})
    else:
        click.echo(f"{person.name}: {enrolled} photographs enrolled, {person.templates} templates in {gallery_path}")
    click.get_current_context().exit(places.exit_code())
