"""Alignment: known transforms are recovered, and the crop does not depend on how the face stood in the frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface import align_faces, kernels
from edgeface.errors import InputError
from edgeface.manifest import ARCFACE_112

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeface.types import ByteArray

TEMPLATE = np.array(ARCFACE_112, np.float64)
ANGLES = st.floats(-np.pi, np.pi)
SCALES = st.floats(0.1, 20)
SHIFTS = st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000))


def similarity(angle: float, scale: float, shift: tuple[float, float]) -> npt.NDArray[np.float64]:
    """(2, 3): turns, scales and shifts points."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([scale * turn, shift])


def moved(points: npt.NDArray[Any], matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], np.float64)


def umeyama(points: npt.NDArray[np.float64], goal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The published form, by singular values (Umeyama 1991, eq. 40-42)."""
    p, q = points - points.mean(axis=0), goal - goal.mean(axis=0)
    u, d, vt = np.linalg.svd(q.T @ p / len(points))
    sign = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    turn = u @ sign @ vt
    scale = np.trace(np.diag(d) @ sign) / p.var(axis=0).sum()
    return np.column_stack([scale * turn, goal.mean(axis=0) - scale * turn @ points.mean(axis=0)])


@pytest.fixture(scope="module")
def face() -> ByteArray:
    """A smooth picture: blobs, so that resampling it differs little from resampling it twice."""
    noise = np.random.default_rng(3).uniform(0, 255, (400, 400, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 9)
    return np.asarray(cv2.normalize(smooth, np.empty(0), 20, 235, cv2.NORM_MINMAX), np.uint8)


@given(ANGLES, SCALES, SHIFTS)
def test_a_known_transform_is_recovered(angle: float, scale: float, shift: tuple[float, float]) -> None:
    known = similarity(angle, scale, shift)
    landmarks = moved(TEMPLATE, known).astype(np.float32)
    (found,) = kernels.similarity_transform(landmarks[None], TEMPLATE)
    # Where the template's points come from, and so does everything else; float32 holds 2,000 px to 1e-4.
    assert np.allclose(moved(landmarks, found), TEMPLATE, atol=0.02)
    assert np.allclose(found[:, :2] @ known[:, :2], np.eye(2), atol=1e-3)


@given(st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=5, max_size=5))
def test_any_five_points_give_the_least_squares_transform(points: list[tuple[float, float]]) -> None:
    landmarks = np.array(points, np.float32)
    if landmarks.std(axis=0).max() < 1:
        return
    (found,) = kernels.similarity_transform(landmarks[None], TEMPLATE)
    error = ((moved(landmarks, found) - TEMPLATE) ** 2).sum()
    published = ((moved(landmarks, umeyama(landmarks.astype(np.float64), TEMPLATE)) - TEMPLATE) ** 2).sum()
    assert error <= published * (1 + 1e-6) + 1e-6
    a, b = found[0, 0], found[1, 0]
    assert np.allclose(found[:, :2], [[a, -b], [b, a]])  # no reflection, no shear


@settings(max_examples=25, deadline=None)
@given(ANGLES, st.floats(0.7, 1.6), st.tuples(st.floats(-40, 40), st.floats(-40, 40)))
def test_the_crop_is_the_same_however_the_face_stands(
    face: ByteArray, angle: float, scale: float, shift: tuple[float, float]
) -> None:
    upright = moved(TEMPLATE, similarity(0, 1.2, (130, 130)))
    centre = similarity(angle, scale, (0, 0))
    motion = np.column_stack([centre[:, :2], np.array([300.0, 300.0]) - centre[:, :2] @ [200.0, 200.0] + shift])
    turned = cv2.warpAffine(face, motion, (600, 600), flags=cv2.INTER_LINEAR)
    (straight,) = align_faces(face, upright)
    (other,) = align_faces(turned, moved(upright, motion))
    # Both are resampled, one twice; the pictures' levels change by some units from pixel to pixel.
    assert np.abs(straight.astype(int) - other).mean() < 2.0


def test_faces_of_one_frame_are_cut_one_by_one(face: ByteArray) -> None:
    spots = np.stack([moved(TEMPLATE, similarity(a, s, (120, 150))) for a, s in ((0, 1), (0.5, 1.4), (-2, 0.6))])
    together = align_faces(face, spots)
    assert together.shape == (3, 112, 112, 3)
    assert together.dtype == np.uint8
    for crop, points in zip(together, spots, strict=True):
        assert np.array_equal(align_faces(face, points)[0], crop)
    assert align_faces(face, np.empty((0, 5, 2))).shape == (0, 112, 112, 3)


def test_landmarks_on_the_template_copy_the_pixels(face: ByteArray) -> None:
    assert np.array_equal(align_faces(face, TEMPLATE)[0], face[:112, :112])
    assert np.array_equal(align_faces(face, np.add(TEMPLATE, [7, 11]))[0], face[11:123, 7:119])


def test_opencv_warps_to_the_same_crop(face: ByteArray) -> None:
    points = moved(TEMPLATE, similarity(0.3, 1.3, (120, 90)))
    theirs = cv2.warpAffine(face, umeyama(points, TEMPLATE), (112, 112), flags=cv2.INTER_LINEAR)
    assert np.abs(align_faces(face, points)[0].astype(int) - theirs).max() <= 3


def test_outside_the_frame_is_black(face: ByteArray) -> None:
    (half,) = align_faces(face, np.add(TEMPLATE, [-56, 0]))
    assert half[:, :55].max() == 0
    assert np.array_equal(half[:, 56:], face[:112, :56])
    assert align_faces(face, TEMPLATE + 5000).max() == 0
    assert align_faces(face, TEMPLATE * 1e-3 - 1e6).max() == 0


def test_points_that_coincide_give_a_black_crop(face: ByteArray) -> None:
    assert align_faces(face, np.full((5, 2), 50.0)).max() == 0


@pytest.mark.parametrize("size_px", [56, 224, 336])
def test_other_sizes_scale_the_template(size_px: int, face: ByteArray) -> None:
    points = moved(TEMPLATE, similarity(0, 2, (60, 60)))
    (crop,) = align_faces(face, points, size_px=size_px)
    assert crop.shape == (size_px, size_px, 3)
    small = cv2.resize(align_faces(face, points)[0], (16, 16), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(cv2.resize(crop, (16, 16), interpolation=cv2.INTER_AREA).astype(int) - small).mean() < 8


@pytest.mark.parametrize("size_px", [0, -112, 15, 1025, 112.5, "112"])
def test_a_size_that_is_none_is_refused(size_px: Any, face: ByteArray) -> None:
    with pytest.raises(InputError, match="size_px: expected"):
        align_faces(face, TEMPLATE, size_px=size_px)


def test_what_is_no_frame_or_no_points_is_refused(face: ByteArray) -> None:
    with pytest.raises(InputError, match="frame: expected"):
        align_faces(face[:, :, 0], TEMPLATE)
    with pytest.raises(InputError, match="landmarks: expected"):
        align_faces(face, TEMPLATE[:4])
