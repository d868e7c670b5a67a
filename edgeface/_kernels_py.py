"""The numpy reference of every native kernel: the specification, and what EDGEFACE_KERNELS=python runs.

The signatures are those of `edgeface.kernels`, which documents them and checks the arguments of both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface._kernels_py_pixels import align, letterbox, similarity_transform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = [
    "align",
    "contrast",
    "decode_scrfd",
    "decode_yunet",
    "exposure",
    "l2_normalize",
    "letterbox",
    "quantize_templates",
    "scan_float32",
    "scan_int8",
    "sharpness",
    "similarity_transform",
]

INT32_MIN = -(2**31)


def _grid(size: tuple[int, int], stride: int, anchors: int) -> tuple[Array, Array]:
    """Column and row of each anchor, row by row, `anchors` in a row for each cell."""
    rows, columns = -(-size[0] // stride), -(-size[1] // stride)
    y, x = np.divmod(np.arange(rows * columns).repeat(anchors), columns)
    return x.astype(np.float32), y.astype(np.float32)


def _finite(*arrays: Array) -> Array:
    finite: Array = np.logical_and.reduce([np.isfinite(a).all(axis=tuple(range(1, a.ndim))) for a in arrays])
    return finite


def _select(
    boxes: Array, scores: Array, landmarks: Array, threshold: float, nms_iou: float, top_k: int, max_faces: int | None,
    blend_iou: float | None,
) -> tuple[Array, Array, Array]:
    """Hard non-maximum suppression, best score first; equal scores keep the order of the anchors.

    With `blend_iou` a face's points are the mean over all cells whose boxes overlap its own so much.
    """
    usable = _finite(boxes, landmarks)
    boxes, scores, landmarks = boxes[usable], scores[usable], landmarks[usable]
    order = np.argsort(-scores, kind="stable")[:top_k]
    boxes, scores, landmarks = boxes[order], scores[order], landmarks[order]
    limit = len(scores) if max_faces is None else max_faces
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], np.float32(0))
    areas = sides[:, 0] * sides[:, 1]
    alive = np.ones(len(scores), bool)
    kept: list[int] = []
    points = landmarks.copy()
    weights = np.maximum(scores - np.float32(threshold), np.float32(1e-6)).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # boxes as large as float32 allows
        for i in range(len(scores)):
            if len(kept) >= limit:
                break
            if not alive[i]:
                continue
            kept.append(i)
            shared = np.minimum(boxes[i, 2:], boxes[:, 2:]) - np.maximum(boxes[i, :2], boxes[:, :2])
            shared = np.maximum(shared, np.float32(0))
            common = shared[:, 0] * shared[:, 1]
            union = (areas[i] + areas) - common
            alive[i:] &= ~(common > np.float32(nms_iou) * union)[i:]
            if blend_iou is not None and (cells := common >= np.float32(blend_iou) * union).any():
                sums = (weights[cells, None, None] * landmarks[cells]).cumsum(axis=0)[-1]  # added in order of rank
                points[i] = sums / weights[cells].cumsum()[-1]
    return boxes[kept], scores[kept], points[kept]


def _maps(outputs: Mapping[str, Array], names: Sequence[str], stride: int) -> list[Array]:
    return [outputs[f"{name}_{stride}"].reshape(-1, outputs[f"{name}_{stride}"].shape[-1]) for name in names]


def decode_yunet(
    outputs: Mapping[str, Array],
    *,
    size: tuple[int, int],
    strides: Sequence[int] = (8, 16, 32),
    score_threshold: float,
    nms_iou: float,
    top_k: int = 5000,
    max_faces: int | None = None,
    blend_iou: float | None = None,
) -> tuple[Array, Array, Array]:
    found: list[tuple[Array, Array, Array]] = []
    for stride in strides:
        cls, obj, box, kps = _maps(outputs, ("cls", "obj", "bbox", "kps"), stride)
        usable = _finite(cls, obj)
        with np.errstate(invalid="ignore"):
            product = np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1)
            scores = np.sqrt(product.astype(np.float32))
            chosen = np.flatnonzero(usable & (scores >= np.float32(score_threshold)))
        x, y = (axis[chosen] for axis in _grid(size, stride, 1))
        box, kps, step = box[chosen], kps[chosen].reshape(-1, 5, 2), np.float32(stride)
        with np.errstate(over="ignore", invalid="ignore"):
            cx, cy = (x + box[:, 0]) * step, (y + box[:, 1]) * step
            # exp in float64: its last bit differs between libraries, the rounded float32 in practice does not
            half = np.exp(box[:, 2:].astype(np.float64)).astype(np.float32) * step * np.float32(0.5)
            boxes = np.stack([cx - half[:, 0], cy - half[:, 1], cx + half[:, 0], cy + half[:, 1]], axis=1)
            landmarks = (kps + np.stack([x, y], axis=1)[:, None]) * step
        found.append((boxes, scores[chosen], landmarks))
    boxes, scores, landmarks = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _select(boxes, scores, landmarks, score_threshold, nms_iou, top_k, max_faces, blend_iou)


def decode_scrfd(
    outputs: Mapping[str, Array],
    *,
    size: tuple[int, int],
    strides: Sequence[int] = (8, 16, 32),
    score_threshold: float,
    nms_iou: float,
    top_k: int = 5000,
    max_faces: int | None = None,
    blend_iou: float | None = None,
    anchors: int = 2,
) -> tuple[Array, Array, Array]:
    found: list[tuple[Array, Array, Array]] = []
    for stride in strides:
        score, box, kps = _maps(outputs, ("score", "bbox", "kps"), stride)
        scores = score[:, 0]
        with np.errstate(invalid="ignore"):
            chosen = np.flatnonzero(np.isfinite(scores) & (scores >= np.float32(score_threshold)))
        step = np.float32(stride)
        centre = np.stack([axis[chosen] for axis in _grid(size, stride, anchors)], axis=1) * step
        with np.errstate(over="ignore", invalid="ignore"):
            boxes = np.concatenate([centre - box[chosen, :2] * step, centre + box[chosen, 2:] * step], axis=1)
            landmarks = centre[:, None] + kps[chosen].reshape(-1, 5, 2) * step
        found.append((boxes, np.minimum(scores[chosen], np.float32(1)), landmarks))
    boxes, scores, landmarks = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _select(boxes, scores, landmarks, score_threshold, nms_iou, top_k, max_faces, blend_iou)


def l2_normalize(x: Array, out: Array | None = None) -> Array:
    out = np.empty_like(x, order="C") if out is None else out
    # Eight partial sums in float64, column j into sum j mod 8, as the vector code adds them.
    wide = np.zeros((x.shape[0], -(-x.shape[1] // 8) * 8))
    with np.errstate(over="ignore", invalid="ignore"):
        wide[:, : x.shape[1]] = x.astype(np.float64) ** 2
        sums = np.zeros((x.shape[0], 8))
        for column in range(0, wide.shape[1], 8):
            sums = sums + wide[:, column : column + 8]
        sums = sums[:, :4] + sums[:, 4:]
        sums = sums[:, :2] + sums[:, 2:]
        norms = np.sqrt(sums[:, 0] + sums[:, 1])
        usable = np.isfinite(norms) & (norms > 0)
        factors = np.where(usable, 1 / np.where(usable, norms, 1.0), 0.0)
        out[...] = np.where(usable[:, None], x.astype(np.float64) * factors[:, None], 0.0).astype(np.float32)
    return out


def quantize_templates(x: Array, *, scale: float = 0.5 / 127, out: Array | None = None) -> Array:
    out = np.empty(x.shape, np.int8) if out is None else out
    with np.errstate(over="ignore"):
        values = np.rint(np.clip(x / np.float32(scale), -127, 127))
    out[...] = np.where(np.isnan(values), np.float32(0), values).astype(np.int8)
    return out


def _best(dots: Array, k: int, mask: Array | None, nothing: float) -> tuple[Array, Array]:
    """The k largest of each row of `dots` (Q, M), equal ones by lower column; never one that equals `nothing`."""
    indices = np.full((len(dots), k), -1, np.int64)
    best = np.full((len(dots), k), nothing, dots.dtype)
    allowed = np.ones(dots.shape[1], bool) if mask is None else mask.astype(bool)
    for query, values in enumerate(dots):
        rows = np.flatnonzero(allowed & (values > nothing))
        order = rows[np.argsort(-values[rows], kind="stable")][:k]
        indices[query, : len(order)] = order
        best[query, : len(order)] = values[order]
    return indices, best


def scan_int8(templates: Array, probes: Array, k: int, *, mask: Array | None = None) -> tuple[Array, Array]:
    dots = probes.astype(np.int64) @ templates.astype(np.int64).T
    indices, best = _best(dots, k, mask, INT32_MIN)
    return indices, best.astype(np.int32)


def scan_float32(
    templates: Array, probes: Array, k: int, *, mask: Array | None = None
) -> tuple[Array, Array]:
    with np.errstate(over="ignore", invalid="ignore"):
        dots = (probes.astype(np.float64) @ templates.astype(np.float64).T).astype(np.float32)
    return _best(dots, k, mask, -np.inf)


def _grey(crops: Array) -> Array:
    """(N, h, w) int64: BT.601 luma in whole grey levels, with OpenCV's 15-bit coefficients."""
    blue, green, red = (crops[..., c].astype(np.int64) for c in range(3))
    return (blue * 3735 + green * 19235 + red * 9798 + 16384) >> 15


def _variance(values: Array) -> Array:
    """(N,) float64: variance of each picture from exact integer sums."""
    count = float(values.shape[1] * values.shape[2])
    mean = values.sum(axis=(1, 2)).astype(np.float64) / count
    variance: Array = np.maximum((values**2).sum(axis=(1, 2)).astype(np.float64) / count - mean * mean, 0.0)
    return variance


def sharpness(crops: Array) -> Array:
    grey = _grey(crops)
    for axis in (1, 2):  # mirrored without repeating the edge (OpenCV's BORDER_REFLECT_101); one pixel repeats itself
        last = grey.shape[axis] - 1
        grey = np.take(grey, [min(1, last), *range(last + 1), max(0, last - 1)], axis=axis)
    centre = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return _variance(around - 4 * centre).astype(np.float32)


def exposure(crops: Array) -> Array:
    grey = _grey(crops)
    sums: Array = grey.sum(axis=(1, 2)).astype(np.float64)
    means: Array = sums / (grey.shape[1] * grey.shape[2]) / 255
    return means.astype(np.float32)


def contrast(crops: Array) -> Array:
    return (np.sqrt(_variance(_grey(crops))) / 255).astype(np.float32)
