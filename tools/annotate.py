"""Pictures for people to look at: boxes, points and names drawn into a copy of a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeface.types import Decision, Liveness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeface.types import ByteArray, Recognition
    from edgeface.video import TrackedFace

COLOURS = {Decision.MATCH: (80, 190, 60), Decision.UNKNOWN: (60, 60, 230), Decision.AMBIGUOUS: (0, 170, 250)}  # BGR
SPOOF_COLOUR = (200, 0, 200)
CELL_PX = 360


def annotate(frame: ByteArray, people: Sequence[Recognition | TrackedFace]) -> ByteArray:
    """A copy of the frame with every face's box, points, name, similarity and, where it is known, liveness."""
    import cv2

    picture: ByteArray = np.ascontiguousarray(frame).copy()
    scale = max(frame.shape[:2]) / 640
    thick = max(1, round(2 * scale))
    for person in people:
        colour = SPOOF_COLOUR if person.liveness is Liveness.SPOOF else COLOURS[person.decision]
        left, top, right, bottom = (round(float(value)) for value in person.box)
        cv2.rectangle(picture, (left, top), (right, bottom), colour, thick)
        for x, y in person.landmarks:
            cv2.circle(picture, (round(float(x)), round(float(y))), thick + 1, colour, -1)
        label = f"{person.name or person.decision} {person.similarity:.2f}"
        if person.liveness is not None:
            label += f" {person.liveness}"
        # OpenCV's built-in font draws ASCII only; the names in tables and JSON are whole.
        label = label.encode("ascii", "replace").decode()
        (width, height), base = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.6 * scale, thick)
        at = (max(0, left), max(height + base, top - base))
        cv2.rectangle(picture, (at[0], at[1] - height - base), (at[0] + width, at[1] + base), colour, -1)
        cv2.putText(picture, label, at, cv2.FONT_HERSHEY_SIMPLEX, 0.6 * scale, (255, 255, 255), thick, cv2.LINE_AA)
    return picture


def contact_sheet(pictures: Sequence[ByteArray], *, columns: int = 4) -> ByteArray:
    """Pictures side by side on one sheet, each shrunk or enlarged into a square cell."""
    import cv2

    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * CELL_PX, columns * CELL_PX, 3), 32, np.uint8)
    for index, picture in enumerate(pictures):
        ratio = CELL_PX / max(picture.shape[:2])
        width, height = max(1, round(picture.shape[1] * ratio)), max(1, round(picture.shape[0] * ratio))
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        top = index // columns * CELL_PX + (CELL_PX - height) // 2
        left = index % columns * CELL_PX + (CELL_PX - width) // 2
        sheet[top : top + height, left : left + width] = small
    return sheet


def jpeg(picture: ByteArray) -> bytes:
    """The picture as a JPEG file's bytes."""
    import cv2

    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not done:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return bytes(data)
