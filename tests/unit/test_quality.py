"""The quality score and its parts: they follow what is done to a photograph, and the pose has the stated signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeface import FaceRecognizer, Faces, align_faces
from edgeface.engines import quality_study
from edgeface.engines.degrade import LEVELS, degrade
from edgeface.errors import InputError
from edgeface.manifest import Recognizability
from edgeface.pose import FACE_MM, head_pose
from edgeface.quality import Quality, refined_score

if TYPE_CHECKING:
    from edgeface.types import ByteArray, FloatArray


def measure(photo: ByteArray, recognizer: FaceRecognizer) -> tuple[Quality, FloatArray] | None:
    faces = recognizer.detector.detect(photo).subject(*photo.shape[:2])
    if not len(faces):
        return None
    embedding = recognizer.embedder.embed(photo, faces.landmarks)
    view = Quality.of_view(align_faces(photo, faces.landmarks), faces)
    return view.with_embeddings(embedding, recognizer.embedder.engine.manifest.recognizability), embedding[0]


def turned(yaw: float, pitch: float, roll: float) -> FloatArray:
    """The generic face turned by angles of the stated signs, seen from far away."""
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    points = np.array(FACE_MM) @ (about_z @ about_y @ about_x).T
    flat: FloatArray = (points[:, :2] * 1.7 + 400).astype(np.float32)
    return flat


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (30, 0, 0), (-30, 0, 0), (0, 20, 0), (0, -20, 0), (0, 0, 25), (0, 0, -25), (20, -10, 15)]
)
def test_the_pose_has_the_stated_signs(angles: tuple[float, float, float]) -> None:
    found = head_pose(turned(*angles)[None])[0]
    assert np.abs(found - np.array(angles)).max() < 5  # far away is not infinitely far, and the order of turns matters


def test_points_without_extent_have_no_pose() -> None:
    assert np.isnan(head_pose(np.full((1, 5, 2), 7.0, np.float32))).all()


def test_good_photographs_score_high(recognizer: FaceRecognizer, photos: dict[str, ByteArray]) -> None:
    for name, photo in photos.items():
        measured = measure(photo, recognizer)
        assert measured is not None
        part = measured[0].parts(0)
        assert part["score"] > 0.85, (name, part)
        assert abs(part["yaw_deg"]) < 30


@pytest.mark.parametrize("kind", ["blur", "low_resolution"])
def test_the_score_falls_as_a_photograph_gets_worse(
    kind: str, recognizer: FaceRecognizer, photos: dict[str, ByteArray]
) -> None:
    photo = photos["emmanuel_macron_2014"]
    clean = measure(photo, recognizer)
    assert clean is not None
    width = float(clean[0].size_px[0])
    scores = [float(clean[0].score[0])]
    for level in (LEVELS[kind][0], LEVELS[kind][-2]):
        worse = measure(degrade(photo, kind, level, face_width_px=width), recognizer)
        scores.append(float(worse[0].score[0]) if worse is not None else 0.0)
    assert scores[0] > scores[2] + 0.05
    assert scores[1] >= scores[2]


def test_unrecognisable_faces_lie_near_the_centre(recognizer: FaceRecognizer, photos: dict[str, ByteArray]) -> None:
    photo = photos["rishi_sunak_2020"]
    blurred = measure(degrade(photo, "blur", 27.0, face_width_px=280), recognizer)
    sharp = measure(photo, recognizer)
    assert blurred is not None
    assert sharp is not None
    assert float(blurred[0].recognizability[0]) < float(sharp[0].recognizability[0]) - 0.2


def test_without_a_centre_the_score_stays(recognizer: FaceRecognizer, photos: dict[str, ByteArray]) -> None:
    photo = photos["rishi_sunak_2020"]
    faces = recognizer.detector.detect(photo)
    view = Quality.of_view(align_faces(photo, faces.landmarks), faces)
    embedding = recognizer.embedder.embed(photo, faces.landmarks)
    assert view.with_embeddings(embedding, None) is view
    assert np.isnan(view.recognizability).all()


def test_the_score_kept_of_a_view_refines_to_the_same_number(
    recognizer: FaceRecognizer, photos: dict[str, ByteArray]
) -> None:
    centre = recognizer.embedder.engine.manifest.recognizability
    assert centre is not None
    for photo in photos.values():
        for seen in (photo, degrade(photo, "blur", 27.0, face_width_px=280)):
            faces = recognizer.detector.detect(seen)
            view = Quality.of_view(align_faces(seen, faces.landmarks), faces)
            embeddings = recognizer.embedder.embed(seen, faces.landmarks)
            full = view.with_embeddings(embeddings, centre).score
            for row, embedding in enumerate(embeddings):
                kept = float(view.score[row])
                assert refined_score(kept, embedding, centre) == pytest.approx(float(full[row]), abs=1e-5)
                assert abs(float(full[row]) - kept) > 1e-3  # or keeping the score as it is would pass, too
                assert refined_score(kept, embedding, None) == kept


def test_a_score_at_either_end_can_be_refined() -> None:
    centre = Recognizability(origin="this test", centre=(1.0, 0.0), weights=(0.0, 1.0, 2.0))
    at_centre, away = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    for score in (0.0, 1.0):
        assert refined_score(score, at_centre, centre) == pytest.approx(score, abs=2e-6)
    assert refined_score(0.5, away, centre) == pytest.approx(1 / (1 + np.exp(-2)))


def test_no_face_measures_nothing_and_wrong_crops_are_refused() -> None:
    nothing = Quality.of_view(np.empty((0, 112, 112, 3), np.uint8), Faces.empty())
    assert len(nothing) == 0
    with pytest.raises(InputError, match="crops"):
        Quality.of_view(np.empty((1, 112, 112, 3), np.uint8), Faces.empty())


def test_reject_curves_count_what_is_dropped() -> None:
    measure_of = np.arange(100, dtype=np.float32)
    missed = np.arange(100) < 10
    curve = quality_study.reject_curve(measure_of, missed)
    assert curve["fnmr"]["0"] == pytest.approx(0.1)
    assert curve["fnmr"]["0.05"] == pytest.approx(5 / 95)
    assert curve["fnmr"]["0.2"] == 0
    assert curve["removed"] == 1.0
    assert quality_study.reject_curve(-measure_of, missed)["removed"] == 0


def test_the_logistic_fit_finds_the_weights_that_made_the_data() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(20_000, 2)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(0.5 + features @ np.array([2.0, -1.0]))))
    fitted = quality_study.logistic(features, random.random(20_000) < chance)
    assert np.allclose(fitted, [0.5, 2.0, -1.0], atol=0.1)


def test_a_score_uses_all_three_weights() -> None:
    rng = np.random.default_rng(2)
    faces = Faces(np.array([[10, 10, 80, 90]]), np.array([0.9]), turned(0, 0, 0)[None])
    view = Quality.of_view(rng.integers(0, 255, (1, 112, 112, 3)).astype(np.uint8), faces)
    centre = Recognizability("a test", (1.0, 0.0), (0.0, 0.0, 1.0))
    known = view.with_embeddings(np.array([[0.0, 1.0]], np.float32), centre)
    assert float(known.recognizability[0]) == pytest.approx(1.0)
    assert float(known.score[0]) == pytest.approx(1 / (1 + np.exp(-1)))
