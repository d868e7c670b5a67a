"""The gate before the gallery: each reason with its measured value, forcing, and what passes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from edgeface import FaceRecognizer, Gallery
from edgeface.enrolment import EnrolmentLimits, check_agreement
from edgeface.errors import EnrolmentError, InputError
from edgeface.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeface.types import ByteArray, FloatArray


@pytest.fixture
def opened(with_models: Path, tmp_path: Path) -> Iterator[FaceRecognizer]:
    with FaceRecognizer.open(tmp_path / "gate.gallery") as recognizer:
        yield recognizer


def refused(recognizer: FaceRecognizer, photos: Any, **limits: float) -> EnrolmentError:
    before = recognizer.gallery.people()
    with pytest.raises(EnrolmentError) as caught:
        recognizer.enroll("ada", photos, limits=EnrolmentLimits(**limits))
    assert recognizer.gallery.people() == before
    return caught.value


@pytest.mark.parametrize(
    ("reason", "limits"),
    [
        ("too_small", {"min_size_px": 2000.0}),
        ("blurred", {"min_sharpness": 1e5}),
        ("too_dark", {"min_exposure": 0.99}),
        ("low_contrast", {"min_contrast": 0.49}),
        ("too_bright", {"max_exposure": 0.05}),
        ("not_frontal", {"max_yaw_deg": 0.01}),
        ("low_quality", {"min_quality": 0.9999}),
    ],
)
def test_each_limit_refuses_with_its_reason_and_value(
    reason: str, limits: dict[str, float], opened: FaceRecognizer, photos: dict[str, ByteArray]
) -> None:
    error = refused(opened, photos["jacinda_ardern_2018"], **limits)
    assert error.reason == reason
    (limit,) = limits.values()
    assert error.limit == limit
    assert error.value is not None
    assert f"{error.value:.4g}" in str(error)
    assert len(opened.gallery) == 0


def test_blurred_and_dark_photographs_are_refused_by_default(
    opened: FaceRecognizer, photos: dict[str, ByteArray]
) -> None:
    photo = photos["jacinda_ardern_2018"]
    blurred = np.asarray(cv2.GaussianBlur(photo, (0, 0), 12), np.uint8)
    assert refused(opened, blurred).reason == "blurred"
    dark = (photo * 0.1).astype(np.uint8)
    assert refused(opened, dark).reason == "too_dark"


def test_no_face_and_several_faces(opened: FaceRecognizer, photos: dict[str, ByteArray]) -> None:
    assert refused(opened, np.full((200, 200, 3), 90, np.uint8)).reason == "no_face"
    photo = cv2.resize(photos["jacinda_ardern_2018"], (360, 450))
    both = np.concatenate([photo, photo], axis=1)
    error = refused(opened, both)
    assert (error.reason, error.value) == ("several_faces", 2)


def test_photographs_of_two_people_disagree(opened: FaceRecognizer, photos: dict[str, ByteArray]) -> None:
    error = refused(opened, [photos["jacinda_ardern_2018"], photos["rishi_sunak_2020"]])
    assert error.reason == "disagrees"


def test_two_people_with_two_photographs_each_disagree(opened: FaceRecognizer, photos: dict[str, ByteArray]) -> None:
    """Each photograph has a mate, and yet nobody can say whose enrolment it is."""
    macron = ["emmanuel_macron_2014", "emmanuel_macron_2025"]
    ardern = ["jacinda_ardern_2018", "jacinda_ardern_2022"]
    for names in (macron + ardern, [macron[0], ardern[0], macron[1], ardern[1]]):
        error = refused(opened, [photos[name] for name in names])
        assert error.reason == "disagrees"
        assert error.value is not None
        assert error.limit is not None
        assert error.value < error.limit
        assert "photograph 1:" in str(error)
        assert "several people, nobody most often" in str(error)


def test_the_photograph_of_somebody_else_is_named(opened: FaceRecognizer, photos: dict[str, ByteArray]) -> None:
    names = ["jacinda_ardern_2018", "emmanuel_macron_2014", "emmanuel_macron_2025"]
    error = refused(opened, [photos[name] for name in names])
    assert error.reason == "disagrees"
    assert "photograph 1:" in str(error)
    assert "photographs 2, 3 show one person" in str(error)
    assert opened.enroll("ada", [photos[name] for name in names[1:]]).templates == 2


PLANE = Policy(threshold=0.7, margin=0.1, fmr=None, origin="this test")


def unit_rows(*degrees: float) -> FloatArray:
    """Embeddings at these angles in a plane: 60 degrees apart have a similarity of 0.5."""
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        ((0,), {}),
        ((0, 10), {}),
        ((0, 50, 100, 150), {}),  # joined in steps, as a face is from one side to the other
        ((100, 0, 150, 50), {}),
        ((0, 90), {0: 90, 1: 90}),
        ((0, 180, 10), {1: 170}),
        ((0, 180, 10, 190), {0: 170, 1: 170, 2: 170, 3: 170}),
        ((0, 180, 10, 190, 90), {0: 90, 1: 90, 2: 80, 3: 100, 4: 80}),
        ((0, 180, 10, 190, 350), {1: 170, 3: 160}),
    ],
)
def test_photographs_outside_the_largest_group_are_strays(
    degrees: tuple[float, ...], expected: dict[int, float], tmp_path: Path
) -> None:
    with Gallery.open(tmp_path / "plane.gallery", model_id="plane", dimension=2, template="float32") as gallery:
        found = check_agreement(
            "ada", unit_rows(*degrees), gallery, PLANE, EnrolmentLimits()
        )
    assert {number: one.value for number, one in found} == pytest.approx(
        {number: float(np.cos(np.radians(angle))) for number, angle in expected.items()}, abs=1e-6
    )
    assert {one.reason for _, one in found} <= {"disagrees"}


def test_of_an_enrolled_person_the_templates_decide(tmp_path: Path) -> None:
    """Two views that are each like the enrolled one need not be like one another."""
    with Gallery.open(tmp_path / "plane.gallery", model_id="plane", dimension=2, template="float32") as gallery:
        gallery.add("ada", unit_rows(0))
        found = check_agreement(
            "ada", unit_rows(40, -40, 90, 100), gallery, PLANE, EnrolmentLimits()
        )
    assert {number for number, _ in found} == {2, 3}


def test_a_face_of_somebody_else_is_refused_under_another_name(
    opened: FaceRecognizer, photos: dict[str, ByteArray]
) -> None:
    opened.enroll("jacinda", photos["jacinda_ardern_2018"])
    error = refused(opened, photos["jacinda_ardern_2022"])
    assert error.reason == "already_enrolled"
    assert "jacinda" in str(error)
    assert opened.enroll("jacinda", photos["jacinda_ardern_2022"]).templates == 2


def test_another_person_is_not_added_to_a_name(opened: FaceRecognizer, photos: dict[str, ByteArray]) -> None:
    opened.enroll("ada", photos["jacinda_ardern_2018"])
    assert refused(opened, photos["rishi_sunak_2020"]).reason == "disagrees"


def test_forcing_enrols_and_logs(
    opened: FaceRecognizer, photos: dict[str, ByteArray], caplog: pytest.LogCaptureFixture
) -> None:
    photo = photos["jacinda_ardern_2018"]
    with caplog.at_level(logging.WARNING):
        person = opened.enroll("ada", photo, limits=EnrolmentLimits(min_size_px=2000), force=True)
    assert person.templates == 1
    assert "forced" in caplog.text
    assert "too_small" in caplog.text
    with pytest.raises(EnrolmentError):  # no face is no template, force or not
        opened.enroll("bob", np.full((200, 200, 3), 90, np.uint8), force=True)


@pytest.mark.parametrize("given", [float("nan"), "50"])
def test_limits_are_numbers(given: Any) -> None:
    with pytest.raises(InputError, match="min_size_px: expected a number"):
        EnrolmentLimits(min_size_px=given)


def test_a_stranger_is_not_added_to_a_name_in_a_large_gallery(
    opened: FaceRecognizer, photos: dict[str, ByteArray]
) -> None:
    """The person's own templates are compared, however many other people are nearer."""
    first, stranger = next(iter(photos)), list(photos)[-1]
    opened.enroll("Ada", photos[first])
    random = np.random.default_rng(0).standard_normal((200, opened.embedder.dimension)).astype(np.float32)
    for number, row in enumerate(random / np.linalg.norm(random, axis=1, keepdims=True)):
        opened.gallery.add(f"person {number}", row[None])
    with pytest.raises(EnrolmentError) as caught:
        opened.enroll("Ada", photos[stranger])
    assert caught.value.reason == "disagrees"


def test_a_name_is_the_same_however_it_is_composed(opened: FaceRecognizer, photos: dict[str, ByteArray]) -> None:
    photo = next(iter(photos.values()))
    opened.enroll("Jose\u0301", photo)
    assert opened.enroll("Jos\u00e9", photo).templates == 2
    with pytest.raises(InputError, match="expected a name"):
        opened.enroll("", photo)
