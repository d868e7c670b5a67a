"""Embeddings: one unit vector a face, near for the same person and far for different people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np

from edgeface import kernels
from edgeface.errors import ConfigurationError, InferenceError
from edgeface.frames import check_landmarks
from edgeface.numbers import whole
from edgeface.runtime.engine import prepares_frames, run_frame
from edgeface.runtime.frame import Align, HeldFrame

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
        if max_batch is not None:
            max_batch = whole(max_batch, "max_batch", 1)
        self.engine = engine
        limits = [limit for limit in (max_batch, engine.manifest.max_batch) if limit is not None]
        self.max_batch = min(limits) if limits else None
        self._template = np.array(engine.manifest.template, np.float32)

    def __repr__(self) -> str:
        return f"<Embedder {self.model_id}: {self.engine.description}>"

    @property
    def model_id(self) -> str:
        """Names network, weights and precision; only embeddings of the same id can be compared."""
        return self.engine.manifest.model_id

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self.engine.manifest.dimension

    def embed(self, frame: Any, landmarks: Any, *, pixel_format: str = "bgr") -> FloatArray:
        """Embed faces of one frame: aligned straight into the network's input, all in one run where it allows.

        Args:
            frame: (H, W, 3) uint8 BGR, or another array that `pixel_format` describes; or a `HeldFrame`, which knows
                its own format.
            landmarks: (N, 5, 2) or (5, 2), (x, y) pixels of the frame, in the order of `Faces.landmarks`.
            pixel_format: ``bgr``, or as of `Detector.detect`.

        Returns:
            (N, dimension) float32 rows of length 1.

        Raises:
            InputError: not a frame, or not points. InferenceError: the runtime failed, or gave no direction
            (NaN or all zeros). ClosedError: the engine was closed.
        """
        if isinstance(frame, HeldFrame):
            return self.run(self.prepare(frame, landmarks))
        with HeldFrame(frame, pixel_format=pixel_format) as held:
            return self.run(self.prepare(held, landmarks))

    @overload
    def prepare(self, frame: HeldFrame, landmarks: Any, *, pixel_format: str = "bgr") -> FloatArray | Align: ...

    @overload
    def prepare(self, frame: Any, landmarks: Any, *, pixel_format: str = "bgr") -> FloatArray: ...

    def prepare(self, frame: Any, landmarks: Any, *, pixel_format: str = "bgr") -> FloatArray | Align:
        """The network's input for some faces: (N, 3, H, W) float32, aligned and scaled as the manifest says.

        Arguments and InputError as of `embed`.

        Of a `HeldFrame` and an engine that prepares frames itself: the work for that engine, undone as yet.
        """
        size = self.engine.manifest.input_size
        assert size is not None  # held by the manifest's reader
        held = frame if isinstance(frame, HeldFrame) else HeldFrame(frame, pixel_format=pixel_format)
        work = Align(held, check_landmarks(landmarks), self._template, size)
        return work if held is frame and prepares_frames(self.engine) else self._on_cpu(work)

    def _on_cpu(self, work: Align) -> FloatArray:
        tensor = np.empty(work.shape, np.float32)
        work.fill(tensor, self.engine.manifest.preprocessing)
        return tensor

    def _outputs(self, part: FloatArray | Align) -> FloatArray:
        if isinstance(part, Align):
            outputs = run_frame(self.engine, part)
            if outputs is not None:
                return outputs["embedding"]
            part = self._on_cpu(part)
        return self.engine.run(part)["embedding"]

    def run(self, tensor: FloatArray | Align) -> FloatArray:
        """Embeddings of what `prepare` gave: (N, dimension) float32 rows of length 1."""
        count = len(tensor)
        step = self.max_batch or max(count, 1)
        parts = [self._outputs(tensor[i : i + step]) for i in range(0, count, step)]
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
