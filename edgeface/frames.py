"""What a frame is, and what landmarks are: the one check of every picture and point that enters the SDK."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import InputError

if TYPE_CHECKING:
    from edgeface.types import ByteArray, FloatArray

MIN_PX = 32
MAX_PX = 8192  # 8K video is 7680 wide
EXPECTED = f"a (height, width, 3) uint8 BGR array with sides of {MIN_PX} to {MAX_PX} px"


def check_frame(frame: Any) -> ByteArray:
    """Accept a frame, or say what was expected.

    Any strides and read-only arrays are accepted. A frame whose pixels do not lie together in memory (every second
    column, say, or channels reversed by a negative stride) is copied once.

    Args:
        frame: (H, W, 3) uint8 BGR.

    Returns:
        The frame, or a copy with contiguous rows.

    Raises:
        InputError: anything else; the message names what was expected and got, and the usual mend.
    """
    if not isinstance(frame, np.ndarray):
        hint = ""
        if frame is None:
            hint = "; cv2.imread returns None for a file that it cannot read"
        elif isinstance(frame, (str, os.PathLike)):
            hint = "; read a photograph with edgeface.photos.read_photo(path)"
        raise InputError(f"frame: expected {EXPECTED}, got {type(frame).__name__}{hint}")
    got = f"shape {frame.shape}, dtype {frame.dtype}"
    if frame.dtype != np.uint8:
        hint = ""
        if frame.dtype.kind == "f":
            hint = "; scale to 0..255 and convert with .astype(np.uint8)"
        elif frame.dtype == np.uint16:
            hint = "; keep the upper 8 of 16 bits with (frame >> 8).astype(np.uint8)"
        raise InputError(f"frame: expected {EXPECTED}, got {got}{hint}")
    if frame.ndim != 3 or frame.shape[2] != 3:
        hint = ""
        if frame.ndim == 2:
            hint = "; for a grey picture say pixel_format='gray'"
        elif frame.ndim == 3 and frame.shape[2] == 4:
            hint = "; with an alpha channel say pixel_format='bgra'"
        elif frame.ndim == 3 and frame.shape[0] == 3:
            hint = "; put the channels last with frame.transpose(1, 2, 0)"
        elif frame.ndim == 4:
            hint = "; give one frame at a time"
        raise InputError(f"frame: expected {EXPECTED}, got {got}{hint}")
    height, width = frame.shape[:2]
    if not (MIN_PX <= height <= MAX_PX and MIN_PX <= width <= MAX_PX):
        hint = "; shrink it first" if max(height, width) > MAX_PX else ""
        raise InputError(f"frame: expected {EXPECTED}, got {got}{hint}")
    return packed(frame)


def packed(frame: ByteArray) -> ByteArray:
    """The frame, (H, W) or (H, W, C), or a copy where pixels do not lie together in memory or rows run upwards."""
    pixel = (1,) if frame.ndim == 2 else (frame.shape[2], 1)
    return frame if frame.strides[1:] == pixel and frame.strides[0] >= 0 else np.ascontiguousarray(frame)


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a frame of any pixel format. Raises InputError."""
    if not (min(size) >= MIN_PX and max(size) <= MAX_PX):
        raise InputError(f"frame: expected a picture with sides of {MIN_PX} to {MAX_PX} px, got {size[0]} x {size[1]}")
    return size


def check_landmarks(landmarks: Any) -> FloatArray:
    """(N, 5, 2) float32 points from any array of that shape, or of one face's. Raises InputError."""
    try:
        points = np.ascontiguousarray(landmarks, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"landmarks: expected an (N, 5, 2) array, got {type(landmarks).__name__}") from None
    if points.shape == (5, 2):
        points = points[np.newaxis]
    if points.ndim != 3 or points.shape[1:] != (5, 2):
        raise InputError(f"landmarks: expected shape (N, 5, 2) or (5, 2), got {points.shape}")
    if not np.isfinite(points).all():
        raise InputError("landmarks: expected finite pixels, got NaN or infinity")
    return points
