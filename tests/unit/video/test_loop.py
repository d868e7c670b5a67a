"""The loop as a whole, on composed streams of the demo's photographs with the default models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeface import FaceRecognizer
from edgeface.errors import InputError
from edgeface.tools.bench.judge import Judge, Named
from edgeface.tools.bench.stream import ComposedStream, Cutout, cut_out
from edgeface.video import Event, EventKind, Frame, RecognitionLoop, TrackedFace
from edgeface.video.metrics import prometheus_text
from edgeface.video.presence import Presence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeface.types import ByteArray
    from edgeface.video import FrameResult

SIZE = (480, 640)


@pytest.fixture
def opened(with_models: Path, tmp_path: Path, photos: dict[str, ByteArray]) -> Iterator[FaceRecognizer]:
    """Two people enrolled: em and ja."""
    with FaceRecognizer.open(tmp_path / "loop.gallery") as recognizer:
        recognizer.enroll("em", photos["emmanuel_macron_2014"])
        recognizer.enroll("ja", photos["jacinda_ardern_2018"])
        yield recognizer


@pytest.fixture
def heads(recognizer: FaceRecognizer, photos: dict[str, ByteArray]) -> dict[str, Cutout]:
    cut = {
        "em": cut_out("em", photos["emmanuel_macron_2025"], recognizer.detector),
        "ja": cut_out("ja", photos["jacinda_ardern_2022"], recognizer.detector),
        "stranger": cut_out("stranger", photos["rishi_sunak_2020"], recognizer.detector),
    }
    assert all(cut.values())
    return {name: one for name, one in cut.items() if one is not None}


def paste(frame: ByteArray, head: Cutout, x: float, y: float, side: int = 220) -> None:
    import cv2

    pixels = cv2.resize(head.pixels, (side, side), interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(head.alpha, (side, side))[:, :, None]
    left, top = round(x - side / 2), round(y - side / 2)
    a, b = max(0, left), min(frame.shape[1], left + side)
    part = frame[top : top + side, a:b]
    part[:] = part + (pixels[:, a - left : b - left].astype(np.float32) - part) * alpha[:, a - left : b - left]


def walk(head: Cutout, frames: int, *, still: int = 0) -> Iterator[ByteArray]:
    """One person crosses the picture, and then nobody is there."""
    for step in range(frames + still):
        frame = np.full((*SIZE, 3), 100, np.uint8)
        if step < frames:
            paste(frame, head, 150 + 6 * step, 240)
        yield frame


def kinds(results: list[FrameResult]) -> list[tuple[str, str | None]]:
    return [(str(event.kind), event.name) for result in results for event in result.events]


def test_a_person_arrives_and_leaves(opened: FaceRecognizer, heads: dict[str, Cutout]) -> None:
    loop = RecognitionLoop(opened, leave_after_s=0.5)
    results = list(loop.run(walk(heads["em"], 40, still=40)))
    assert kinds(results) == [("arrived", "em"), ("left", "em")]
    left = next(event for result in results for event in result.events if event.kind is EventKind.LEFT)
    assert 1.75 < left.time_s < 1.95  # seen for 1.3 s, and half a second is waited
    assert {face.track_id for result in results for face in result.faces} == {1}
    assert loop.counts.embeddings <= 3
    assert loop.counts.frames == loop.counts.detections == 80


def test_a_stranger_is_told_once(opened: FaceRecognizer, heads: dict[str, Cutout]) -> None:
    results = list(RecognitionLoop(opened).run(walk(heads["stranger"], 40)))
    assert kinds(results) == [("unknown", None)]
    assert results[-1].faces[0].reason == "below_threshold"


def test_two_who_cross_keep_their_names(opened: FaceRecognizer, heads: dict[str, Cutout]) -> None:
    loop, wrong, named = RecognitionLoop(opened), 0, 0
    for step in range(60):
        frame = np.full((*SIZE, 3), 100, np.uint8)
        at = {"em": 110 + 7 * step, "ja": 530 - 7 * step}
        for name in ("em", "ja"):  # ja passes in front
            paste(frame, heads[name], at[name], 240 if name == "em" else 250)
        result = loop.step(Frame(frame, step, step / 30, 0.0))
        for face in result.faces:
            x = float(face.box[0] + face.box[2]) / 2
            nearest = min(at, key=lambda name: abs(at[name] - x))
            if abs(at["em"] - at["ja"]) > 60 and face.name is not None:
                named += 1
                wrong += face.name != nearest
    assert named > 80
    assert wrong == 0


def test_what_the_stream_knows_agrees_with_what_the_loop_says(
    opened: FaceRecognizer, heads: dict[str, Cutout]
) -> None:
    stream = ComposedStream(list(heads.values()), size=SIZE, faces=2, frames=120, seed=3)
    loop, judge = RecognitionLoop(opened), Judge({"em", "ja"})
    for number, (image, truths) in enumerate(stream):
        result = loop.step(Frame(image, number, number / 30, 0.0))
        judge.frame(number / 30, truths, [Named(face.box, face.name, face.track_id) for face in result.faces])
    assert judge.wrong == 0
    assert judge.due > 50
    assert judge.right_share > 0.8
    assert loop.counts.faces >= 8 * loop.counts.embeddings


def test_camera_formats_need_no_conversion(opened: FaceRecognizer, heads: dict[str, Cutout]) -> None:
    import cv2

    def nv12() -> Iterator[ByteArray]:
        for frame in walk(heads["em"], 10):
            i420 = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420), np.uint8)
            planes = i420[480:].reshape(2, -1)
            yield np.concatenate([i420[:480], np.stack([planes[0], planes[1]], axis=1).reshape(240, 640)])

    loop = RecognitionLoop(opened)
    frames = [Frame(image, n, n / 30, 0.0, "nv12") for n, image in enumerate(nv12())]
    assert [loop.step(frame) for frame in frames][-1].faces[0].name == "em"


def test_a_tight_budget_says_what_it_left_out(opened: FaceRecognizer, heads: dict[str, Cutout]) -> None:
    loop = RecognitionLoop(opened, budget_ms=0.5)
    left_out = {what for result in loop.run(walk(heads["em"], 60)) for what in result.left_out}
    assert "detection" in left_out
    assert "detector_side_px=320" in left_out
    assert "embeddings=1" in left_out
    assert loop.budget.frames_over > 0


def test_a_callback_that_fails_is_reported_and_stops_nothing(
    opened: FaceRecognizer, heads: dict[str, Cutout], caplog: pytest.LogCaptureFixture
) -> None:
    loop = RecognitionLoop(opened)
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("no room")

    loop.on(broken)
    loop.on(heard.append)
    results = list(loop.run(walk(heads["em"], 10)))
    told = kinds(results)
    assert ("arrived", "em") in told
    assert ("callback_failed", None) in told
    assert [event.kind for event in heard].count(EventKind.CALLBACK_FAILED) == loop.counts.callback_failures == 2
    assert "no room" in caplog.text


def test_people_leave_although_the_camera_is_dead(opened: FaceRecognizer, heads: dict[str, Cutout]) -> None:
    from collections import deque

    class Dying:
        """Gives some frames, then nothing."""

        def __init__(self) -> None:
            self.ended = False
            self.notices: deque[Event] = deque()
            self.frames = list(walk(heads["em"], 5))
            self.number = -1
            self.idle = 0

        def read(self, timeout_s: float) -> Frame | None:
            if self.frames:
                self.number += 1
                return Frame(self.frames.pop(0), self.number, self.number / 30, 0.0)
            if self.idle == 0:
                self.notices.append(Event(EventKind.SOURCE_LOST, 0.2, reason="unplugged"))
            self.idle += 1
            import time

            time.sleep(0.1)
            self.ended = self.idle > 20
            return None

        def close(self) -> None:
            self.ended = True

    loop = RecognitionLoop(opened, leave_after_s=0.3)
    told = kinds(list(loop.run(Dying())))
    assert told == [("arrived", "em"), ("source_lost", None), ("left", "em")]


def test_a_stream_that_ends_sends_everybody_home(opened: FaceRecognizer, heads: dict[str, Cutout]) -> None:
    results = list(RecognitionLoop(opened).run(walk(heads["em"], 10)))
    assert kinds(results)[-1] == ("left", "em")
    assert results[-1].events[-1].reason == "end_of_source"


def test_a_clock_that_is_put_back_keeps_nobody_there(
    opened: FaceRecognizer, heads: dict[str, Cutout], caplog: pytest.LogCaptureFixture
) -> None:
    """A caller's frames may carry the time of day. Everything that ages would last for the hour that is lived again."""
    loop = RecognitionLoop(opened)
    for number, image in enumerate(walk(heads["em"], 10)):
        result = loop.step(Frame(image, number, 7200 + number / 30, 0.0))
    assert result.faces[0].name == "em"
    jitter = loop.step(Frame(image, 10, 7200.2, 0.0))
    assert jitter.faces[0].name == "em"  # a frame out of order is none
    nobody = np.full((*SIZE, 3), 100, np.uint8)
    result = loop.step(Frame(nobody, 11, 3600.0, 0.0))
    assert result.faces == ()
    assert [(event.kind, event.name, event.reason) for event in result.events] == [("left", "em", "clock_put_back")]
    assert "the clock was put back by 3.6e+03 s" in caplog.text
    result = loop.step(Frame(image, 12, 3600.03, 0.0))
    assert [(event.kind, event.name) for event in result.events] == [("arrived", "em")]


@pytest.mark.parametrize("time_s", [float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(opened: FaceRecognizer, heads: dict[str, Cutout], time_s: float) -> None:
    with pytest.raises(InputError, match="time_s"):
        RecognitionLoop(opened).step(Frame(next(walk(heads["em"], 1)), 0, time_s, 0.0))


def test_whoever_was_there_when_a_stream_was_left_has_left_when_the_next_begins(
    opened: FaceRecognizer, heads: dict[str, Cutout]
) -> None:
    """A caller who leaves the results, or whose frame fails, sees no end of the source."""
    loop = RecognitionLoop(opened)
    for result in loop.run(walk(heads["em"], 10)):
        if result.number == 5:
            break
    results = list(loop.run(walk(heads["em"], 5)))
    assert kinds(results) == [("left", "em"), ("arrived", "em"), ("left", "em")]
    assert [event.reason for result in results for event in result.events][::2] == ["new_source", "end_of_source"]


def test_what_happened_in_a_frame_that_failed_is_told_with_the_next(
    opened: FaceRecognizer, heads: dict[str, Cutout]
) -> None:
    loop, heard = RecognitionLoop(opened), list[tuple[str, str | None]]()
    loop.on(lambda event: heard.append((str(event.kind), event.name)))
    for number, image in enumerate(walk(heads["em"], 5)):
        loop.step(Frame(image, number, 7200 + number / 30, 0.0))
    with pytest.raises(InputError):
        loop.step(Frame(np.zeros((1, 1, 3), np.uint8), 5, 3600.0, 0.0))  # the clock is put back, and half a frame
    assert heard == [("arrived", "em")]
    nobody = np.full((*SIZE, 3), 100, np.uint8)
    result = loop.step(Frame(nobody, 6, 3600.1, 0.0))
    assert kinds([result]) == heard[1:] == [("left", "em")]
    assert kinds([loop.step(Frame(nobody, 7, 3600.2, 0.0))]) == []


def test_a_second_stream_begins_without_the_faces_of_the_first(
    opened: FaceRecognizer, heads: dict[str, Cutout]
) -> None:
    loop = RecognitionLoop(opened)
    list(loop.run(walk(heads["em"], 10)))
    nobody = np.full((*SIZE, 3), 100, np.uint8)
    results = list(loop.run([nobody] * 3))
    assert [result.faces for result in results] == [()] * 3
    assert kinds(results) == []


def test_people_enrolled_while_the_loop_runs_are_recognised(
    opened: FaceRecognizer, heads: dict[str, Cutout], photos: dict[str, ByteArray]
) -> None:
    loop = RecognitionLoop(opened)
    frames = list(walk(heads["stranger"], 30))
    for number, image in enumerate(frames[:15]):
        result = loop.step(Frame(image, number, number / 30, 0.0))
    assert result.faces[0].name is None
    opened.enroll("new", photos["rishi_sunak_2020"])
    for number, image in enumerate(frames[15:]):
        result = loop.step(Frame(image, 300 + number, 10 + number / 30, 0.0))
    assert result.faces[0].name == "new"


def test_metrics_are_prometheus_text(opened: FaceRecognizer, heads: dict[str, Cutout]) -> None:
    loop = RecognitionLoop(opened, budget_ms=1000)
    list(loop.run(walk(heads["em"], 10)))
    values: dict[str, float] = {}
    for line in prometheus_text(loop).splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    assert values["edgeface_frames_total"] == 10
    assert values["edgeface_faces_total"] == 10
    assert values["edgeface_events_total"] == 2
    assert 0 < values['edgeface_latency_seconds{quantile="0.5"}'] <= values['edgeface_latency_seconds{quantile="0.99"}']


def face(track_id: int, name: str | None, reason: str = "match", *, seen_s: float = 0.0) -> TrackedFace:
    from edgeface import Decision

    decision = Decision.MATCH if name else Decision.AMBIGUOUS if reason == "crossing" else Decision.UNKNOWN
    return TrackedFace(track_id, np.zeros(4, np.float32), np.zeros((5, 2), np.float32), False, decision, name,
                       None if name is None else len(name), 0.6, 0.3, 0.9, reason, 0.0, seen_s, 1)  # fmt: skip


def test_a_crossing_makes_nobody_leave() -> None:
    presence = Presence(leave_after_s=1.0)
    told: list[Event] = []
    for tick in range(100):
        name, reason = (None, "crossing") if 10 <= tick < 90 else ("ada", "match")
        shown = face(1, name, reason, seen_s=tick / 10)
        told += presence.update([shown], tick, tick / 10)
    assert [event.kind for event in told] == [EventKind.ARRIVED]


def test_a_new_track_of_a_person_who_is_there_is_no_arrival() -> None:
    presence = Presence(leave_after_s=1.0)
    told = presence.update([face(1, "ada")], 0, 0.0)
    told += presence.update([], 1, 0.5)
    told += presence.update([face(2, "ada", seen_s=0.9)], 2, 0.9)
    assert [event.kind for event in told] == [EventKind.ARRIVED]
    assert [event.kind for event in presence.update([], 3, 2.0)] == [EventKind.LEFT]
