"""The kernels around the networks: pictures to tensors, detector maps to faces, templates, scans, crop quality.

Each has a native and a numpy implementation of the same meaning. The native one is used; the environment variable
``EDGEFACE_KERNELS=python`` picks the reference instead. Arguments are checked here, for both. The native side works
without the GIL and keeps its working rows in memory of the thread, which grows to the largest size seen and is then
used again: after the first call of a size nothing is allocated beyond the arrays that are returned.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import _kernels_check as check
from edgeface.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    FloatArray = npt.NDArray[np.float32]

#: "native" or "python": which implementation this process uses.
IMPLEMENTATION = os.environ.get("EDGEFACE_KERNELS") or "native"
if IMPLEMENTATION not in ("native", "python"):
    raise ConfigurationError(f"EDGEFACE_KERNELS: expected native or python, got {IMPLEMENTATION!r}")
try:
    _side: Any = importlib.import_module(f"edgeface.{'_native' if IMPLEMENTATION == 'native' else '_kernels_py'}")
except ModuleNotFoundError as error:
    raise ConfigurationError(
        f"{error}: this is edgeface's source folder ({os.path.dirname(__file__)}), in which nothing was built; "
        "run Python in another folder, or `pip install -e .` here"
    ) from error

#: Scale of an int8 template: components of a unit vector up to 0.5 are kept. The largest seen is 0.435.
TEMPLATE_SCALE = 0.5 / 127


def frame_size(frame: Array, *, pixel_format: str = "bgr", packed: bool = True) -> tuple[int, int]:
    """Height and width in pixels of a frame; InputError when the kernels cannot read it (see `letterbox`).

    Without `packed` the pixels of a row need not lie side by side yet.
    """
    return check.frame_size(frame, pixel_format, packed=packed)


def letterbox(
    frame: Array,
    out: Array,
    *,
    resized: tuple[int, int],
    offset: tuple[int, int] = (0, 0),
    pixel_format: str = "bgr",
    color: str = "bgr",
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    pad: float = 0.0,
    layout: str = "nchw",
    scale: float | None = None,
    matrix: str = "bt601",
    full_range: bool = False,
) -> None:
    """Resize a frame into a network's input, in one pass.

    Args:
        frame: uint8: ``bgr`` or ``rgb`` (H, W, 3), ``bgra`` (H, W, 4; alpha is ignored), ``gray`` (H, W), ``nv12`` or
            ``i420`` (H * 3 / 2, W), ``yuyv`` (H, W, 2). Rows may lie anywhere; the pixels of a row lie side by side.
        out: (3, h, w) or (h, w, 3) by `layout`, float32, float16 or int8, C-contiguous. All of it is written.
        resized: height and width of the picture in `out`.
        offset: top and left of the picture in `out`. Everything else becomes `pad`.
        pixel_format: of the frame.
        color: order of `out`'s channels, ``bgr`` or ``rgb``.
        mean, std: grey levels, in `out`'s channel order: a value is (p - mean) / std.
        pad: grey level around the picture, normalised likewise.
        layout: ``nchw`` or ``nhwc``.
        scale: for int8 only: value / scale is rounded half to even and saturated at -128 and 127.
        matrix: ``bt601`` or ``bt709``, for camera formats.
        full_range: camera formats use 0-255 rather than 16-235 and 16-240.

    Sampling is OpenCV's: half-pixel centres, bilinear; an axis that shrinks by more than two is averaged over the
    covered area. Camera formats become BGR first, as by cvtColor: chroma repeated over the pixels it covers.

    Raises:
        InputError: a shape, dtype, stride or option is not one of these.
    """
    check.frame_size(frame, pixel_format)
    room = check.tensor("out", out, (), layout, scale)
    check.colours(color, mean, std, matrix)
    size, corner = check.place(resized, offset, room)
    if not abs(pad) <= 1e6:
        raise InputError(f"pad: expected a grey level, got {pad!r}")
    _side.letterbox(
        frame, out, resized=size, offset=corner, pixel_format=pixel_format, color=color, mean=mean, std=std,
        pad=pad, layout=layout, scale=scale, matrix=matrix, full_range=full_range,
    )  # fmt: skip


def letterbox_batch(
    frames: Sequence[Array],
    out: Array,
    *,
    resized: Sequence[tuple[int, int]],
    offset: Sequence[tuple[int, int]] | tuple[int, int] = (0, 0),
    **options: Any,
) -> None:
    """`letterbox` of several frames into (N, 3, h, w) or (N, h, w, 3).

    `resized` has one pair a frame, `offset` one pair a frame or one for all; the other options are `letterbox`'s.
    """
    if not isinstance(out, np.ndarray) or out.ndim != 4 or len(out) != len(frames) or len(resized) != len(frames):
        raise InputError(
            f"letterbox_batch: expected an out with one tensor and a resized with one pair for each of "
            f"{len(frames)} frames, got out {getattr(out, 'shape', type(out).__name__)} and {len(resized)} pairs"
        )
    for i, (frame, size) in enumerate(zip(frames, resized, strict=True)):
        corner: Any = offset[i] if len(offset) and not isinstance(offset[0], (int, np.integer)) else offset
        letterbox(frame, out[i], resized=size, offset=corner, **options)


def similarity_transform(landmarks: FloatArray, template: Array) -> npt.NDArray[np.float64]:
    """The rotation, scale and shift that bring each face's points nearest to the template's, in least squares.

    Args:
        landmarks: (N, P, 2) float32, x and y in pixels of the frame.
        template: (P, 2), x and y in pixels of the crop.

    Returns:
        (N, 2, 3) float64, frame to crop. Points that all coincide have no scale: the matrix then maps everything to
        the template's centre, and `align` gives a black crop.

    Raises:
        InputError: wrong shapes or dtypes, NaN or infinity.

    Source: S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    IEEE TPAMI 13(4), 1991, in its closed form for the plane, without reflection.
    """
    points, goal = check.points(landmarks, template)
    matrices: npt.NDArray[np.float64] = _side.similarity_transform(points, goal)
    return matrices


def align(
    frame: Array,
    landmarks: FloatArray,
    template: Array,
    out: Array,
    *,
    pixel_format: str = "bgr",
    color: str = "rgb",
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    layout: str = "nchw",
    scale: float | None = None,
    crops: npt.NDArray[np.uint8] | None = None,
    matrix: str = "bt601",
    full_range: bool = False,
) -> None:
    """Cut each face out of the frame, upright and scaled, straight into an embedder's input.

    Args:
        frame: as for `letterbox`.
        landmarks: (N, P, 2) float32, x and y in pixels of the frame.
        template: (P, 2), where those points belong in the crop.
        out: (N, 3, h, w) or (N, h, w, 3) by `layout`, float32, float16 or int8, C-contiguous.
        pixel_format, color, mean, std, layout, scale, matrix, full_range: as for `letterbox`.
        crops: (N, h, w, 3) uint8, when the pictures are wanted too: filled in BGR order.

    Bilinear at positions rounded to 1/128 pixel; black outside the frame (OpenCV's BORDER_CONSTANT).

    Raises:
        InputError: a shape, dtype, stride or option is not one of these, NaN or infinity in the points.
    """
    check.frame_size(frame, pixel_format)
    points, goal = check.points(landmarks, template)
    room = check.tensor("out", out, (len(points),), layout, scale)
    check.colours(color, mean, std, matrix)
    if crops is not None:
        check.array("crops", crops, (np.uint8,), (len(points), *room, 3), write=True)
    _side.align(
        frame, points, goal, out, pixel_format=pixel_format, color=color, mean=mean, std=std, layout=layout,
        scale=scale, crops=crops, matrix=matrix, full_range=full_range,
    )  # fmt: skip


def decode_yunet(
    outputs: Mapping[str, FloatArray],
    *,
    size: tuple[int, int],
    strides: Sequence[int] = (8, 16, 32),
    score_threshold: float,
    nms_iou: float,
    top_k: int = 5000,
    max_faces: int | None = None,
    blend_iou: float | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Faces from YuNet's maps of one picture.

    Args:
        outputs: for each stride s: ``cls_s`` and ``obj_s`` (A, 1), ``bbox_s`` (A, 4), ``kps_s`` (A, 10), float32, with
            or without a leading axis of 1; A is the number of cells of the map, row by row.
        size: height and width of the network's input.
        strides: pixels from cell to cell of each map.
        score_threshold: least score of a face, 0 to 1.
        nms_iou: of two boxes that overlap by more, the lower score goes.
        top_k: candidates kept before that, best scores first.
        max_faces: most faces returned; None for all.
        blend_iou: points are the mean over all candidates whose boxes overlap the face's by at least this, weighted by
            score less threshold; None: the best candidate's alone, as OpenCV has them.

    Returns:
        boxes (K, 4) xyxy, scores (K,), landmarks (K, 5, 2), float32, in pixels of the network's input, best first;
        equal scores in the order of the maps. A cell with NaN or infinity in any of its numbers gives no face.

    Source: OpenCV's FaceDetectorYN (score = sqrt(cls * obj), sides = exp(bbox) * stride), with float boxes in the
    suppression where OpenCV rounds them to whole pixels.
    """
    names = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    limits = (score_threshold, nms_iou, top_k, max_faces, blend_iou)
    network = check.detections(outputs, names, size, strides, 1, limits)
    found: tuple[FloatArray, FloatArray, FloatArray] = _side.decode_yunet(
        outputs, size=network, strides=strides, score_threshold=score_threshold, nms_iou=nms_iou, top_k=top_k,
        max_faces=max_faces, blend_iou=blend_iou,
    )  # fmt: skip
    return found


def decode_scrfd(
    outputs: Mapping[str, FloatArray],
    *,
    size: tuple[int, int],
    strides: Sequence[int] = (8, 16, 32),
    score_threshold: float,
    nms_iou: float,
    top_k: int = 5000,
    max_faces: int | None = None,
    blend_iou: float | None = None,
    anchors: int = 2,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Faces from the maps of an SCRFD head: scores after the sigmoid, boxes as distances from the cell.

    As `decode_yunet`, with ``score_s`` (A, 1), ``bbox_s`` (A, 4: left, top, right, bottom distances in strides) and
    ``kps_s`` (A, 10: offsets in strides) for each stride s, and `anchors` rows in a row for each cell.
    A score above 1 counts as 1.

    Source: J. Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", 2021; cell corners,
    not centres, as insightface exports these models.
    """
    if anchors < 1:
        raise InputError(f"anchors: expected at least 1, got {anchors}")
    names = {"score": 1, "bbox": 4, "kps": 10}
    limits = (score_threshold, nms_iou, top_k, max_faces, blend_iou)
    network = check.detections(outputs, names, size, strides, anchors, limits)
    found: tuple[FloatArray, FloatArray, FloatArray] = _side.decode_scrfd(
        outputs, size=network, strides=strides, score_threshold=score_threshold, nms_iou=nms_iou, top_k=top_k,
        max_faces=max_faces, blend_iou=blend_iou, anchors=anchors,
    )  # fmt: skip
    return found


def l2_normalize(x: FloatArray, out: FloatArray | None = None) -> FloatArray:
    """Rows of x (N, D) float32 scaled to length 1, into `out` (may be x) or a new array.

    A row of zeros, or with NaN or infinity, has no direction and becomes zeros; callers that must not accept such a
    row check before.
    """
    check.array("x", x, (np.float32,), (None, None))
    if out is not None:
        check.array("out", out, (np.float32,), x.shape, write=True)
    normal: FloatArray = _side.l2_normalize(x, out)
    return normal


def quantize_templates(
    x: FloatArray, *, scale: float = TEMPLATE_SCALE, out: npt.NDArray[np.int8] | None = None
) -> npt.NDArray[np.int8]:
    """int8 templates (N, D) of unit vectors (N, D) float32: x / scale, rounded half to even, saturated at +-127.

    NaN becomes 0. A cosine is the templates' dot product times scale**2, up to the rounding.
    """
    check.array("x", x, (np.float32,), (None, None))
    if out is not None:
        check.array("out", out, (np.int8,), x.shape, write=True)
    if not 1e-30 < scale < 1e30:
        raise InputError(f"scale: expected a positive number, got {scale!r}")
    quantised: npt.NDArray[np.int8] = _side.quantize_templates(x, scale=scale, out=out)
    return quantised


def scan_int8(
    templates: npt.NDArray[np.int8], probes: npt.NDArray[np.int8], k: int, *, mask: Array | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The k rows of templates (M, D) int8 with the largest dot product, for each of probes (Q, D) int8.

    Args:
        mask: (M,) bool or uint8; rows where it is 0 are passed over.

    Returns:
        rows (Q, k) int64 and dot products (Q, k) int32, largest first, equal ones by lower row, exact on every
        machine. Where fewer than k rows are allowed: row -1, dot product -2**31.
    """
    allowed = check.scan(templates, probes, k, mask, np.int8)
    found: tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]] = _side.scan_int8(templates, probes, k, mask=allowed)
    return found


def scan_float32(
    templates: FloatArray, probes: FloatArray, k: int, *, mask: Array | None = None
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """`scan_int8` for float32. Where fewer than k rows are allowed: row -1, dot product minus infinity.

    A row whose dot product is NaN or minus infinity is never found.
    """
    allowed = check.scan(templates, probes, k, mask, np.float32)
    found: tuple[npt.NDArray[np.int64], FloatArray] = _side.scan_float32(templates, probes, k, mask=allowed)
    return found


def sharpness(crops: npt.NDArray[np.uint8]) -> FloatArray:
    """(N,) float32: variance of the Laplacian of crops (N, h, w, 3) uint8 BGR, in grey levels squared.

    The 3x3 Laplacian (4-neighbour) of the BT.601 grey picture, mirrored at the edges: `cv2.Laplacian(grey, ...).var()`.
    Source: J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    values: FloatArray = _side.sharpness(check.pictures(crops))
    return values


def exposure(crops: npt.NDArray[np.uint8]) -> FloatArray:
    """(N,) float32: mean of the BT.601 grey picture of crops (N, h, w, 3) uint8 BGR, 0 black to 1 white."""
    values: FloatArray = _side.exposure(check.pictures(crops))
    return values


def contrast(crops: npt.NDArray[np.uint8]) -> FloatArray:
    """(N,) float32: standard deviation of the BT.601 grey picture of crops (N, h, w, 3) uint8 BGR, 0 to 0.5."""
    values: FloatArray = _side.contrast(check.pictures(crops))
    return values
