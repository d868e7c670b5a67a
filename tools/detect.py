"""`edgeface detect`: the faces of photographs."""

from __future__ import annotations

from pathlib import Path

import click

from edgeface.errors import InputError
from edgeface.tools.output import (
    RATE,
    json_option,
    not_nan,
    precision_option,
    print_json,
    print_table,
    threads_option,
)
from edgeface.tools.session import Photos, open_engine


@click.command("detect")
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(path_type=Path))
@click.option("--detector", default="yunet", show_default=True, help="Recipe name or model file.")
@precision_option
@click.option("--max-side", "max_side_px", type=click.IntRange(32, 8192), default=640, show_default=True,
              help="Longest side in px at which the detector runs.")  # fmt: skip
@click.option("--min-score", type=RATE, callback=not_nan, default=0.7, show_default=True)
@threads_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    photos: tuple[Path, ...],
    detector: str,
    precision: str,
    max_side_px: int,
    min_score: float,
    threads: int | None,
    as_json: bool,
) -> None:
    """Find faces: boxes, scores and five points in pixels. PHOTO is a file, a folder or a glob pattern."""
    from edgeface import Detector

    places = Photos(photos)
    rows, documents = [], []
    with open_engine(detector, precision, threads) as engine:
        finder = Detector(engine, max_side_px=max_side_px, min_score=min_score)
        for path, frame in places:
            try:
                faces = finder.detect(frame)
            except InputError as error:
                places.fail(path, error)
                continue
            documents.append(
                {
                    "photo": path,
                    "height": frame.shape[0],
                    "width": frame.shape[1],
                    "faces": [
                        {"box": face.boxes[0], "score": face.scores[0], "landmarks": face.landmarks[0]}
                        for face in faces
                    ],
                }
            )
            rows += [
                (path, number, float(face.scores[0]), *(round(float(v)) for v in face.boxes[0]))
                for number, face in enumerate(faces, 1)
            ]
            if not len(faces):
                rows.append((path, "no face", None, None, None, None, None))
    if as_json:
        print_json({"photos": documents, "failed": places.failed})
    elif rows:
        print_table("faces", ("photo", "face", "score", "left", "top", "right", "bottom"), rows)
    context.exit(places.exit_code())
