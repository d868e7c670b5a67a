"""Streams composed of photographs: people who enter, move, cross and leave, while scale, blur and light change.

Who is where in every frame is known, so that a recognition loop can be judged: names, tracks, times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeface.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeface import Detector
    from edgeface.types import ByteArray, FloatArray

HEAD = 2.1  # width of a cut-out in widths of its face: hair and chin, and a rim that fades
ENTER_S = 0.6  # to come in from the side of the frame, and to leave
STAY_S = (4.0, 8.0)


@dataclass(frozen=True, eq=False)
class Cutout:
    """A head cut out of a photograph.

    Attributes:
        person: whose.
        pixels: (H, W, 3) uint8 BGR.
        alpha: (H, W, 1) float32, 1 inside and fading to 0 at the rim.
        box: (4,) float32, the face in `pixels`.
    """

    person: str
    pixels: ByteArray
    alpha: FloatArray
    box: FloatArray


@dataclass(frozen=True, eq=False)
class Truth:
    """One face of a composed frame.

    Attributes:
        actor: counts appearances: the same person who comes again is another actor.
        person: who it is.
        box: (4,) float32, left, top, right, bottom of the face in pixels of the frame.
        visible: share of the face that is inside the frame and not behind somebody else.
    """

    actor: int
    person: str
    box: FloatArray
    visible: float


@dataclass(eq=False)
class _Actor:
    number: int
    cutout: Cutout
    start_s: float
    stay_s: float
    width_px: float  # of the face
    y: float  # height of its path, share of the frame
    x0: float
    x1: float
    phase: float


def cut_out(person: str, photo: ByteArray, detector: Detector) -> Cutout | None:
    """The head of a portrait; None where no face is found."""
    faces = detector.detect(photo).subject(*photo.shape[:2])
    if not len(faces):
        return None
    left, top, right, bottom = (float(value) for value in faces.boxes[0])
    side = HEAD * max(right - left, bottom - top)
    x0, y0 = round((left + right - side) / 2), round((top + bottom - side) / 2)
    size = round(side)
    canvas = np.full((size, size, 3), 110, np.uint8)
    inside = (max(0, y0), min(photo.shape[0], y0 + size), max(0, x0), min(photo.shape[1], x0 + size))
    canvas[inside[0] - y0 : inside[1] - y0, inside[2] - x0 : inside[3] - x0] = photo[
        inside[0] : inside[1], inside[2] : inside[3]
    ]
    across = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    radius = np.sqrt((across[None, :] / 0.82) ** 2 + (across[:, None] / 0.98) ** 2)
    alpha = np.clip((1 - radius) / 0.12, 0, 1)[:, :, None].astype(np.float32)
    box = np.array([left - x0, top - y0, right - x0, bottom - y0], np.float32)
    return Cutout(person, canvas, alpha, box)


class ComposedStream:
    """Frames and truths, the same for the same arguments.

    Args:
        cutouts: heads, several of a person where there are; at least as many as `faces`.
        size: (height, width) of the frames.
        faces: people in the frame at one time, on average.
        frames: how many frames.
        fps: frames a second of the stream's clock.
        seed: of everything that is random.
    """

    def __init__(
        self,
        cutouts: Sequence[Cutout],
        *,
        size: tuple[int, int],
        faces: int,
        frames: int,
        fps: float = 30.0,
        seed: int = 1,
    ) -> None:
        if not cutouts or faces < 1 or frames < 1:
            raise InputError(f"a stream needs heads, faces and frames, got {len(cutouts)}, {faces}, {frames}")
        self.size, self.faces, self.frames, self.fps = size, faces, frames, fps
        self._cutouts = list(cutouts)
        self._random = np.random.default_rng(seed)
        self._background = self._noise()
        self._actors: list[_Actor] = []
        self._last = 0
        #: Faces are as large as fits so many beside and above one another, within 40 to 160 px.
        room = math.sqrt(size[0] * size[1] / faces) * 0.3
        self.width_px = (min(90.0, max(40.0, room * 0.6)), min(160.0, max(56.0, room)))

    def __iter__(self) -> Iterator[tuple[ByteArray, list[Truth]]]:
        for number in range(self.frames):
            yield self._frame(number / self.fps)

    def _noise(self) -> ByteArray:
        """Something like a blurred room: patches without faces, and a little noise of the sensor."""
        import cv2

        patches = self._random.integers(60, 190, (9, 12, 3)).astype(np.uint8)
        room = cv2.resize(patches, (self.size[1], self.size[0]), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        grain = self._random.normal(0, 3, room.shape)
        background: ByteArray = np.clip(room + grain, 0, 255).astype(np.uint8)
        return background

    def _frame(self, time_s: float) -> tuple[ByteArray, list[Truth]]:
        self._actors = [actor for actor in self._actors if time_s < actor.start_s + actor.stay_s]
        while len(self._actors) < self.faces:
            self._actors.append(self._enter(time_s))
        frame = self._background.copy()
        truths: list[Truth] = []
        light = 1.0 + 0.25 * math.sin(time_s * 0.7)  # of the room, slowly
        for actor in sorted(self._actors, key=lambda one: one.width_px):  # the nearer head covers the farther one
            self._draw(frame, actor, time_s, light, truths)
        return frame, [truth for truth in truths if truth.visible > 0]

    def _enter(self, time_s: float) -> _Actor:
        there = {actor.cutout.person for actor in self._actors}
        free = [one for one in self._cutouts if one.person not in there] or self._cutouts
        self._last += 1
        uniform = self._random.uniform
        x0, x1 = (0.12, 0.88) if uniform() < 0.5 else (0.88, 0.12)
        stay_s = uniform(*STAY_S) * uniform(0.5 if time_s == 0 else 1, 1)  # the first ones do not leave in step
        return _Actor(
            self._last, free[int(self._random.integers(len(free)))], time_s, stay_s, uniform(*self.width_px),
            uniform(0.2, 0.8), uniform(x0 - 0.1, x0 + 0.1), uniform(x1 - 0.1, x1 + 0.1), uniform(0, 6.28),
        )  # fmt: skip

    def _draw(self, frame: ByteArray, actor: _Actor, time_s: float, light: float, truths: list[Truth]) -> None:
        import cv2

        since, left_s = time_s - actor.start_s, actor.start_s + actor.stay_s - time_s
        share = since / actor.stay_s
        width = actor.width_px * (1 + 0.15 * math.sin(share * 5 + actor.phase))
        ratio = width / float(actor.cutout.box[2] - actor.cutout.box[0])
        side = max(8, round(actor.cutout.pixels.shape[0] * ratio))
        pixels, alpha = self._scaled(actor, side)
        softness = max(0.0, 1.2 * math.sin(time_s * 2.1 + actor.phase))  # out of focus now and then
        if softness > 0.3:
            pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), softness * side / 120), np.uint8)
        gain = light * (1 + 0.2 * math.sin(time_s * 1.3 + actor.phase))
        pixels = np.asarray(cv2.convertScaleAbs(pixels, alpha=gain), np.uint8)
        height, across = self.size
        # From beyond the side in, along the path, and out again.
        away = max(0.0, 1 - since / ENTER_S, 1 - left_s / ENTER_S)
        begin, end = actor.x0, actor.x1
        x = (begin + (end - begin) * share) * across
        edge = -side if (x < across / 2) else across + side
        x += (edge - x) * away**2
        y = (actor.y + 0.04 * math.sin(time_s * 1.7 + actor.phase)) * height
        x0, y0 = round(x - side / 2), round(y - side / 2)
        box = actor.cutout.box * (side / actor.cutout.pixels.shape[0]) + np.array([x0, y0, x0, y0], np.float32)
        self._cover(truths, box)
        a, b, c, d = max(0, y0), min(height, y0 + side), max(0, x0), min(across, x0 + side)
        if a < b and c < d:
            part, mask = pixels[a - y0 : b - y0, c - x0 : d - x0], alpha[a - y0 : b - y0, c - x0 : d - x0]
            below = frame[a:b, c:d]
            frame[a:b, c:d] = (below + (part.astype(np.float32) - below) * mask).astype(np.uint8)
        shown = _clip_area(box, (0, 0, across, height))
        truths.append(Truth(actor.number, actor.cutout.person, box.astype(np.float32), shown))

    def _scaled(self, actor: _Actor, side: int) -> tuple[ByteArray, FloatArray]:
        import cv2

        given = actor.cutout
        how = cv2.INTER_AREA if side < given.pixels.shape[0] else cv2.INTER_LINEAR
        pixels = cv2.resize(given.pixels, (side, side), interpolation=how)
        alpha = cv2.resize(given.alpha, (side, side), interpolation=cv2.INTER_LINEAR)
        return np.asarray(pixels, np.uint8), np.asarray(alpha, np.float32)[:, :, None]

    @staticmethod
    def _cover(truths: list[Truth], box: FloatArray) -> None:
        """Lessen what is visible of the faces behind a new one."""
        for index, truth in enumerate(truths):
            hidden = _clip_area(truth.box, tuple(float(value) for value in box))
            truths[index] = Truth(truth.actor, truth.person, truth.box, max(0.0, truth.visible - hidden))


def _clip_area(box: FloatArray, window: Sequence[float]) -> float:
    """Share of a box inside a window."""
    width = min(float(box[2]), window[2]) - max(float(box[0]), window[0])
    height = min(float(box[3]), window[3]) - max(float(box[1]), window[1])
    area = float((box[2] - box[0]) * (box[3] - box[1]))
    return max(0.0, width) * max(0.0, height) / area if area > 0 else 0.0
