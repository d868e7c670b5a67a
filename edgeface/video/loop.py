"""The recognition loop: frames in; tracks, decisions and events out, inside a time budget."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.align import align_faces
from edgeface.detect import Detector
from edgeface.errors import ConfigurationError, InputError
from edgeface.numbers import real
from edgeface.quality import CROP_PX, Quality, refined_score
from edgeface.types import Decision, Liveness
from edgeface.video.budget import Budget
from edgeface.video.events import Event, EventKind
from edgeface.video.listeners import Listeners
from edgeface.video.liveness import LivenessOptions, LivenessWatch, TrackLiveness, run_views
from edgeface.video.metrics import LoopCounts
from edgeface.video.people import DecisionOptions, TrackedFace, TrackIdentity, Verdict
from edgeface.video.presence import Presence
from edgeface.video.tracks import Tracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from edgeface.recognizer import FaceRecognizer
    from edgeface.types import Faces, FloatArray
    from edgeface.video.sources import Frame, Source

log = logging.getLogger(__name__)
POLL_S = 0.2  # how long to wait for a frame before the clock of those who left is looked at again
LOST_AFTER_S = 0.12  # a gap that hides a change of faces: at 30 frames a second, four frames
CROSSING, NOT_LIVE = "crossing", "not_live"


@dataclass(frozen=True, eq=False)
class FrameResult:
    """What the loop made of one frame.

    Attributes:
        number, time_s: of the frame.
        faces: everybody who is there, oldest track first.
        events: what happened with this frame.
        left_out: what the budget left out, such as ``detector_side_px=480``, ``detection`` (boxes are extrapolated) or
            ``embeddings=2`` or ``liveness=1`` (faces that wait for the network); empty where nothing was.
        latency_ms: from the frame's arrival to this result.
        stages_ms: milliseconds of ``detect``, ``quality``, ``embed``, ``decide`` and, with a liveness model,
            ``liveness``.
    """

    number: int
    time_s: float
    faces: tuple[TrackedFace, ...]
    events: tuple[Event, ...]
    left_out: tuple[str, ...]
    latency_ms: float
    stages_ms: Mapping[str, float]


class RecognitionLoop:
    """Follows and names the faces of one stream. Not safe from several threads; make one loop a stream.

    Args:
        recognizer: detector, embedder, gallery and policy. Changes of the gallery count from the next look on.
        budget_ms: time from a frame's arrival to its result; None does everything in every frame. What is left out
            first is stated in `edgeface.video.budget`, and what was left out in every result.
        options: when tracks are looked at and decided.
        require_live: give no name to a face that the liveness model does not call live, neither in results nor in
            events: nobody arrives before. None is True where the recogniser has such a model.
        liveness: when that model runs.
        leave_after_s: a person not seen for so long has left.
        keep_track_s: a track lives so long without a detection.
        clock: seconds, on which `Frame.arrived_s` stands and latencies are measured; `time.thread_time` where the
            processor's own time counts and not the wall's.

    Raises:
        InputError: an option is out of range. MissingDependencyError: the assignment solver is not installed.
        ConfigurationError: `require_live` without a liveness model.
    """

    def __init__(
        self,
        recognizer: FaceRecognizer,
        *,
        budget_ms: float | None = None,
        options: DecisionOptions | None = None,
        require_live: bool | None = None,
        liveness: LivenessOptions | None = None,
        leave_after_s: float = 2.0,
        keep_track_s: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        leave_after_s = real(leave_after_s, "leave_after_s", "seconds of at least 0", least=0.0, below=1e6)
        if recognizer.liveness is None and (require_live or liveness is not None):
            raise ConfigurationError(
                "require_live, liveness: the recogniser has no liveness model, and edgeface ships none; open it with "
                "your own, FaceRecognizer.open(..., liveness=MODEL), see docs/liveness.md"
            )
        detector = recognizer.detector
        self.recognizer = recognizer
        self.options = options or DecisionOptions()
        self.budget = Budget(
            budget_ms, max_side_px=detector.max_side_px, sides=detector.engine.manifest.input_size is None
        )
        self.counts = LoopCounts()
        self._detectors = {
            step.max_side_px: Detector(
                detector.engine, max_side_px=step.max_side_px, min_score=detector.min_score,
                max_overlap=detector.max_overlap, max_faces=detector.max_faces, points=detector.points,
            )
            for step in self.budget.steps
        }  # fmt: skip
        self._tracker = Tracker(keep_s=keep_track_s, lost_after_s=min(LOST_AFTER_S, keep_track_s))
        self._people: dict[int, TrackIdentity] = {}
        self._newest_s = float("-inf")
        self._owed: list[Event] = []  # of a frame that failed: told with the next one
        self._presence = Presence(leave_after_s)
        self._clock = clock
        self._listeners = Listeners(self.counts)
        self.require_live = recognizer.liveness is not None if require_live is None else require_live
        self._live: LivenessWatch | None = None
        if recognizer.liveness is not None:
            self._live = LivenessWatch(recognizer.liveness, liveness or LivenessOptions(), self.budget, clock)

    def on(self, callback: Callable[[Event], None]) -> None:
        """Call `callback` with every event, in the thread that runs the loop.

        One that raises is reported as a ``callback_failed`` event to the others, and logged; the loop goes on.
        """
        self._listeners.add(callback)

    def run(self, source: Source | Iterable[Any]) -> Iterator[FrameResult]:
        """The results of a source's frames until it ends; the source is closed then.

        Args:
            source: from `open_source`, or any iterable of (H, W, 3) uint8 BGR arrays.

        Raises:
            InputError: a frame is not one. InferenceError, GalleryError: as `FaceRecognizer.recognize`.
        """
        from edgeface.video.sources import IterableSource

        given: Any = source if hasattr(source, "read") else IterableSource(source)
        last_s, last_wall_s = 0.0, time.perf_counter()
        left = self._idle(self._newest_s, everybody="new_source")  # of a run that was left or that failed
        if left.events:
            yield left
        self._begin()  # the faces of an earlier source are not there any more, and its clock says nothing of this one's
        try:
            while not given.ended:
                frame = given.read(POLL_S)
                notices = self._listeners.tell([given.notices.popleft() for _ in range(len(given.notices))])
                if frame is not None:
                    last_s, last_wall_s = frame.time_s, time.perf_counter()
                    result = self.step(frame)
                else:  # no frame, but time goes on: people leave although the camera is dead
                    result = self._idle(last_s + time.perf_counter() - last_wall_s)
                if notices:
                    result = replace(result, events=(*notices, *result.events))
                if frame is not None or result.events:
                    yield result
            result = self._idle(last_s, everybody="end_of_source")
            if result.events:
                yield result
        finally:
            given.close()

    def step(self, frame: Frame) -> FrameResult:
        """Take in one frame; `Frame.time_s` must rise from call to call.

        A clock that is put back by more than `keep_track_s` begins everything anew: whoever was there has left.
        Raises InputError: the time is not a number, or the frame is not a picture.
        """
        self._follow_clock(frame)
        spent = {"detect": 0.0, "quality": 0.0, "embed": 0.0, "decide": 0.0}
        left_out: list[str] = []
        step = self.budget.step
        if step.max_side_px < self.recognizer.detector.max_side_px:
            left_out.append(f"detector_side_px={step.max_side_px}")
        start = self._clock()
        found: list[int] = []
        if detecting := self.budget.detect_now():
            faces = self._detectors[step.max_side_px].detect(frame.image, pixel_format=frame.pixel_format)
            now = self._clock()
            spent["detect"] = (now - start) * 1e3
            self.budget.learn_detection(step.max_side_px, spent["detect"])
            found = self._tracker.update(faces, frame.time_s)
        else:
            left_out.append("detection")
            self._tracker.predict(frame.time_s)
        for gone in self._people.keys() - self._tracker.tracks.keys():
            del self._people[gone]
        if self._live is not None:
            self._live.follow(self._tracker.tracks, frame.time_s)
        if detecting:
            self._offer(frame, faces, found)
            spent["quality"] = (self._clock() - now) * 1e3
            self.counts.detections += 1
            self.counts.faces += len(faces)
        now = self._clock()
        found_out, waiting = self._look(frame, (now - frame.arrived_s) * 1e3)
        self._owed += found_out
        if waiting:
            left_out.append(f"embeddings={waiting}")
        after = self._clock()
        spent["embed"] = (after - now) * 1e3
        if self._live is not None:
            looks, waiting = self._live.look(self._people, (after - frame.arrived_s) * 1e3)
            self.counts.liveness_looks += looks
            if waiting:
                left_out.append(f"liveness={waiting}")
            before, after = after, self._clock()
            spent["liveness"] = (after - before) * 1e3
        seen = [self._face(track_id, frame.time_s, track_id in found) for track_id in self._tracker.tracks]
        events = self._listeners.tell([*self._owed, *self._presence.update(seen, frame.number, frame.time_s)])
        self._owed.clear()
        end = self._clock()
        spent["decide"] = (end - after) * 1e3
        latency = (end - frame.arrived_s) * 1e3
        self.budget.finish(latency, latency - spent["detect"] - spent["embed"] - spent.get("liveness", 0.0))
        self.counts.frames += 1
        for stage, ms in spent.items():
            self.counts.stages_ms[stage] = self.counts.stages_ms.get(stage, 0.0) + ms
        return FrameResult(frame.number, frame.time_s, tuple(seen), tuple(events), tuple(left_out), latency, spent)

    def _follow_clock(self, frame: Frame) -> None:
        """Where the clock of the frames was put back, ages are lost, and names and verdicts would last."""
        if not math.isfinite(frame.time_s):
            raise InputError(f"frame {frame.number}: time_s: expected seconds, got {frame.time_s!r}")
        back_s, self._newest_s = self._newest_s - frame.time_s, max(self._newest_s, frame.time_s)
        if back_s <= self._tracker.keep_s:
            return
        log.warning("frame %d: the clock was put back by %.3g s; everything begins anew", frame.number, back_s)
        self._begin()
        self._newest_s = frame.time_s
        self._owed += self._presence.leave(frame.time_s, frame=frame.number, everybody="clock_put_back")

    def _begin(self) -> None:
        """Forget all tracks and what is known of them."""
        self._newest_s = float("-inf")
        for known in (self._tracker.tracks, self._people, *(() if self._live is None else (self._live.tracks,))):
            known.clear()

    def _offer(self, frame: Frame, faces: Faces, found: list[int]) -> None:
        """Measure the views of this frame, and keep those that the network should see."""
        if not found:
            return
        crops = align_faces(frame.image, faces.landmarks, size_px=CROP_PX, pixel_format=frame.pixel_format)
        scores = Quality.of_view(crops, faces).score
        due = [] if self._live is None else self._live.offer(frame, faces, found, scores)
        for row, track_id in enumerate(found):
            person = self._people.setdefault(track_id, TrackIdentity())
            quality, track = float(scores[row]), self._tracker.tracks[track_id]
            near = track.near or person.checked_s < track.found_s
            wanted = person.wants(quality, frame.time_s, self.options, crossed=track.crossed, near=near)
            if row in due and quality >= self.options.min_quality:  # a name and its liveness are checked together
                wanted = wanted or person.verdict.name is not None
            if wanted or person.crop_quality > 0:
                person.offer(crops[row], quality, frame.time_s, max(track.crossed_s, track.found_s))

    def _look(self, frame: Frame, spent_ms: float) -> tuple[list[Event], int]:
        """Embed as many waiting views as fit, best first; returns events and the number that still wait."""
        waiting = sorted(
            (track_id for track_id, person in self._people.items() if person.crop_quality > 0),
            key=lambda track_id: -self._people[track_id].crop_quality,
        )
        count = self.budget.faces_that_fit(self.budget.embedding, spent_ms, len(waiting)) if waiting else 0
        if count == 0:
            return [], len(waiting)
        chosen = waiting[:count]
        start = self._clock()
        embedder = self.recognizer.embedder
        template = np.array(embedder.engine.manifest.template, np.float32)
        crops = [self._people[track_id].crop for track_id in chosen]
        views = [embedder.prepare(crop, template) for crop in crops]
        embeddings = run_views(embedder.run, views, lambda row: self._people[chosen[row]].drop(frame.time_s))
        self.budget.embedding.learn((self._clock() - start) * 1e3 / count)
        self.counts.embeddings += len(embeddings)
        events: list[Event] = []
        for row, embedding in embeddings.items():
            events += self._judge(chosen[row], embedding, frame)
        return events, len(waiting) - count

    def _judge(self, track_id: int, embedding: FloatArray, frame: Frame) -> list[Event]:
        person, track = self._people[track_id], self._tracker.tracks[track_id]
        policy, before = self.recognizer.policy, person.verdict
        centre = self.recognizer.embedder.engine.manifest.recognizability
        quality = refined_score(person.crop_quality, embedding, centre)
        other = person.look(
            embedding, quality, frame.time_s, crossed=track.crossed, policy=policy, options=self.options
        )
        if quality >= self.options.min_quality and person.crop_s >= track.crossed_s:
            track.crossed = False
        verdict = person.decide(self.recognizer.gallery, policy, self.options)
        if self._live is not None and (other or verdict.name not in (before.name, None)):
            # What was live then may have been another face: an attacker's own, before the picture went up.
            self._live.forget(track_id, frame.time_s)
        changed = before.name is not None and before.name != verdict.name and (other or verdict.name is not None)
        if not changed:
            return []
        self._presence.forget(track_id)
        # Where live is asked for, it comes before the name.
        name, person_id = (None, None) if self.require_live else (verdict.name, verdict.person_id)
        return [
            Event(
                EventKind.CHANGED, frame.time_s, frame=frame.number, track_id=track_id, name=name, person_id=person_id,
                similarity=verdict.similarity, margin=verdict.margin, quality=person.best_quality,
                reason="another person than before" if other else "a nearer person", details={"before": before.name},
                liveness=None if self._live is None else Liveness.UNSURE,
            )
        ]  # fmt: skip

    def _face(self, track_id: int, time_s: float, detected: bool) -> TrackedFace:
        track = self._tracker.tracks[track_id]
        person = self._people.setdefault(track_id, TrackIdentity())
        verdict, withheld = person.verdict, None
        live = None if self._live is None else self._live.tracks.setdefault(track_id, TrackLiveness())
        if track.crossed and verdict.decision is Decision.MATCH:
            verdict = Verdict(Decision.AMBIGUOUS, None, None, verdict.similarity, verdict.margin, CROSSING)
        elif self.require_live and verdict.name is not None and live is not None and live.verdict is not Liveness.LIVE:
            withheld = verdict.name
            verdict = Verdict(Decision.AMBIGUOUS, None, None, verdict.similarity, verdict.margin, NOT_LIVE)
        return TrackedFace(
            track_id=track_id, box=track.box, landmarks=track.landmarks, extrapolated=not detected,
            decision=verdict.decision, name=verdict.name, person_id=verdict.person_id, similarity=verdict.similarity,
            margin=verdict.margin, quality=max(person.best_quality, person.crop_quality), reason=verdict.reason,
            age_s=time_s - track.first_s, seen_s=track.seen_s, embeddings=person.embeddings,
            liveness=None if live is None else live.verdict, liveness_score=None if live is None else live.score,
            withheld_name=withheld,
        )  # fmt: skip

    def _idle(self, time_s: float, *, everybody: str = "") -> FrameResult:
        """No frame: tell who has left meanwhile, and at the end of the source everybody who was there."""
        events = self._listeners.tell(self._presence.leave(time_s, everybody=everybody))
        return FrameResult(-1, time_s, (), tuple(events), (), 0.0, {})
