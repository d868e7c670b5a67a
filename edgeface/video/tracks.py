"""Faces followed from frame to frame by where they are: which detection continues which track.

The association is SORT's (A. Bewley et al., "Simple Online and Realtime Tracking", 2016): constant velocity, and the
assignment of least cost, with the enlarged boxes of C-BIoU (F. Yang et al., "Hard to Track Objects with Irregular
Motions and Similar Appearances?", 2023), since a face moves by its own width sooner than a body does. Why the
assignment solver is a library and the rest is not: `docs/decisions/tracking.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import MissingDependencyError, install_extra
from edgeface.numbers import real

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeface.types import Faces, FloatArray

#: Share of a new position, and of its surprise for the velocity, that an update takes over: detections of faces err by
#: few per cent of the face's width, so that positions are nearly believed and velocities smoothed over some frames.
POSITION_GAIN, VELOCITY_GAIN = 0.8, 0.3
#: Boxes grow by this share of their sides on every side before they are compared.
BUFFER = 0.3
#: Overlap of enlarged boxes from which on a detection may continue a track.
LEAST_OVERLAP = 0.15
#: Overlap of two faces from which on they may be taken for one another: they cross.
CROSSING_OVERLAP = 0.1
#: A detection farther from the extrapolated place than this share of the face's size is a jump: the scene was cut, or
#: somebody stepped in front of the face. Steady motion errs by less than a tenth.
JUMP = 0.25
#: A velocity that nothing confirmed is halved after this time: people stop and turn.
VELOCITY_HALF_LIFE_S = 0.3
#: A gap is unusual from so many times the usual one between two detections on, which is a mean over so many: a slow
#: camera, or a budget that detects in every fourth frame, is no reason to look at everybody again in every frame.
UNUSUAL, USUAL_OVER = 2.0, 8


@dataclass(eq=False)
class Track:
    """One face over time.

    Attributes:
        track_id: counts from 1, never given twice by one tracker.
        box: (4,) float32, left, top, right, bottom: detected, or extrapolated to `time_s`.
        velocity: (4,) float32 of those, in pixels a second.
        landmarks: (5, 2) float32 of the last detection, moved along with the box.
        score: the detector's confidence in the last detection.
        first_s, seen_s, time_s: of the first detection, of the last one, and of `box`.
        hits: detections so far.
        near: another face overlaps this one now.
        hiding: it may hide that other face, which was not detected lately.
        crossed: set when another face came so near that the two may have been exchanged, when one of them hid the other
            or came out again, and when it went; when the face jumped, and when it was found again after a gap. Whoever
            checks who it is resets it.
        missed: the last detection did not find it.
        broken_s: when it was last crossed while the detector watched: a gap in which nothing was looked at (a slow
            camera, a detector that pauses) is none of these. Looks from before say nothing about whether it is live.
        found_s: when it was last found again, after the detector missed it or after an unusual gap: a moment is enough
            to put another face in its place, so that it is looked at soon.
    """

    track_id: int
    box: FloatArray
    landmarks: FloatArray
    score: float
    first_s: float
    seen_s: float
    time_s: float
    velocity: FloatArray = field(default_factory=lambda: np.zeros(4, np.float32))
    hits: int = 1
    near: bool = False
    hiding: bool = False
    crossed: bool = False
    crossed_s: float = float("-inf")  # when it was set last: views from before say nothing about now
    missed: bool = False
    broken_s: float = float("-inf")
    found_s: float = float("-inf")

    def doubt(self, time_s: float, *, watched: bool = True) -> None:
        """From now on the face may be another one."""
        self.crossed, self.crossed_s = True, time_s
        self.broken_s = time_s if watched else self.broken_s

    def move(self, time_s: float) -> None:
        """Extrapolate to a time."""
        step = time_s - self.time_s
        if step <= 0:
            return
        shift = self.velocity * np.float32(step)
        self.box = self.box + shift
        self.landmarks = self.landmarks + (shift[:2] + shift[2:]) / 2
        self.velocity = self.velocity * np.float32(0.5 ** (step / VELOCITY_HALF_LIFE_S))
        self.time_s = time_s

    def see(self, box: FloatArray, landmarks: FloatArray, score: float, time_s: float, lost_after_s: float,
            usual_s: float = 0.0) -> None:  # fmt: skip
        """Continue with a detection at a time to which the track was moved; `usual_s` is between two detections."""
        gap = time_s - self.seen_s
        surprise = box - self.box
        apart = float(np.abs(surprise[:2] + surprise[2:]).max()) / 2
        jumped = apart > JUMP * float((box[2:] - box[:2]).min())
        if self.missed or gap > max(lost_after_s, UNUSUAL * usual_s):
            self.found_s = time_s
        if gap > lost_after_s or jumped:
            self.doubt(time_s, watched=jumped or self.missed)
        if self.hits == 1 and gap > 0:
            self.velocity = surprise / np.float32(gap)  # nothing better is known yet
        elif gap > 0:
            self.velocity = self.velocity + surprise * np.float32(VELOCITY_GAIN / gap)
        self.box = self.box + surprise * np.float32(POSITION_GAIN)
        self.landmarks, self.score = landmarks, score
        self.seen_s = self.time_s = time_s
        self.hits += 1


class Tracker:
    """Follows the faces of one stream. Not safe from several threads.

    Args:
        keep_s: how long a track lives on without a detection.
        lost_after_s: a gap from which on a face that is found again counts as perhaps another one.

    Raises:
        InputError: a time is not positive. MissingDependencyError: the assignment solver is not installed.
    """

    def __init__(self, *, keep_s: float = 1.0, lost_after_s: float = 0.4) -> None:
        keep_s = real(keep_s, "keep_s", "seconds above 0", above=0.0, below=1e6)
        lost_after_s = real(lost_after_s, "lost_after_s", "seconds above 0, up to keep_s", above=0.0, most=keep_s)
        try:
            import lap
        except ImportError as error:
            raise MissingDependencyError(
                f"tracking needs an assignment solver ({error}); {install_extra('video')}"
            ) from error
        self._solve: Any = lap.lapjv
        self.keep_s = keep_s
        self.lost_after_s = lost_after_s
        self.tracks: dict[int, Track] = {}
        self._last_id = 0
        self._updated_s = float("-inf")
        self._usual_s = 0.0  # between two detections

    def predict(self, time_s: float) -> None:
        """Move every track to a time; those that were not seen for too long are gone."""
        for track_id, track in list(self.tracks.items()):
            track.move(time_s)
            if time_s - track.seen_s > self.keep_s:
                del self.tracks[track_id]

    def update(self, faces: Faces, time_s: float) -> list[int]:
        """Move to a time and take in its detections.

        Args:
            faces: everything that the detector found, in pixels of the frame.
            time_s: of the frame, rising from call to call.

        Returns:
            The track of each face, in the order of `faces`.
        """
        self.predict(time_s)
        known = list(self.tracks.values())
        between_s, self._updated_s = time_s - self._updated_s, time_s
        ids = [0] * len(faces)
        for row, column in self._pairs(known, faces):
            track = known[row]
            score = float(faces.scores[column])
            track.see(faces.boxes[column], faces.landmarks[column], score, time_s, self.lost_after_s, self._usual_s)
            ids[column] = track.track_id
        if 0 < between_s < self.keep_s:
            self._usual_s += (between_s - self._usual_s) / USUAL_OVER if self._usual_s else between_s
        for track in known:
            track.missed = track.seen_s < time_s
        for column, track_id in enumerate(ids):
            if track_id == 0:
                self._last_id += 1
                ids[column] = self._last_id
                self.tracks[self._last_id] = Track(
                    self._last_id, faces.boxes[column], faces.landmarks[column], float(faces.scores[column]),
                    time_s, time_s, time_s,
                )  # fmt: skip
        self._mark_crossings(time_s)
        return ids

    def _pairs(self, known: list[Track], faces: Faces) -> list[tuple[int, int]]:
        if not known or not len(faces):
            return []
        boxes = np.stack([track.box for track in known])
        alike = overlaps(enlarge(boxes), enlarge(faces.boxes))
        cost = 1.0 - alike.astype(np.float64)
        _, partner, _ = self._solve(cost, extend_cost=True, cost_limit=1.0 - LEAST_OVERLAP)
        return [(row, int(column)) for row, column in enumerate(partner) if column >= 0]

    def _mark_crossings(self, time_s: float) -> None:
        known = list(self.tracks.values())
        boxes = np.stack([track.box for track in known]) if known else np.empty((0, 4), np.float32)
        beside = overlaps(boxes, boxes) >= CROSSING_OVERLAP
        np.fill_diagonal(beside, False)
        unseen = np.array([track.seen_s < time_s for track in known], bool)
        for row, track in enumerate(known):
            near, hiding = bool(beside[row].any()), bool((beside[row] & unseen).any())
            if (near, hiding) != (track.near, track.hiding):
                track.near, track.hiding = near, hiding
                track.doubt(time_s)


def enlarge(boxes: FloatArray) -> FloatArray:
    """(N, 4) boxes with `BUFFER` of their sides more on every side."""
    margin = (boxes[:, 2:] - boxes[:, :2]) * np.float32(BUFFER)
    grown: FloatArray = np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
    return grown


def overlaps(a: FloatArray, b: FloatArray) -> npt.NDArray[np.float32]:
    """(N, M) float32: intersection over union of (N, 4) and (M, 4) boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - inside
    ratio: npt.NDArray[np.float32] = (inside / np.maximum(union, 1e-6)).astype(np.float32)
    return ratio
