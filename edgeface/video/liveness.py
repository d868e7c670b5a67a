"""Whether a track is live: looks spread over time, their mean, a verdict that does not flicker.

A single frame is weak evidence, so that a track is looked at several times before anything is said of it, more rarely
once it is decided, and more often again as soon as a look contradicts the verdict.

Who somebody is and whether they are live must be told of the same views: whoever holds up a picture and takes it down
again has a track that was named from the one and looks live from the other. Until a track with a name is live, a look
counts only if the embedder saw the same view and its template alone matches the track's.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeface.errors import InferenceError, InputError
from edgeface.numbers import real
from edgeface.types import Liveness

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeface.liveness import LivenessDetector
    from edgeface.types import Faces, FloatArray
    from edgeface.video.budget import Budget
    from edgeface.video.people import TrackIdentity
    from edgeface.video.sources import Frame
    from edgeface.video.tracks import Track

log = logging.getLogger(__name__)
EXPIRES_AFTER = 3.0  # times recheck_s without a look: two rechecks were left out, whoever stands there now
LEAST_LIVE_S = 1.0  # live is kept so long even where recheck_s is next to nothing


@dataclass(frozen=True)
class LivenessOptions:
    """When a track is looked at by the liveness model, and when it is decided.

    Attributes:
        looks: a track is ``unsure`` before so many.
        kept_looks: the last so many are averaged.
        interval_s: between two looks while the track is undecided, and after one that contradicts the verdict.
        recheck_s: the same while the looks agree with the verdict.
        hold: a verdict is kept while the mean is no farther than this on the wrong side of its threshold.
        min_quality: views of a lower score (0 to 1) are not looked at.
    """

    looks: int = 3
    kept_looks: int = 5
    interval_s: float = 0.15
    recheck_s: float = 2.0
    hold: float = 0.05
    min_quality: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            real(value, f"LivenessOptions.{name}", "a number of at least 0", least=0.0, below=1e6)
        if not 1 <= self.looks <= self.kept_looks:
            raise InputError(
                f"LivenessOptions: expected 1 <= looks <= kept_looks, got {self.looks} and {self.kept_looks}"
            )


class TrackLiveness:
    """The looks at one track and the verdict on it.

    Attributes:
        verdict: ``unsure`` until there are enough looks.
        tensor: the view that waits for the network, (1, 3, H, W); None where none does.
        tensor_s: time of its frame.
        looks: how often the network ran for this track.
    """

    def __init__(self) -> None:
        self.verdict = Liveness.UNSURE
        self.tensor: FloatArray | None = None
        self.looks = 0
        self.tensor_s = float("-inf")
        self._looked_s = float("-inf")
        self._asked = False
        self._scores: deque[float] = deque()

    @property
    def score(self) -> float | None:
        """Mean of the looks that count; None before the first."""
        return sum(self._scores) / len(self._scores) if self._scores else None

    def wants(self, quality: float, time_s: float, detector: LivenessDetector, options: LivenessOptions) -> bool:
        """Whether a view of that quality is worth a run of the network now."""
        if quality < options.min_quality or self.tensor is not None:
            return False
        decided = self.verdict is not Liveness.UNSURE and detector.decide(self._scores[-1]) is self.verdict
        decided = decided and not self._asked
        return time_s - self._looked_s >= (options.recheck_s if decided else options.interval_s)

    def offer(self, tensor: FloatArray, time_s: float) -> None:
        """Keep a view for the network."""
        self.tensor, self.tensor_s = tensor, time_s

    def bound(self, person: TrackIdentity) -> bool:
        """Whether looks count only with the embedder's agreement on the same view."""
        return person.verdict.name is not None and self.verdict is not Liveness.LIVE

    def take(self, score: float, detector: LivenessDetector, options: LivenessOptions) -> None:
        """Take in the score of the view that waited."""
        self.looks += 1
        self.tensor, self._looked_s, self._asked = None, self.tensor_s, False
        self._scores.append(score)
        if len(self._scores) > options.kept_looks:
            self._scores.popleft()
        if len(self._scores) < options.looks:
            return
        mean, spec = sum(self._scores) / len(self._scores), detector.spec
        said = detector.decide(mean)
        if self.verdict is Liveness.LIVE and said is Liveness.UNSURE and mean >= spec.live_from - options.hold:
            return
        if self.verdict is Liveness.SPOOF and mean < spec.spoof_below + options.hold:  # even where that is live
            return
        self.verdict = said

    def stale(self, time_s: float, options: LivenessOptions) -> bool:
        """Whether live was said so long ago that it says nothing about now: the looks were left out meanwhile."""
        kept_s = max(EXPIRES_AFTER * options.recheck_s, LEAST_LIVE_S)
        return self.verdict is Liveness.LIVE and time_s - self._looked_s > kept_s

    def drop(self) -> None:
        """The network failed on the view that waited: do without it, and take the next one when it is due."""
        self.tensor, self._looked_s = None, self.tensor_s

    def ask(self, time_s: float) -> None:
        """Look again soon, at a view from `time_s` on, whatever the verdict."""
        self._asked = True
        if self.tensor_s < time_s:
            self.tensor = None

    def forget(self, time_s: float) -> None:
        """Start anew: looks and views from before `time_s` may be of another face."""
        self._scores.clear()
        self.verdict, self._looked_s = Liveness.UNSURE, float("-inf")
        if self.tensor_s < time_s:
            self.tensor = None


class LivenessWatch:
    """Looks at the tracks of one stream with a liveness model, as far as the budget allows.

    Args:
        detector: runs the model.
        options: when it runs.
        budget: says on how many faces of a frame.
        clock: seconds, as of the loop.

    Attributes:
        tracks: by track id.
    """

    def __init__(
        self, detector: LivenessDetector, options: LivenessOptions, budget: Budget, clock: Callable[[], float]
    ) -> None:
        self.tracks: dict[int, TrackLiveness] = {}
        self._detector = detector
        self._options = options
        self._budget = budget
        self._clock = clock

    def follow(self, tracks: Mapping[int, Track], time_s: float) -> None:
        """Before a frame's views: forget tracks that are gone, and looks that no longer say who is live now."""
        for gone in self.tracks.keys() - tracks.keys():
            del self.tracks[gone]
        for track_id, track in self.tracks.items():
            if tracks[track_id].broken_s == time_s or track.stale(time_s, self._options):
                track.forget(time_s)
            elif tracks[track_id].found_s == time_s:
                track.ask(time_s)

    def offer(self, frame: Frame, faces: Faces, found: list[int], qualities: FloatArray) -> list[int]:
        """Cut out those faces of a frame that are due, for the network to see when it has time.

        Args:
            faces, found, qualities: the detections, the track and the quality of each.

        Returns:
            The due rows of `faces`.
        """
        due = []
        for row, track_id in enumerate(found):
            track = self.tracks.setdefault(track_id, TrackLiveness())
            if track.wants(float(qualities[row]), frame.time_s, self._detector, self._options):
                due.append(row)
        if due:
            tensor = self._detector.prepare(frame.image, faces.boxes[due], pixel_format=frame.pixel_format)
            for index, row in enumerate(due):
                self.tracks[found[row]].offer(tensor[index : index + 1], frame.time_s)
        return due

    def look(self, people: Mapping[int, TrackIdentity], spent_ms: float) -> tuple[int, int]:
        """Run the network on as many waiting views as fit, those first who wait for their first verdict.

        Args:
            people: who the tracks are, after the embedder's turn.
            spent_ms: that the frame has taken so far.

        Returns:
            The number of views that it saw, and of those that still wait.

        Raises:
            InferenceError: the network failed on every view. These are dropped.
        """
        waiting = [track for track_id, track in self.tracks.items() if _ready(track, people.get(track_id))]
        waiting.sort(key=lambda track: (track.verdict is not Liveness.UNSURE, track.looks))
        count = self._budget.faces_that_fit(self._budget.liveness, spent_ms, len(waiting)) if waiting else 0
        if count:
            start = self._clock()
            views = [track.tensor for track in waiting[:count] if track.tensor is not None]
            scores = run_views(self._detector.run, views, lambda index: waiting[index].drop())
            self._budget.liveness.learn((self._clock() - start) * 1e3 / count)
            for index, score in scores.items():
                waiting[index].take(float(score), self._detector, self._options)
        return count, len(waiting) - count

    def forget(self, track_id: int, time_s: float) -> None:
        """The track is, or may be, somebody else from now on."""
        if track_id in self.tracks:
            self.tracks[track_id].forget(time_s)


def run_views(
    run: Callable[[FloatArray], FloatArray], views: list[FloatArray], drop: Callable[[int], None]
) -> dict[int, FloatArray]:
    """Run a network on several views; where that fails, on each alone, so that one bad view costs the others nothing.

    Args:
        run: takes (N, ...) and gives N rows.
        views: (1, ...) each.
        drop: told the index of every view that failed, so that it is not run for ever.

    Returns:
        The row of each view that did not fail, by its index.

    Raises:
        InferenceError: all failed.
    """
    try:
        return dict(enumerate(run(np.concatenate(views))))
    except InferenceError as error:
        failed = error
        if len(views) == 1:
            drop(0)
            raise
    rows: dict[int, FloatArray] = {}
    for index, view in enumerate(views):
        try:
            rows[index] = run(view)[0]
        except InferenceError as error:
            drop(index)
            failed = error
            log.error("a view is dropped: %s", error)
    if not rows:
        raise failed
    return rows


def _ready(track: TrackLiveness, person: TrackIdentity | None) -> bool:
    """Whether the track's view may be looked at; one that the embedder disagreed with, or passed over, is dropped."""
    if track.tensor is None:
        return False
    if person is None or not track.bound(person) or person.agreed_s == track.tensor_s:
        return True
    if person.crop_quality <= 0 or person.crop_s != track.tensor_s:
        track.tensor = None
    return False
