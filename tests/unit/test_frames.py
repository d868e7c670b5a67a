"""What a frame is: accepted as it comes from cameras and files, or refused with what was expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeface import align_faces
from edgeface.errors import InputError
from edgeface.frames import check_frame, check_landmarks
from edgeface.manifest import ARCFACE_112
from edgeface.runtime.frame import HeldFrame

FRAME = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (None, "got NoneType; cv2.imread returns None"),
        ([[1, 2, 3]], "got list"),
        ("photo.jpg", r"got str; read a photograph with edgeface\.photos\.read_photo"),
        (Path("photo.jpg"), r"got PosixPath; read a photograph with edgeface\.photos\.read_photo"),
        (FRAME[:, :, 0], "say pixel_format='gray'"),
        (FRAME[:, :, :1], r"got shape \(48, 64, 1\)"),
        (np.dstack([FRAME, FRAME[:, :, :1]]), r"with an alpha channel say pixel_format='bgra'"),
        (FRAME[None], "give one frame at a time"),
        (FRAME.transpose(2, 0, 1), r"shape \(3, 48, 64\), dtype uint8; put the channels last"),
        (FRAME.astype(np.float32) / 255, r"got shape \(48, 64, 3\), dtype float32; scale to 0..255"),
        (FRAME.astype(np.float64), "dtype float64; scale"),
        (FRAME.astype(np.int16), "dtype int16"),
        (FRAME.astype(np.uint16), r"dtype uint16; keep the upper 8 of 16 bits with \(frame >> 8\)\.astype"),
        (FRAME > 3, "dtype bool"),
        (np.array([[["a"] * 3] * 64] * 64), "dtype <U1"),
        (FRAME.astype(object), "dtype object"),
        (np.empty((0, 0, 3), np.uint8), r"shape \(0, 0, 3\)"),
        (np.empty((0,), np.uint8), r"shape \(0,\)"),
        (FRAME[:31], "sides of 32 to 8192 px"),
        (FRAME[:, :31], r"shape \(48, 31, 3\)"),
        (np.broadcast_to(np.uint8(0), (8193, 64, 3)), r"shape \(8193, 64, 3\), dtype uint8; shrink it first"),
        (np.broadcast_to(np.uint8(0), (1 << 40, 1 << 20, 3)), "expected"),
    ],
)
def test_what_is_no_frame_is_refused_with_what_was_expected(frame: object, said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        check_frame(frame)
    assert "expected a (height, width, 3) uint8 BGR array" in str(refusal.value)


def test_a_plain_frame_is_not_copied() -> None:
    rows = np.zeros((96, 100, 3), np.uint8)
    for frame in (FRAME, rows[:, 10:74], rows[::2]):
        assert check_frame(frame) is frame


VIEWS = {
    "mirrored": FRAME[:, ::-1],
    "upside down": FRAME[::-1],
    "RGB made BGR": FRAME[:, :, ::-1],
    "every second column": np.repeat(FRAME, 2, axis=1)[:, ::2],
    "transposed": FRAME.transpose(1, 0, 2),
    "planes": np.ascontiguousarray(FRAME.transpose(2, 0, 1)).transpose(1, 2, 0),
    "column order": np.asfortranarray(FRAME),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_any_strides_give_the_same_pixels(view: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    checked = check_frame(view)
    assert np.array_equal(checked, view)
    assert checked.strides[1:] == (3, 1)
    assert checked.strides[0] > 0


OTHERS: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "rgb": lambda height, width: (height, width, 3),
    "bgra": lambda height, width: (height, width, 4),
    "gray": lambda height, width: (height, width),
    "nv12": lambda height, width: (height * 3 // 2, width),
    "i420": lambda height, width: (height * 3 // 2, width),
    "yuyv": lambda height, width: (height, width, 2),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("size", [(8, 8), (30, 64), (9000, 40), (64, 8194), (32766, 32766)])
def test_the_limits_of_a_frame_hold_for_every_format(name: str, size: tuple[int, int]) -> None:
    shape = OTHERS[name](*size)
    with pytest.raises(InputError, match=f"sides of 32 to 8192 px, got {size[0]} x {size[1]}"):
        HeldFrame(np.broadcast_to(np.uint8(0), shape), pixel_format=name)
    assert HeldFrame(np.zeros(OTHERS[name](32, 8192), np.uint8), pixel_format=name).size == (32, 8192)


@pytest.mark.parametrize("name", OTHERS)
def test_any_strides_do_in_every_format(name: str) -> None:
    frame = np.random.default_rng(3).integers(0, 256, OTHERS[name](48, 64)).astype(np.uint8)
    wide = np.repeat(frame, 2, axis=1)
    for view in (frame[::-1], frame[:, ::-1], frame[..., ::-1], wide[:, ::2], np.asfortranarray(frame)):
        held = HeldFrame(view, pixel_format=name)
        assert np.array_equal(held.image, view)
        assert held.image.flags.c_contiguous
    assert HeldFrame(frame, pixel_format=name).image is frame
    mirrored = frame[:, ::-1]
    crops = align_faces(mirrored, ARCFACE_112, pixel_format=name)
    assert np.array_equal(crops, align_faces(mirrored.copy(), ARCFACE_112, pixel_format=name))


def test_read_only_frames_are_frames() -> None:
    frame = FRAME.copy()
    frame.flags.writeable = False
    assert check_frame(frame) is frame


@given(hnp.arrays(np.float64, st.sampled_from([(5, 2), (1, 5, 2), (3, 5, 2), (0, 5, 2)]),
                  elements=st.floats(-1e6, 1e6)))  # fmt: skip
def test_landmarks_of_one_face_or_several(points: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    checked = check_landmarks(points)
    assert checked.shape == (len(points) if points.ndim == 3 else 1, 5, 2)
    assert checked.dtype == np.float32
    assert checked.flags.c_contiguous
    assert np.array_equal(checked.reshape(points.shape), points.astype(np.float32))


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (None, "expected an|expected shape|finite"),
        ("points", "got str"),
        ([[1, 2], [3]], "got list"),
        (np.zeros((5, 3)), r"got \(5, 3\)"),
        (np.zeros((2, 4, 2)), r"got \(2, 4, 2\)"),
        (np.full((5, 2), np.nan), "NaN or infinity"),
        (np.full((1, 5, 2), np.inf), "NaN or infinity"),
    ],
)
def test_what_is_no_landmarks_is_refused(points: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_landmarks(points)
