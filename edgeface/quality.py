"""How useful a view of a face is: one score from 0 to 1, and the measurements that it is made of.

The score is a probability: that the view's template reaches the threshold of a false match rate of 1e-4 against a good
template of the same person. So it is what ISO/IEC 29794-1 calls utility, and it can be held against measured errors
(`edgeface eval quality`). Two of its parts tell views apart before the network has run (`Quality.of_view`); the
third, recognizability, costs one dot product after it (`Quality.with_embeddings`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import kernels
from edgeface.errors import InputError
from edgeface.frames import check_landmarks
from edgeface.pose import head_pose

if TYPE_CHECKING:
    from edgeface.manifest import Recognizability
    from edgeface.types import ByteArray, Faces, FloatArray

CROP_PX = 112
#: The middle of the crop: the face without the corners, which show background or lie outside the frame.
FACE_ROWS, FACE_COLUMNS = slice(20, 108), slice(20, 92)

#: The weights of `view_features` in the logit of the score, the constant first. Fitted by logistic regression with
#: `edgeface eval quality --fit` on clean and degraded photographs of LFW; the fit knew half of the people only.
VIEW_WEIGHTS: tuple[float, ...] = (
    -11.462,
    -0.825, -1.129, -0.429, 1.364, 1.004, -0.134, -0.3,
    5.685, 10.291, 0.36, 0.904, 0.269, -0.017, 0.879,
)


@dataclass(frozen=True, eq=False)
class Quality:
    """Measurements of N views of faces, one row a face.

    Attributes:
        score: (N,) float32, 0 useless to 1 good: from `recognizability` too where it is known.
        size_px: (N,) float32, the shorter side of the face's box in pixels of the frame.
        sharpness: (N,) float32, variance of the Laplacian of the aligned face at 112 px, in grey levels squared.
        exposure: (N,) float32, mean grey of the aligned face, 0 black to 1 white.
        contrast: (N,) float32, standard deviation of its grey, 0 to 0.5.
        pose_deg: (N, 3) float32, yaw, pitch and roll; see `edgeface.pose.head_pose` for the signs.
        detection: (N,) float32, the detector's confidence, 0 to 1.
        recognizability: (N,) float32, 1 less the cosine to the centre of unrecognisable faces, 0 to 2; NaN before the
            network has run, or where the model's recipe has no centre.
    """

    score: FloatArray
    size_px: FloatArray
    sharpness: FloatArray
    exposure: FloatArray
    contrast: FloatArray
    pose_deg: FloatArray
    detection: FloatArray
    recognizability: FloatArray

    def __len__(self) -> int:
        return len(self.score)

    def parts(self, index: int) -> dict[str, float]:
        """One face's measurements by name, for logs and events."""
        yaw, pitch, roll = (float(angle) for angle in self.pose_deg[index])
        return {
            "score": float(self.score[index]),
            "size_px": float(self.size_px[index]),
            "sharpness": float(self.sharpness[index]),
            "exposure": float(self.exposure[index]),
            "contrast": float(self.contrast[index]),
            "yaw_deg": yaw,
            "pitch_deg": pitch,
            "roll_deg": roll,
            "detection": float(self.detection[index]),
            "recognizability": float(self.recognizability[index]),
        }

    @classmethod
    def of_view(cls, crops: ByteArray, faces: Faces) -> Quality:
        """Measure aligned faces.

        Args:
            crops: (N, 112, 112, 3) uint8 BGR, as `align_faces` cuts them.
            faces: the same N faces, in pixels of the frame.

        Raises:
            InputError: another number or shape of crops. MissingDependencyError: no OpenCV, which solves the pose.
        """
        if crops.shape != (len(faces), CROP_PX, CROP_PX, 3) or crops.dtype != np.uint8:
            raise InputError(
                f"crops: expected {(len(faces), CROP_PX, CROP_PX, 3)} uint8 for {len(faces)} faces, "
                f"got {crops.shape} {crops.dtype}"
            )
        inner = np.ascontiguousarray(crops[:, FACE_ROWS, FACE_COLUMNS])
        nothing = np.full(len(faces), np.nan, np.float32)
        measured = cls(
            score=nothing,
            size_px=faces.sizes.min(axis=1, initial=np.inf).astype(np.float32),
            sharpness=kernels.sharpness(inner),
            exposure=kernels.exposure(inner),
            contrast=kernels.contrast(inner),
            pose_deg=head_pose(check_landmarks(faces.landmarks)),
            detection=faces.scores,
            recognizability=nothing,
        )
        return replace(measured, score=_sigmoid(view_logit(measured)))

    def with_embeddings(self, embeddings: FloatArray, centre: Recognizability | None) -> Quality:
        """The same views when their embeddings are known.

        Args:
            embeddings: (N, D) float32 unit rows.
            centre: of unrecognisable faces, from the embedder's manifest; None leaves the score as it is.
        """
        if centre is None:
            return self
        distance = recognizability(embeddings, centre.centre)
        return replace(self, recognizability=distance, score=_full_score(view_logit(self), distance, centre))


def refined_score(view_score: float, embedding: FloatArray, centre: Recognizability | None) -> float:
    """The score of one view when its (D,) embedding is known, for callers who kept no more than its score before.

    The same number as `Quality.with_embeddings` gives, except for views whose first score is within 1e-6 of 0 or 1.
    """
    if centre is None:
        return view_score
    chance = np.clip(np.array([view_score], np.float32), 1e-6, 1 - 1e-6)
    logit = np.log(chance / (1 - chance))
    return float(_full_score(logit, recognizability(embedding[None], centre.centre), centre)[0])


def _full_score(view: FloatArray, distance: FloatArray, centre: Recognizability) -> FloatArray:
    bias, slope, away = centre.weights
    return _sigmoid(bias + slope * view + away * distance)


def recognizability(embeddings: FloatArray, centre: Any) -> FloatArray:
    """(N,) float32: 1 less the cosine of (N, D) unit rows to the centre of unrecognisable faces.

    Networks gather what they cannot recognise in one place: blurred, dark and tiny faces of everybody are similar to
    one another. Source: S. Deng et al., "Harnessing Unrecognizable Faces for Improving Face Recognition", 2021, and
    the first criterion of the Recognizability Index.
    """
    away: FloatArray = np.float32(1) - embeddings @ np.asarray(centre, np.float32)
    return away


def view_features(quality: Quality) -> FloatArray:
    """(N, 14) float32: the measurements on scales where errors grow about evenly, each limited at both ends."""
    size = np.clip(np.log2(np.maximum(quality.size_px, 1) / 64), -3, 0.5)
    sharpness = np.log2(np.maximum(quality.sharpness, 1e-3) / 200)
    contrast = np.clip(np.log2(np.maximum(quality.contrast, 1e-3) / 0.18), -4, 1)
    sharp, soft = np.clip(sharpness, 0, 4), np.clip(sharpness, -6, 0)
    # Sharpness at equal contrast does not depend on the light: what is high then is noise, above all in small faces.
    even = np.clip(sharpness - 2 * contrast, -6, 5)
    noisy, even_soft = np.maximum(even, 0), np.minimum(even, 0)
    yaw, pitch = (np.clip(np.nan_to_num(quality.pose_deg[:, axis], nan=90) / 45, -2, 2) for axis in (0, 1))
    features: FloatArray = np.stack(
        [
            size, sharp, soft, contrast, np.abs(quality.exposure - 0.45), yaw**2, pitch**2,
            quality.detection, quality.detection**2, noisy, even_soft, sharp * size, soft * size, noisy * size,
        ],
        axis=1,
    ).astype(np.float32)  # fmt: skip
    return features


def view_logit(quality: Quality) -> FloatArray:
    """(N,) float32: logit of the score before the network has run."""
    weights = np.array(VIEW_WEIGHTS, np.float32)
    logit: FloatArray = weights[0] + view_features(quality) @ weights[1:]
    return logit


def _sigmoid(logit: FloatArray) -> FloatArray:
    value: FloatArray = (1 / (1 + np.exp(-np.clip(logit, -30, 30)))).astype(np.float32)
    return value
