"""Which detection continues which track, and when the face may have become another one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface import Faces
from edgeface.errors import InputError
from edgeface.video.tracks import Tracker, enlarge, overlaps


def faces(*centres: tuple[float, float], size: float = 40) -> Faces:
    boxes = np.array([[x - size / 2, y - size / 2, x + size / 2, y + size / 2] for x, y in centres]).reshape(-1, 4)
    points = np.repeat(np.array(centres, np.float32).reshape(-1, 1, 2), 5, axis=1)
    return Faces(boxes, np.full(len(centres), 0.9), points)


def test_two_who_walk_keep_their_tracks() -> None:
    tracker = Tracker()
    for step in range(30):
        ids = tracker.update(faces((100 + 6 * step, 100), (500 - 6 * step, 220)), step / 30)
        assert ids == [1, 2]
    assert not any(track.crossed for track in tracker.tracks.values())


@given(st.floats(-12, 12), st.floats(-12, 12), st.integers(0, 1000))
def test_a_face_in_steady_motion_is_one_track(dx: float, dy: float, seed: int) -> None:
    tracker, random = Tracker(), np.random.default_rng(seed)
    for step in range(20):
        jitter = random.normal(0, 1, 2)
        at = (300 + dx * step + jitter[0], 300 + dy * step + jitter[1])
        assert tracker.update(faces(at), step / 30) == [1]


def test_the_order_of_detections_does_not_matter() -> None:
    tracker = Tracker()
    assert tracker.update(faces((100, 100), (300, 100)), 0.0) == [1, 2]
    assert tracker.update(faces((302, 100), (103, 100)), 0.033) == [2, 1]


def test_between_detections_boxes_move_on() -> None:
    tracker = Tracker()
    for step in range(10):
        tracker.update(faces((100 + 6 * step, 100)), step / 30)
    tracker.predict(10 / 30)
    track = tracker.tracks[1]
    assert (track.box[0] + track.box[2]) / 2 == pytest.approx(160, abs=2)
    assert track.landmarks[2, 0] == pytest.approx(160, abs=2)


def test_a_track_ends_when_it_is_not_seen_and_its_number_is_not_given_again() -> None:
    tracker = Tracker(keep_s=0.5, lost_after_s=0.2)
    assert tracker.update(faces((100, 100)), 0.0) == [1]
    tracker.predict(0.4)
    assert list(tracker.tracks) == [1]
    tracker.predict(0.6)
    assert not tracker.tracks
    assert tracker.update(faces((100, 100)), 0.7) == [2]


def test_a_gap_makes_a_face_doubtful() -> None:
    tracker = Tracker(keep_s=1.0, lost_after_s=0.2)
    tracker.update(faces((100, 100)), 0.0)
    tracker.update(faces((100, 100)), 0.1)
    assert not tracker.tracks[1].crossed
    assert tracker.update(faces((101, 100)), 0.5) == [1]
    assert tracker.tracks[1].crossed
    assert tracker.tracks[1].crossed_s == 0.5


def test_a_jump_makes_a_face_doubtful() -> None:
    tracker = Tracker()
    for step in range(5):
        tracker.update(faces((100, 100)), step / 30)
    tracker.update(faces((118, 100)), 5 / 30)
    assert tracker.tracks[1].crossed


def test_faces_that_meet_are_doubtful_until_they_were_checked_and_again_when_they_part() -> None:
    tracker, marks = Tracker(), []
    for step in range(40):
        tracker.update(faces((100 + 5 * step, 100), (260 - 5 * step, 112)), step / 30)
        marks.append(any(track.crossed for track in tracker.tracks.values()))
        for track in tracker.tracks.values():
            track.crossed = False  # as a loop does that has looked
    assert 2 <= sum(marks) <= 12  # at the meeting and at the parting, not in every frame
    assert not marks[0]
    assert not marks[-1]


def test_times_must_make_sense() -> None:
    with pytest.raises(InputError):
        Tracker(keep_s=0.1, lost_after_s=0.2)


def test_overlaps_and_enlargement() -> None:
    a = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    assert overlaps(a, a).tolist() == [[1, 0], [0, 1]]
    assert overlaps(a[:1], np.array([[5, 0, 15, 10]], np.float32))[0, 0] == pytest.approx(1 / 3)
    assert enlarge(a[:1])[0].tolist() == pytest.approx([-3, -3, 13, 13])
    assert overlaps(a[:0], a).shape == (0, 2)


@pytest.mark.parametrize("fps", [3, 5, 7.5, 30])
def test_a_slow_camera_does_not_find_a_face_again_in_every_frame(fps: float) -> None:
    tracker = Tracker(lost_after_s=0.12)
    for step in range(30):
        tracker.update(faces((100, 100)), step / fps)
    found = tracker.tracks[1].found_s
    assert found <= 1 / fps  # the usual time is not known before
    tracker.update(faces(), 30 / fps)
    tracker.update(faces((100, 100)), 31 / fps)
    assert tracker.tracks[1].found_s == 31 / fps  # missed once
    tracker.update(faces((100, 100)), 31 / fps + 0.9)  # nobody watched for longer than usual
    assert tracker.tracks[1].found_s == 31 / fps + 0.9
