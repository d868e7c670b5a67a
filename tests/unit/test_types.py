"""Results: checked when made, read-only, and without surprises when indexed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from edgeface import Decision, Faces, Matches, Recognition
from edgeface.errors import InputError

# Their fields are declared as the arrays that they become; what is given may be anything that converts.
make_faces: Any = Faces
make_matches: Any = Matches


def faces(count: int) -> Faces:
    corner = np.arange(count, dtype=np.float32)[:, None] * 100
    boxes = np.concatenate([corner, corner, corner + 40, corner + 60], axis=1)
    made: Faces = make_faces(boxes, np.linspace(1, 0.5, count), np.zeros((count, 5, 2)))
    return made


def recognition(**changes: object) -> Recognition:
    fields: dict[str, object] = {
        "name": "ada", "person_id": 1, "decision": "match", "similarity": 0.7, "margin": 0.2, "box": [0, 0, 1, 1],
        "score": 0.9, "landmarks": np.zeros((5, 2)), "matches": make_matches([1], ("ada",), [0.7]),
    }  # fmt: skip
    return Recognition(**{**fields, **changes})  # type: ignore[arg-type]  # the fields' values are of many types


@pytest.mark.parametrize(
    ("boxes", "scores", "landmarks", "said"),
    [
        (np.zeros((2, 5)), np.zeros(2), np.zeros((2, 5, 2)), r"boxes: expected shape \('N', 4\), got \(2, 5\)"),
        (np.zeros((2, 4)), np.zeros((2, 1)), np.zeros((2, 5, 2)), "scores: expected shape"),
        (np.zeros((2, 4)), np.zeros(2), np.zeros((2, 10)), "landmarks: expected shape"),
        (np.zeros((2, 4)), np.zeros(3), np.zeros((2, 5, 2)), r"differ in length: \(2, 3, 2\)"),
        ("boxes", np.zeros(2), np.zeros((2, 5, 2)), "boxes: expected an array of float32, got str"),
        (None, np.zeros(2), np.zeros((2, 5, 2)), "boxes: expected"),
    ],
)
def test_faces_that_do_not_fit_are_refused(boxes: object, scores: object, landmarks: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_faces(boxes, scores, landmarks)


def test_faces_hold_copies_that_nobody_can_write() -> None:
    boxes = np.zeros((1, 4), np.float32)
    made = make_faces(boxes, np.ones(1), np.zeros((1, 5, 2)))
    boxes[:] = 7
    assert made.boxes.max() == 0
    for array in (made.boxes, made.scores, made.landmarks):
        assert array.dtype == np.float32
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.boxes = boxes


def test_no_face_is_empty_and_false() -> None:
    none = Faces.empty()
    assert len(none) == 0
    assert list(none) == []
    assert not none
    assert none.subject(480, 640) is none
    assert none.sizes.shape == (0, 2)


@pytest.mark.parametrize("index", [1, -2, np.int64(1), np.argmax([0, 1, 0]), slice(1, 2), np.array([1]),
                                   np.array([False, True, False])])  # fmt: skip
def test_every_way_of_choosing_one_face_gives_faces(index: int | np.integer[Any] | slice) -> None:
    chosen = faces(3)[index]
    assert isinstance(chosen, Faces)
    assert chosen.boxes.tolist() == [[100, 100, 140, 160]]


def test_a_face_that_is_not_there_ends_iteration_and_raises() -> None:
    assert [float(face.boxes[0, 0]) for face in faces(3)] == [0, 100, 200]
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"face {index} of 3"):
            faces(3)[index]


def test_sizes_are_height_and_width() -> None:
    assert faces(1).sizes.tolist() == [[60, 40]]


def test_the_subject_is_large_and_near_the_middle() -> None:
    # The same size, one in the middle; then a much larger one at the edge.
    boxes = [[0, 0, 40, 40], [280, 220, 320, 260], [0, 0, 300, 300]]
    for wanted, chosen in ((1, [0, 1]), (2, [0, 1, 2])):
        made = make_faces(np.array(boxes)[chosen], np.ones(len(chosen)), np.zeros((len(chosen), 5, 2)))
        assert made.subject(480, 600).boxes.tolist() == [boxes[wanted]]


def test_a_decision_is_its_text() -> None:
    assert Decision("match") == "match"
    assert str(Decision.AMBIGUOUS) == "ambiguous"
    assert f"{Decision.UNKNOWN}" == "unknown"


def test_matches_know_the_margin() -> None:
    assert make_matches([4, 2], ("ada", "bob"), [0.75, 0.5]).margin == 0.25
    assert make_matches([4], ("ada",), [0.7]).margin == float("inf")
    assert make_matches([], (), []).margin == float("inf")
    with pytest.raises(InputError, match="differ in length"):
        make_matches([4, 2], ("ada",), [0.7, 0.5])


def test_a_name_stands_only_with_a_match() -> None:
    assert recognition().decision is Decision.MATCH
    assert recognition(decision="unknown", name=None, person_id=None).name is None
    for changes in ({"name": None}, {"decision": "unknown"}, {"decision": "ambiguous"}):
        with pytest.raises(InputError, match="with name"):
            recognition(**changes)
    with pytest.raises(ValueError, match="perhaps"):
        recognition(decision="perhaps")
