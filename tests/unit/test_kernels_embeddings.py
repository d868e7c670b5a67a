"""What the alignment's differences from OpenCV's mean in the end: embeddings of the same faces through either path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from edgeface import kernels
from edgeface.manifest import ARCFACE_112

if TYPE_CHECKING:
    from edgeface import FaceRecognizer
    from edgeface.types import ByteArray

TEMPLATE = np.array(ARCFACE_112, np.float64)


def test_embeddings_of_either_alignment_agree(recognizer: FaceRecognizer, photos: dict[str, ByteArray]) -> None:
    for name, photo in photos.items():
        for size_px in (250, 640, max(photo.shape[:2])):  # the same face from small to large
            scale = size_px / max(photo.shape[:2])
            frame = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
            faces = recognizer.detector.detect(frame)
            ours = recognizer.embedder.prepare(frame, faces.landmarks)
            matrices = kernels.similarity_transform(faces.landmarks, TEMPLATE)
            crops = [cv2.warpAffine(frame, matrix, (112, 112)) for matrix in matrices]
            settings = recognizer.embedder.engine.manifest.preprocessing
            assert len(set(settings.std)) == 1
            theirs = cv2.dnn.blobFromImages(
                crops, 1 / settings.std[0], (112, 112), settings.mean, swapRB=settings.color == "rgb"
            )
            a = recognizer.embedder.run(ours)
            b = recognizer.embedder.run(np.asarray(theirs, np.float32))
            assert (np.sum(a * b, axis=1) >= 0.9995).all(), f"{name} at {size_px} px: {np.sum(a * b, axis=1)}"
