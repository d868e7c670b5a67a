"""`edgeface identify`: who is in photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeface.errors import EdgefaceError, InputError
from edgeface.tools.output import (
    decision_options,
    describe_rate,
    gallery_option,
    json_option,
    key_option,
    liveness_option,
    model_options,
    print_json,
    print_table,
)
from edgeface.tools.session import Photos, open_recognizer


@click.command("identify")
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(path_type=Path))
@gallery_option
@key_option
@model_options
@decision_options
@liveness_option
@click.option("--annotate", "folder", type=click.Path(file_okay=False, path_type=Path),
              help="Write a copy of each photograph with names into this folder.")  # fmt: skip
@json_option
def command(
    photos: tuple[Path, ...],
    gallery_path: Path,
    folder: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say who is in photographs. PHOTO is a file, a folder or a glob pattern."""
    if not gallery_path.exists():
        raise EdgefaceError(f"{gallery_path}: no such gallery; `edgeface enroll NAME PHOTO...` makes one")
    places = Photos(photos)
    rows: list[tuple[object, ...]] = []
    documents = []
    written: set[Path] = set()
    with open_recognizer(gallery_path, options) as recognizer:
        for path, frame in places:
            stages_ms: dict[str, float] = {}
            try:
                people = recognizer.recognize(frame, stages_ms=stages_ms)
            except InputError as error:
                places.fail(path, error)
                continue
            faces = []
            for number, person in enumerate(people, 1):
                faces.append(
                    {
                        "name": person.name,
                        "decision": person.decision,
                        "similarity": person.similarity,
                        "margin": person.margin,
                        "box": person.box,
                        "score": person.score,
                        "nearest": person.matches.names,
                        "liveness": person.liveness,
                        "liveness_score": person.liveness_score,
                    }
                )
                seen = (path, number, person.name or "-", str(person.decision), person.similarity, person.margin)
                rows.append((*seen, person.liveness))
            if not people:
                rows.append((path, "no face", "-", "-", None, None, None))
            documents.append({"photo": path, "faces": faces, "stages_ms": stages_ms})
            if folder is not None:
                _write(_free_name(folder, path.stem, written), frame, people)
        policy = recognizer.policy
    if as_json:
        print_json({"photos": documents, "failed": places.failed, "threshold": vars(policy)})
    elif rows:
        columns = ("photo", "face", "name", "decision", "similarity", "margin", "liveness")
        shown = len(columns) - (recognizer.liveness is None)
        print_table("people", columns[:shown], [row[:shown] for row in rows])
        click.echo(describe_rate(policy))
    click.get_current_context().exit(places.exit_code())


def _free_name(folder: Path, stem: str, written: set[Path]) -> Path:
    """A name that this run has not used: photographs of several folders may share theirs."""
    path, number = folder / f"{stem}.annotated.jpg", 1
    while path in written:
        number += 1
        path = folder / f"{stem}.{number}.annotated.jpg"
    written.add(path)
    return path


def _write(path: Path, frame: Any, people: Any) -> None:
    from edgeface.home import write_atomically
    from edgeface.tools.annotate import annotate, jpeg

    try:
        write_atomically(path, jpeg(annotate(frame, people)))
    except OSError as error:
        raise EdgefaceError(f"{path}: cannot write the picture: {error}") from error
