"""Where a head is turned, from the five points of a detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeface.errors import MissingDependencyError, install_extra

if TYPE_CHECKING:
    from edgeface.types import FloatArray

#: A generic face in millimetres, x to the viewer's right, y down, z away from the camera, the tip of the nose at the
#: origin; in the order of `Faces.landmarks`. Width and height are the median of YuNet's points on 383 photographs of
#: LFW, made symmetric, at an eye distance of 63 mm (the adult mean of N. A. Dodgson, "Variation and extrema of human
#: interpupillary distance", 2004), so that the median face has no pitch. The depths are an adult's, rounded.
FACE_MM = (
    (-31.5, -35.0, 30.0),
    (31.5, -35.0, 30.0),
    (0.0, 0.0, 0.0),
    (-27.0, 27.8, 25.0),
    (27.0, 27.8, 25.0),
)
#: Focal length in widths between the eyes: a camera so far away that perspective hardly counts, since the true focal
#: length is unknown. At 20, a face at arm's length in a wide-angle camera errs by about two degrees.
FOCAL_EYES = 20.0


def head_pose(landmarks: FloatArray) -> FloatArray:
    """Yaw, pitch and roll of heads, in degrees, 0 for a face that looks into the camera.

    Yaw is positive where the face is turned to the viewer's right, pitch where it looks up, roll where the head leans
    clockwise as the viewer sees it.

    Args:
        landmarks: (N, 5, 2) float32, x and y in pixels, in the order of `Faces.landmarks`.

    Returns:
        (N, 3) float32: yaw, pitch, roll; NaN where the points fit no face.

    Raises:
        MissingDependencyError: OpenCV is not installed.

    Source: perspective-n-point by G. Terzakis and M. Lourakis, "A Consistently Fast and Globally Optimal Solution to
    the Perspective-n-Point Problem", 2020 (OpenCV's SOLVEPNP_SQPNP), with the generic face above.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingDependencyError(
            f"the pose of a head needs OpenCV ({error}); {install_extra('host')}, or jetson/setup.sh on a Jetson"
        ) from error
    model = np.array(FACE_MM, np.float64)
    angles = np.full((len(landmarks), 3), np.nan, np.float32)
    for row, points in enumerate(np.asarray(landmarks, np.float64)):
        middle = points.mean(axis=0)
        scale = np.abs(points - middle).max()
        if scale < 1e-3:
            continue
        camera = np.array([[FOCAL_EYES, 0, 0], [0, FOCAL_EYES, 0], [0, 0, 1]], np.float64)
        try:
            found, turned, _ = cv2.solvePnP(model, (points - middle) / scale, camera, None, flags=cv2.SOLVEPNP_SQPNP)
        except cv2.error:  # no solution for these points: they are no face
            continue
        if found:
            angles[row] = _angles(cv2.Rodrigues(turned)[0])
    return angles


def _angles(rotation: object) -> tuple[float, float, float]:
    """Degrees of the rotation from the model's axes to the camera's."""
    matrix = np.asarray(rotation, np.float64)
    x, y, z = -matrix[:, 2]  # where the nose points
    across = matrix[:, 0]  # from the viewer's left eye to the right one
    yaw = np.degrees(np.arctan2(x, -z))
    pitch = np.degrees(np.arctan2(-y, np.hypot(x, z)))
    roll = np.degrees(np.arctan2(across[1], across[0]))
    return float(yaw), float(pitch), float(roll)
