"""Embeddings: one unit vector a face, near for the same person and far for different people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import kernels
from edgeface.errors import ConfigurationError, InferenceError, InputError
from edgeface.frames import check_frame, check_landmarks

if TYPE_CHECKING:
    from edgeface.runtime.engine import Engine
    from edgeface.types import FloatArray


class Embedder:
    """Makes embeddings of the faces of a frame. Safe to call from several threads.

    Args:
        engine: of a manifest with kind ``embedder``.
        max_batch: faces of one run of the network; None is all of a frame, or the engine's own limit.

    Raises:
        InputError: `max_batch` is less than 1.
        ConfigurationError: the engine is not an embedder.
    """

    def __init__(self, engine: Engine, *, max_batch: int | None = None) -> None:
        if engine.manifest.kind != "embedder":
            raise ConfigurationError(
                f"{engine.manifest.name}: expected an embedder, got kind {engine.manifest.kind!r}"
            )
        if max_batch is not None and (not isinstance(max_batch, int) or max_batch < 1):
            raise InputError(f"max_batch: expected a whole number of at least 1, got {max_batch!r}")
        self.engine = engine
        limits = [limit for limit in (max_batch, engine.manifest.max_batch) if limit is not None]
        self.max_batch = min(limits) if limits else None
        self._template = np.array(engine.manifest.template, np.float32)

    @property
    def model_id(self) -> str:
        """Names network, weights and precision; only embeddings of the same id can be compared."""
        return self.engine.manifest.model_id

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self.engine.manifest.dimension

    def embed(self, frame: Any, landmarks: Any) -> FloatArray:
        """Embed faces of one frame: aligned straight into the network's input, all in one run where it allows.

        Args:
            frame: (H, W, 3) uint8 BGR.
            landmarks: (N, 5, 2) or (5, 2), (x, y) pixels of the frame, in the order of `Faces.landmarks`.

        Returns:
            (N, dimension) float32 rows of length 1.

        Raises:
            InputError: not a frame, or not points. InferenceError: the runtime failed, or gave no direction
            (NaN or all zeros). ClosedError: the engine was closed.
        """
        return self.run(self.prepare(frame, landmarks))

    def prepare(self, frame: Any, landmarks: Any) -> FloatArray:
        """The network's input for some faces: (N, 3, H, W) float32, aligned and scaled as the manifest says."""
        manifest = self.engine.manifest
        assert manifest.input_size is not None  # held by the manifest's reader
        points = check_landmarks(landmarks)
        tensor = np.empty((len(points), 3, *manifest.input_size), np.float32)
        given = manifest.preprocessing
        kernels.align(
            check_frame(frame), points, self._template, tensor, color=given.color, mean=given.mean, std=given.std
        )
        return tensor

    def run(self, tensor: FloatArray) -> FloatArray:
        """Embeddings of what `prepare` gave: (N, dimension) float32 rows of length 1."""
        count = len(tensor)
        step = self.max_batch or max(count, 1)
        parts = [self.engine.run(tensor[i : i + step])["embedding"] for i in range(0, count, step)]
        if not parts:
            return np.empty((0, self.dimension), np.float32)
        raw = np.concatenate(parts) if len(parts) > 1 else parts[0]
        if raw.shape != (count, self.dimension):
            raise InferenceError(
                f"{self.model_id}: expected embeddings of shape {(count, self.dimension)}, the network gave {raw.shape}"
            )
        unit: FloatArray = kernels.l2_normalize(np.ascontiguousarray(raw, np.float32))
        if not np.all(np.abs(np.einsum("nd,nd->n", unit, unit) - 1) < 1e-3):
            raise InferenceError(f"{self.model_id}: the network gave an embedding without direction (NaN or zeros)")
        return unit
