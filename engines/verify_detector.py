"""What quantisation did to a detector: which of float32's faces it still finds, and how far their points moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeface.detect import DECODERS, SAME_FACE
from edgeface.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeface.engines.recipe import Recipe
    from edgeface.manifest import Manifest
    from edgeface.types import FloatArray

#: The scores and overlaps of `edgeface.Detector`, and the overlap at which two boxes are of one face (PASCAL VOC).
MIN_SCORE, NMS_IOU, SAME_BOX = 0.7, 0.3, 0.5

#: Maps that say where a face is; the other maps say how sure the detector is of it.
POSITIONS = ("bbox", "kps")

Found = tuple["FloatArray", "FloatArray", "FloatArray"]  # boxes, scores, landmarks of one picture


@dataclass
class DetectorReport:
    """Figures of one detector against its reference.

    Attributes:
        pictures: measured. faces: that the reference found in them. found: of these by the engine.
        extra: faces that only the engine found.
        point_errors: (found,) mean distance of the five points over the width of the face.
        position_errors: the same with the reference's scores in place of the engine's, so that the same cells of the
            maps are compared: the network's own error, without that of one cell winning over its neighbour.
        box_overlap: mean intersection over union of the boxes.
    """

    pictures: int
    faces: int
    found: int
    extra: int
    point_errors: list[float]
    box_overlap: float
    position_errors: list[float] = field(default_factory=list)

    @property
    def recall(self) -> float:
        return self.found / max(self.faces, 1)

    def points_share(self, limit: float) -> float:
        """Share of the found faces whose points moved by no more than `limit` of their width."""
        return _share(self.point_errors, limit)

    def positions_share(self, limit: float) -> float:
        """Share of the faces whose points moved by no more than `limit` when the same cells are compared."""
        return _share(self.position_errors, limit)


def _share(errors: list[float], limit: float) -> float:
    return float(np.mean(np.array(errors) <= limit)) if errors else 0.0


def decode(
    recipe: Recipe | Manifest, outputs: Mapping[str, FloatArray], size: tuple[int, int]
) -> list[Found]:
    """The faces of each picture from a detector's outputs, by meaning, over a batch.

    Raises:
        BuildError: an output is NaN or infinite.
    """
    for meaning, value in outputs.items():
        if not np.isfinite(value).all():
            raise BuildError(f"{recipe.name}: output {meaning!r} is NaN or infinite")
    count = len(next(iter(outputs.values())))
    decoder = DECODERS[recipe.head]
    return [
        decoder(
            {meaning: value[i : i + 1] for meaning, value in outputs.items()},
            size=size,
            score_threshold=MIN_SCORE,
            nms_iou=NMS_IOU,
            max_faces=100,
            blend_iou=SAME_FACE,  # as the recogniser does
        )
        for i in range(count)
    ]


def scores_of(outputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """The maps of a detector that say how sure it is."""
    return {meaning: value for meaning, value in outputs.items() if not meaning.startswith(POSITIONS)}


def compare_detectors(reference: list[Found], engine: list[Found]) -> DetectorReport:
    """Match the faces of both, picture by picture, best score first.

    Raises:
        BuildError: the reference found no face at all: these pictures cannot measure a detector.
    """
    faces = sum(len(boxes) for boxes, _, _ in reference)
    if not faces:
        raise BuildError(f"no face in any of {len(reference)} verification frames; give frames with people")
    errors: list[float] = []
    overlaps: list[float] = []
    extra = 0
    for (boxes, _, points), (other_boxes, _, other_points) in zip(reference, engine, strict=True):
        free = np.ones(len(other_boxes), bool)
        overlap = _overlap(boxes, other_boxes)
        for row in range(len(boxes)):
            candidates = np.where(free, overlap[row], 0.0)
            best = int(candidates.argmax()) if len(candidates) else 0
            if not len(candidates) or candidates[best] < SAME_BOX:
                continue
            free[best] = False
            width = max(float(boxes[row, 2] - boxes[row, 0]), 1e-6)
            distance = np.linalg.norm(points[row] - other_points[best], axis=1).mean()
            errors.append(float(distance) / width)
            overlaps.append(float(candidates[best]))
        extra += int(free.sum())
    mean = float(np.mean(overlaps)) if overlaps else 0.0
    return DetectorReport(len(reference), faces, len(errors), extra, errors, mean)


def _overlap(a: FloatArray, b: FloatArray) -> FloatArray:
    """(N, M) intersection over union of xyxy boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area_a = (a[:, 2:] - a[:, :2]).prod(axis=1)
    area_b = (b[:, 2:] - b[:, :2]).prod(axis=1)
    return np.asarray(shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-9), np.float32)
