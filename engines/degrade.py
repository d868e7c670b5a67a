"""Photographs made worse in the ways that cameras make them worse, at stated strengths, the same on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.types import ByteArray

#: Strengths of each kind, mild to hopeless. `blur` and `noise` are standard deviations in pixels and grey levels,
#: `low_resolution` the width of the face in pixels, `dark` the share of the light that is left, `jpeg` the quality.
LEVELS: dict[str, tuple[float, ...]] = {
    "blur": (1.5, 3.0, 4.5, 6.0, 9.0),
    "low_resolution": (48, 32, 24, 16, 12),
    "noise": (15, 30, 50, 75, 100),
    "dark": (0.3, 0.12, 0.06, 0.03),
    "jpeg": (25, 12, 7, 4),
}


def degrade(photo: ByteArray, kind: str, level: float, *, face_width_px: float, seed: int = 0) -> ByteArray:
    """A worse copy of a photograph.

    Args:
        photo: (H, W, 3) uint8 BGR.
        kind, level: a key of `LEVELS` and its strength.
        face_width_px: width of the face in the photograph; `low_resolution` shrinks the whole picture until the face
            has its width, as a camera farther away would.
        seed: of the noise.

    Raises:
        KeyError: no such kind.
    """
    return _KINDS[kind](photo, level, face_width_px, np.random.default_rng(seed))


def _blur(photo: ByteArray, level: float, face: float, random: np.random.Generator) -> ByteArray:
    import cv2

    return np.asarray(cv2.GaussianBlur(photo, (0, 0), level), np.uint8)


def _low_resolution(photo: ByteArray, level: float, face: float, random: np.random.Generator) -> ByteArray:
    import cv2

    ratio = min(1.0, level / face)
    size = [max(32, round(side * ratio)) for side in photo.shape[:2]]
    return np.asarray(cv2.resize(photo, (size[1], size[0]), interpolation=cv2.INTER_AREA), np.uint8)


def _noise(photo: ByteArray, level: float, face: float, random: np.random.Generator) -> ByteArray:
    noisy = photo + random.normal(0, level, photo.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def _dark(photo: ByteArray, level: float, face: float, random: np.random.Generator) -> ByteArray:
    # A short exposure: fewer grey levels, and the sensor's read noise (two grey levels) does not get darker.
    dark = photo * level + random.normal(0, 2, photo.shape)
    return np.clip(np.round(dark), 0, 255).astype(np.uint8)


def _jpeg(photo: ByteArray, level: float, face: float, random: np.random.Generator) -> ByteArray:
    import cv2

    _, packed = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, round(level)])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)


_KINDS: dict[str, Callable[[ByteArray, float, float, np.random.Generator], ByteArray]] = {
    "blur": _blur,
    "low_resolution": _low_resolution,
    "noise": _noise,
    "dark": _dark,
    "jpeg": _jpeg,
}
