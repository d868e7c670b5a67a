"""Faces cut out of a frame, turned and scaled so that their five points lie where the embedder expects them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import kernels
from edgeface.frames import check_landmarks
from edgeface.manifest import ARCFACE_112
from edgeface.numbers import whole
from edgeface.runtime.frame import HeldFrame

if TYPE_CHECKING:
    from edgeface.types import ByteArray


def align_faces(frame: Any, landmarks: Any, *, size_px: int = 112, pixel_format: str = "bgr") -> ByteArray:
    """Cut faces out of a frame by the least-squares similarity transform to the ArcFace template.

    Args:
        frame: (H, W, 3) uint8 BGR, or another array that `pixel_format` describes.
        landmarks: (N, 5, 2) or (5, 2), (x, y) pixels of the frame, in the order of `Faces.landmarks`.
        size_px: side of the crops; the template of 112 px is scaled to it.
        pixel_format: ``bgr``, or a camera's own such as ``nv12``, as `edgeface.kernels.align` takes them.

    Returns:
        (N, size_px, size_px, 3) uint8 BGR crops; black where they reach outside the frame.

    Raises:
        InputError: not a frame, or points that are not finite or of another shape.

    Source: S. Umeyama, Least-squares estimation of transformation parameters between two point patterns (1991).
    """
    size_px = whole(size_px, "size_px", 16, 1024)
    points = check_landmarks(landmarks)
    template = np.array(ARCFACE_112, np.float32) * np.float32(size_px / 112)
    crops = np.empty((len(points), size_px, size_px, 3), np.uint8)
    tensor = np.empty((len(points), 3, size_px, size_px), np.float32)
    with HeldFrame(frame, pixel_format=pixel_format) as held:
        kernels.align(held.image, points, template, tensor, crops=crops, pixel_format=pixel_format)
    return crops
