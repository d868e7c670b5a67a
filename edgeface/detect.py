"""Faces in a frame: letterbox, run the detector, decode, back to pixels of the frame."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import kernels
from edgeface.errors import ConfigurationError, InputError
from edgeface.numbers import real, whole
from edgeface.runtime.engine import run_frame
from edgeface.runtime.frame import GRID, HeldFrame, Letterbox
from edgeface.types import Faces

if TYPE_CHECKING:
    from edgeface.manifest import Manifest
    from edgeface.runtime.engine import Engine
    from edgeface.types import FloatArray

DECODERS = {"yunet": kernels.decode_yunet, "scrfd": kernels.decode_scrfd}
#: What each head's decoder reads, one map for each stride: ``cls_8``, ``cls_16`` and so on.
MAPS = {"yunet": ("cls", "obj", "bbox", "kps"), "scrfd": ("score", "bbox", "kps")}
STRIDES = (8, 16, 32)
#: Candidates whose boxes overlap a face's by so much see the same face, not its neighbour's: of equal boxes, one moved
#: by an eighth of its side along both axes still counts.
SAME_FACE = 0.6
POINTS = ("best", "mean")


class Detector:
    """Finds faces with five points. Safe to call from several threads; closing it leaves the engine open.

    A frame is never enlarged: one whose longer side exceeds `max_side_px` is shrunk to it, and the network runs at
    the frame's own aspect ratio, padded on the right and below to multiples of 32. An engine of fixed input size
    gets every frame letterboxed into that size instead.

    Args:
        engine: of a manifest with kind ``detector``.
        max_side_px: longest side at which the network runs. Time grows with its square; a face should keep
            about 12 px there.
        min_score: faces of lower confidence (0 to 1) are dropped. 0.7 keeps the precision of YuNet's authors'
            demonstration (0.9 there) on blurred and turned faces; lower finds more and errs more.
        max_overlap: of two boxes whose intersection over union is larger, the one of lower score is dropped.
        max_faces: the faces of highest score are kept.
        points: ``mean``, the five points over all candidates of the face, weighted by what their scores have above
            `min_score`; or ``best``, as the candidate of highest score alone places them, as OpenCV does.
            Several cells of the maps see each face; their mean is steadier under noise, from frame to frame and in
            INT8, and templates of faces aligned by it are nearer to one another.

    Raises:
        InputError: an option is out of range.
        ConfigurationError: the engine is not a detector, lacks a map that its head needs, or has a fixed input size
            that is no multiple of 32.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_side_px: int = 640,
        min_score: float = 0.7,
        max_overlap: float = 0.3,
        max_faces: int = 100,
        points: str = "mean",
    ) -> None:
        manifest = engine.manifest
        if manifest.kind != "detector" or manifest.head not in DECODERS:
            raise ConfigurationError(
                f"{manifest.name}: expected a detector with head {' or '.join(DECODERS)}, "
                f"got kind {manifest.kind!r}, head {manifest.head!r}"
            )
        _check_network(manifest)
        max_side_px = whole(max_side_px, "max_side_px", GRID, 8192)
        min_score = real(min_score, "min_score", "a number between 0 and 1", above=0.0, below=1.0)
        max_overlap = real(max_overlap, "max_overlap", "a number between 0 and 1", above=0.0, below=1.0)
        max_faces = whole(max_faces, "max_faces", 1)
        if points not in POINTS:
            raise InputError(f"points: expected {' or '.join(POINTS)}, got {points!r}")
        self.engine = engine
        self._kept = threading.local()
        self.max_side_px = max_side_px // GRID * GRID
        self.min_score = min_score
        self.max_overlap = max_overlap
        self.max_faces = max_faces
        self.points = points

    def __repr__(self) -> str:
        return f"<Detector {self.engine.manifest.model_id}: {self.engine.description}, max_side_px {self.max_side_px}>"

    def detect(self, frame: Any, *, pixel_format: str = "bgr") -> Faces:
        """Find the faces of one frame.

        Args:
            frame: (H, W, 3) uint8 BGR, sides of 32 to 8192 px, or another array that `pixel_format` describes; or a
                `HeldFrame`, which knows its own format.
            pixel_format: ``bgr``, or a camera's own such as ``nv12``, as `edgeface.kernels.letterbox` takes them.

        Returns:
            Faces in pixels of the frame, best score first; none is an empty result.

        Raises:
            InputError: not a frame. InferenceError: the runtime failed. ClosedError: the engine was closed.
        """
        if isinstance(frame, HeldFrame):
            return self._detect(frame)
        with HeldFrame(frame, pixel_format=pixel_format) as held:
            return self._detect(held)

    def _detect(self, frame: HeldFrame) -> Faces:
        manifest = self.engine.manifest
        fixed = manifest.input_size
        work = Letterbox.fit(frame, room=fixed or (self.max_side_px, self.max_side_px), fixed=fixed is not None)
        outputs = run_frame(self.engine, work)
        if outputs is None:
            tensor = self._tensor(work.canvas)
            work.fill(tensor, manifest.preprocessing)
            outputs = self.engine.run(tensor)
        boxes, scores, landmarks = DECODERS[manifest.head](
            outputs,
            size=work.canvas,
            score_threshold=self.min_score,
            nms_iou=self.max_overlap,
            max_faces=self.max_faces,
            # Never below max_overlap: two faces that are both kept must not share candidates.
            blend_iou=max(SAME_FACE, self.max_overlap) if self.points == "mean" else None,
        )
        # Centres of pixels map to centres of pixels: x_frame + 0.5 = (x_network + 0.5) * ratio.
        (height, width), resized = frame.size, work.resized
        ratio = np.array([width / resized[1], height / resized[0]], np.float32)
        shift: FloatArray = (ratio - np.float32(1)) * np.float32(0.5)
        points: FloatArray = landmarks * ratio + shift
        return Faces(boxes * np.tile(ratio, 2) + np.tile(shift, 2), scores, points)

    def _tensor(self, canvas: tuple[int, int]) -> FloatArray:
        """The network's input of one size, made once for each thread: video asks for the same size again and again."""
        tensor: FloatArray | None = getattr(self._kept, "tensor", None)
        if tensor is None or tensor.shape[2:] != canvas:
            tensor = self._kept.tensor = np.empty((1, 3, *canvas), np.float32)
        return tensor


def _check_network(manifest: Manifest) -> None:
    """Refuse at the start what would otherwise fail on the first frame, far from the file that is wrong."""
    needed = [f"{name}_{stride}" for name in MAPS[manifest.head] for stride in STRIDES]
    missing = [name for name in needed if name not in manifest.outputs]
    if missing:
        raise ConfigurationError(
            f"{manifest.name}: the head {manifest.head} needs the outputs {', '.join(needed)}, but the manifest lacks "
            f"{', '.join(missing)} (it has {', '.join(sorted(manifest.outputs)) or 'none'}); name them in the recipe"
        )
    size = manifest.input_size
    if size is not None and any(side < GRID or side % GRID for side in size):
        raise ConfigurationError(
            f"{manifest.name}: expected an input size of multiples of {GRID} px, got {size[0]} x {size[1]} "
            "(height x width); export the network with such a size"
        )
