"""Guided enrolment: hints for the person in front of a camera until enough good views are there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface.errors import EdgefaceError
from edgeface.tools.session import open_recognizer

if TYPE_CHECKING:
    from pathlib import Path

    from edgeface import FaceRecognizer
    from edgeface.enrolment import EnrolmentLimits
    from edgeface.gallery import Person
    from edgeface.types import ByteArray
    from edgeface.video import Frame, Source

VIEWS = 3  # templates of one enrolment: the second and third catch what the first moment hid
APART_S = 0.7  # between two views, so that they are not the same moment
PATIENCE_S = 60.0  # then the person has left, or the limits are out of reach
POLL_S = 0.5


def enroll_from_camera(
    name: str,
    camera: str,
    gallery_path: Path,
    options: dict[str, Any],
    limits: EnrolmentLimits,
    metadata: dict[str, Any] | None = None,
) -> Person:
    """Look until `VIEWS` good views were taken, telling the person what to do, and enrol them with their metadata.

    Raises:
        InputError: `camera` is empty or no source.
        EnrolmentError: the views are of several people, or of somebody who is enrolled already.
        EdgefaceError: the source ended, or a minute passed, before there were enough; or for a minute no frame came.
    """
    from edgeface.tools.cameras import camera_place
    from edgeface.video import open_source

    source = open_source(camera_place(camera))
    try:
        with open_recognizer(gallery_path, options) as recognizer:
            views = _views(source, recognizer, limits)
            return recognizer.enroll(name, views, limits=limits, metadata=metadata)
    finally:
        source.close()


def _views(source: Source, recognizer: FaceRecognizer, limits: EnrolmentLimits) -> list[ByteArray]:
    views: list[ByteArray] = []
    told, first_s, taken_s = "", None, float("-inf")
    frame_s = time.monotonic()
    while not source.ended:
        frame = source.read(POLL_S)
        while source.notices:
            click.echo(f"{source.notices.popleft().reason}", err=True)
        if frame is None:
            if time.monotonic() - frame_s > PATIENCE_S:
                raise EdgefaceError(f"no enrolment: the camera gave no frame for {PATIENCE_S:.0f} s")
            continue
        frame_s = time.monotonic()
        first_s = frame.time_s if first_s is None else first_s
        if frame.time_s - first_s > PATIENCE_S:
            raise EdgefaceError(f"no enrolment: {len(views)} of {VIEWS} good views in {PATIENCE_S:.0f} s; last: {told}")
        hint = hint_for(frame, recognizer, limits)
        if hint is None and frame.time_s - taken_s >= APART_S:
            views.append(np.array(frame.image))
            taken_s = frame.time_s
            hint = f"good, {len(views)} of {VIEWS}"
        if hint is not None and hint != told:
            told = hint
            click.echo(hint, err=True)
        if len(views) == VIEWS:
            return views
    raise EdgefaceError(f"no enrolment: the source ended after {len(views)} of {VIEWS} good views; last: {told or '-'}")


def hint_for(frame: Frame, recognizer: FaceRecognizer, limits: EnrolmentLimits) -> str | None:
    """What the person should do; None when the view is good."""
    from edgeface.align import align_faces
    from edgeface.enrolment import check_view
    from edgeface.quality import Quality

    faces = recognizer.detector.detect(frame.image)
    if len(faces) != 1:
        return "step in front of the camera" if len(faces) == 0 else f"one person only, please ({len(faces)} are seen)"
    refused = check_view(Quality.of_view(align_faces(frame.image, faces.landmarks), faces), limits)
    if not refused:
        return None
    first = refused[0]
    return f"{first.hint} ({first.measure} {first.value:.4g}, limit {first.limit:.4g})"
