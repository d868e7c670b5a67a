"""Live or spoof: runs a customer's presentation attack detection (PAD) model on the faces of a frame.

No model comes with edgeface, and nothing is claimed of one. A single colour picture is weak evidence: measure your
model on your own attacks, with your own camera, with `edgeface eval liveness` (ISO/IEC 30107-3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import kernels
from edgeface.errors import ConfigurationError, InferenceError, InputError
from edgeface.runtime.frame import HeldFrame
from edgeface.types import Liveness

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeface.pad import LivenessSpec
    from edgeface.runtime.engine import Engine
    from edgeface.types import ByteArray, FloatArray

TOLERANCE = 0.01  # by which float16 probabilities may miss 0, 1 and their sum


class LivenessDetector:
    """Scores faces from 0 (spoof) to 1 (live). Safe to call from several threads; closing it leaves the engine open.

    Args:
        engine: of a manifest with kind ``liveness``.

    Attributes:
        spec: how the model is fed and read, from its manifest.

    Raises:
        ConfigurationError: the engine is not a liveness model.
    """

    def __init__(self, engine: Engine) -> None:
        manifest = engine.manifest
        if manifest.kind != "liveness" or manifest.liveness is None or manifest.input_size is None:
            raise ConfigurationError(f"{manifest.name}: expected a liveness model, got kind {manifest.kind!r}")
        self.engine = engine
        self.spec: LivenessSpec = manifest.liveness
        self._size = manifest.input_size

    def scores(self, frame: Any, boxes: Any, *, pixel_format: str = "bgr") -> FloatArray:
        """The probability that each face is live, as the model gives it: not a calibrated one.

        Args:
            frame: (H, W, 3) uint8 BGR, or another array that `pixel_format` describes.
            boxes: (N, 4) or (4,), left, top, right, bottom in pixels of the frame, as in `Faces.boxes`.
            pixel_format: ``bgr``, or a camera's own such as ``nv12``, as `edgeface.kernels.letterbox` takes them.

        Returns:
            (N,) float32, 0 to 1.

        Raises:
            InputError: not a frame, or not boxes. InferenceError: the runtime failed, or the network gave other numbers
            than its manifest says. ClosedError: the engine was closed.
        """
        return self.run(self.prepare(frame, boxes, pixel_format=pixel_format))

    def prepare(self, frame: Any, boxes: Any, *, pixel_format: str = "bgr") -> FloatArray:
        """The network's input for some faces: (N, 3, H, W) float32, cut out and scaled as the manifest says."""
        held = HeldFrame(frame, pixel_format=pixel_format)
        places = crop_places(boxes, held.size, self.spec)
        given = self.engine.manifest.preprocessing
        tensor = np.empty((len(places), 3, *self._size), np.float32)
        for row, place in enumerate(places):
            kernels.letterbox(
                cut(held.image, place, pixel_format), tensor[row], resized=self._size, pixel_format=pixel_format,
                color=given.color, mean=given.mean, std=given.std,
            )  # fmt: skip
        return tensor

    def run(self, tensor: FloatArray) -> FloatArray:
        """Scores of what `prepare` gave: (N,) float32, 0 to 1."""
        manifest = self.engine.manifest
        step = manifest.max_batch or max(len(tensor), 1)
        parts = [np.empty(0, np.float32)]
        for start in range(0, len(tensor), step):
            batch = tensor[start : start + step]
            parts.append(read_scores(self.engine.run(batch)["scores"], len(batch), self.spec, manifest.name))
        return np.concatenate(parts)

    def decide(self, score: float) -> Liveness:
        """``live``, ``spoof`` or ``unsure`` for a score, or for the mean of several."""
        if score >= self.spec.live_from:
            return Liveness.LIVE
        return Liveness.SPOOF if score < self.spec.spoof_below else Liveness.UNSURE


def proven(detector: LivenessDetector) -> LivenessDetector:
    """The detector after one run on grey. Raises InferenceError for outputs against the manifest."""
    detector.scores(np.full((64, 64, 3), 128, np.uint8), (16, 16, 48, 48))
    return detector


def crop_places(boxes: Any, size: tuple[int, int], spec: LivenessSpec) -> npt.NDArray[np.int64]:
    """Where the model's crops lie: around the centres of the boxes, wholly inside the frame, at even pixels.

    A crop that does not fit into the frame is shrunk at its own aspect ratio until it does, and one that reaches over
    an edge is shifted inside. A box without area counts as one pixel: heads that give distances may make one. Even
    numbers, because a chroma sample of NV12 covers two by two pixels: every pixel format gives the same crop.

    Args:
        boxes: as of `LivenessDetector.scores`.
        size: (height, width) of the frame in pixels.

    Returns:
        (N, 4) int64: top, left, bottom, right; the last two are exclusive.

    Raises:
        InputError: not boxes, or a frame of one pixel's height or width.
    """
    try:
        with np.errstate(over="ignore"):  # becomes infinity, and is refused below
            given = np.asarray(boxes, np.float32).astype(np.float64)
    except (TypeError, ValueError):
        raise InputError(f"boxes: expected an (N, 4) array, got {type(boxes).__name__}") from None
    given = given[np.newaxis] if given.shape == (4,) else given
    if given.ndim != 2 or given.shape[1] != 4:
        raise InputError(f"boxes: expected shape (N, 4) or (4,), got {given.shape}")
    corner, end = given[:, 1::-1], given[:, :1:-1]  # y, x: as sizes and places of arrays are
    if not np.isfinite(given).all():
        raise InputError("boxes: expected finite pixels, got NaN or infinity")
    room = np.array(size, np.int64) // 2 * 2
    if not room.all():
        raise InputError(f"frame: expected sides of 2 px at least, got {size}")
    sides = np.maximum(end - corner, 1.0)
    if spec.crop == "square":
        sides = np.repeat(sides.max(axis=1, keepdims=True), 2, axis=1)
    sides = sides * spec.scale
    sides = sides * np.minimum(1.0, (room / sides).min(axis=1, keepdims=True))
    lengths = np.clip(np.rint(sides / 2).astype(np.int64) * 2, 2, room)
    # (0, 0) is the centre of the first pixel: a crop of n pixels from f on has its centre at f + n / 2 - 0.5.
    first = np.rint(((corner + end) / 2 - lengths / 2 + 0.5) / 2) * 2
    first = np.clip(first, 0, room - lengths).astype(np.int64)
    return np.concatenate([first, first + lengths], axis=1)


def cut(frame: ByteArray, place: npt.NDArray[np.int64], pixel_format: str) -> ByteArray:
    """A part of a frame in the frame's own pixel format; a view of it where its pixels lie in one plane."""
    top, left, bottom, right = (int(value) for value in place)
    if pixel_format not in ("nv12", "i420"):
        return frame[top:bottom, left:right]
    height = len(frame) * 2 // 3
    if pixel_format == "nv12":
        chroma = frame[height + top // 2 : height + bottom // 2, left:right]
    else:
        planes = frame[height:].reshape(2, height // 2, -1)
        chroma = planes[:, top // 2 : bottom // 2, left // 2 : right // 2].reshape(-1, right - left)
    return np.concatenate([frame[top:bottom, left:right], chroma])


def read_scores(raw: Any, count: int, spec: LivenessSpec, name: str) -> FloatArray:
    """(count,) probabilities of the live class from what the network gave. Raises InferenceError."""
    columns = spec.columns
    if raw.shape != (count, columns) and not (columns == 1 and raw.shape == (count,)):
        raise InferenceError(
            f"{name}: expected scores of shape {(count, columns)}, the network gave {raw.shape}; correct meaning and "
            "classes in the recipe"
        )
    values = np.asarray(raw, np.float64).reshape(count, columns)
    if not np.isfinite(values).all():
        raise InferenceError(f"{name}: the network gave NaN or infinity")
    if spec.meaning == "logits":
        values = np.exp(values - values.max(axis=1, keepdims=True))
        values /= values.sum(axis=1, keepdims=True)
    elif spec.meaning == "logit":
        values = 0.5 * (1 + np.tanh(values / 2))  # the sigmoid, without overflow
    elif _no_probabilities(values):
        raise InferenceError(
            f"{name}: the manifest says {spec.meaning}, but the network gave {values[0].tolist()}; if these are "
            "logits, say so in the recipe"
        )
    at = spec.classes.index(spec.live)
    live = values[:, at] if columns > 1 else values[:, 0] if at == 1 else 1 - values[:, 0]
    return np.clip(live, 0, 1).astype(np.float32)


def _no_probabilities(values: npt.NDArray[np.float64]) -> bool:
    outside = ((values < -TOLERANCE) | (values > 1 + TOLERANCE)).any()
    return bool(outside or (values.shape[1] > 1 and (np.abs(values.sum(axis=1) - 1) > TOLERANCE).any()))
