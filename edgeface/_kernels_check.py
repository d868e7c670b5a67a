"""What `edgeface.kernels` checks before either implementation sees an argument."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: Channels of each pixel format; 0 where the frame has two axes.
PIXEL_FORMATS = {"bgr": 3, "rgb": 3, "bgra": 4, "gray": 0, "nv12": 0, "i420": 0, "yuyv": 2}
#: Positions inside the kernels are 32-bit fixed-point numbers: 15 bits of pixel.
MAX_SIDE_PX = 32767
#: A dot product of int8 vectors of this length cannot overflow 32 bits.
MAX_DIMENSIONS = 65536


def choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")


def array(
    name: str, value: object, dtypes: Sequence[type[np.generic]], shape: tuple[int | None, ...], *, write: bool = False
) -> Array:
    """A C-contiguous array of one of `dtypes` and of `shape`, where None stands for any length."""
    if not isinstance(value, np.ndarray):
        raise InputError(f"{name}: expected a numpy array, got {type(value).__name__}; use numpy.asarray")
    if value.dtype.type not in dtypes or not value.dtype.isnative:
        wanted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise InputError(f"{name}: expected dtype {wanted}, got {value.dtype}")
    got = value.shape
    if got != shape and (len(got) != len(shape) or any(w not in (None, g) for w, g in zip(shape, got, strict=True))):
        wanted_shape = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        raise InputError(f"{name}: expected shape {wanted_shape}, got {got}")
    if not value.flags.c_contiguous:
        raise InputError(
            f"{name}: expected a C-contiguous array, got strides {value.strides}; use numpy.ascontiguousarray"
        )
    if write and not value.flags.writeable:
        raise InputError(f"{name}: expected a writable array, got a read-only one; pass a copy")
    return value


def frame_size(frame: object, pixel_format: str, *, packed: bool = True) -> tuple[int, int]:
    """Height and width in pixels of a frame that the kernels accept; InputError otherwise.

    Without `packed` its pixels may lie anywhere in memory: the caller brings them together.
    """
    if pixel_format not in PIXEL_FORMATS:
        choice("pixel_format", pixel_format, tuple(PIXEL_FORMATS))
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        got = frame.dtype if isinstance(frame, np.ndarray) else type(frame).__name__
        raise InputError(f"frame: expected a numpy array of uint8, got {got}")
    channels = PIXEL_FORMATS[pixel_format]
    if frame.ndim != (3 if channels else 2) or (channels and frame.shape[2] != channels):
        wanted = f"(H, W, {channels})" if channels else "(H, W)" if pixel_format == "gray" else "(H * 3 / 2, W)"
        raise InputError(f"frame: expected shape {wanted} for {pixel_format}, got {frame.shape}")
    height, width = int(frame.shape[0]), int(frame.shape[1])
    if pixel_format in ("nv12", "i420"):
        if height % 3 or width % 2:
            raise InputError(
                f"frame: expected (H * 3 / 2, W) with H and W even for {pixel_format}, got {frame.shape}"
            )
        height = height // 3 * 2
    elif pixel_format == "yuyv" and width % 2:
        raise InputError(f"frame: expected an even width for yuyv, got {frame.shape}")
    if not (0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX):
        raise InputError(f"frame: expected sides of 1 to {MAX_SIDE_PX} pixels, got {frame.shape}")
    together = (width == 1 or frame.strides[1] == max(channels, 1)) and (not channels or frame.strides[2] == 1)
    if packed and not together:
        raise InputError(
            f"frame: expected the pixels of a row side by side in memory, got strides {frame.strides}; "
            "use numpy.ascontiguousarray (for a reversed channel axis: pixel_format='rgb')"
        )
    return height, width


def tensor(name: str, out: object, lead: tuple[int | None, ...], layout: str, scale: float | None) -> tuple[int, int]:
    """Height and width of a network input that the pixel kernels write; `lead` are the axes before it."""
    choice("layout", layout, ("nchw", "nhwc"))
    axes: tuple[int | None, ...] = (3, None, None) if layout == "nchw" else (None, None, 3)
    checked = array(name, out, (np.float32, np.float16, np.int8), (*lead, *axes), write=True)
    height, width = checked.shape[-2:] if layout == "nchw" else checked.shape[-3:-1]
    if not (0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX):
        raise InputError(f"{name}: expected sides of 1 to {MAX_SIDE_PX} pixels, got {checked.shape}")
    if checked.dtype == np.int8:
        if scale is None or not (math.isfinite(scale) and scale > 0):
            raise InputError(f"scale: expected a positive number for an int8 {name}, got {scale!r}")
    elif scale is not None:
        raise InputError(f"scale: expected None for {checked.dtype} (it quantises to int8), got {scale!r}")
    return int(height), int(width)


def colours(color: str, mean: Sequence[float], std: Sequence[float], matrix: str) -> None:
    choice("color", color, ("bgr", "rgb"))
    choice("matrix", matrix, ("bt601", "bt709"))
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not all(map(math.isfinite, values)):
            raise InputError(f"{name}: expected three finite grey levels, got {values!r}")
    if min(std) < 1e-6 or max(std) > 1e6:
        raise InputError(f"std: expected three numbers from 1e-6 to 1e6, got {std!r}")


def pair(name: str, value: Sequence[int], least: int) -> tuple[int, int]:
    if len(value) != 2 or not all(isinstance(v, (int, np.integer)) and v >= least for v in value):
        raise InputError(f"{name}: expected two whole numbers of at least {least}, got {value!r}")
    return int(value[0]), int(value[1])


def place(
    resized: Sequence[int], offset: Sequence[int], room: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The picture's size and place as plain integers, once it is known to lie inside `room`."""
    size, corner = pair("resized", resized, 1), pair("offset", offset, 0)
    if size[0] + corner[0] > room[0] or size[1] + corner[1] > room[1]:
        raise InputError(f"resized {size} at offset {corner}: expected to lie inside out's {room}; make it smaller")
    return size, corner


def points(landmarks: object, template: object) -> tuple[Array, Array]:
    """Landmarks (N, P, 2) float32 and their template (P, 2) as float64, all finite."""
    found = array("landmarks", landmarks, (np.float32,), (None, None, 2))
    if found.shape[1] < 2:
        raise InputError(f"landmarks: expected at least two points a face, got shape {found.shape}")
    goal = np.ascontiguousarray(template, dtype=np.float64)
    array("template", goal, (np.float64,), (found.shape[1], 2))
    for name, value in (("landmarks", found), ("template", goal)):
        if np.count_nonzero(np.isfinite(value)) < value.size:  # twice as fast as .all() on a few numbers
            raise InputError(f"{name}: expected finite numbers, got NaN or infinity")
    return found, goal


def detections(
    outputs: Mapping[str, Array],
    names: Mapping[str, int],
    size: Sequence[int],
    strides: Sequence[int],
    anchors: int,
    limits: tuple[float, float, int, int | None, float | None],
) -> tuple[int, int]:
    """A detector's raw maps and options; `names` gives the numbers per anchor of each map. Returns the size."""
    score_threshold, nms_iou, top_k, max_faces, blend_iou = limits
    height, width = pair("size", size, 1)
    for name, value in (("score_threshold", score_threshold), ("nms_iou", nms_iou), ("blend_iou", blend_iou)):
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"{name}: expected 0 to 1, got {value!r}")
    if top_k < 1 or (max_faces is not None and max_faces < 0):
        raise InputError(f"top_k, max_faces: expected at least 1 and 0, got {top_k} and {max_faces}")
    if not 1 <= len(strides) <= 16 or any(stride < 1 for stride in strides):
        raise InputError(f"strides: expected 1 to 16 positive numbers, got {strides!r}")
    for stride in strides:
        count = -(-height // stride) * -(-width // stride) * anchors
        for name, columns in names.items():
            key = f"{name}_{stride}"
            if key not in outputs:
                raise InputError(f"outputs: expected a map {key}, got {', '.join(outputs)}")
            given = outputs[key]
            lead = (1,) if getattr(given, "ndim", 0) == 3 else ()
            array(f"outputs[{key!r}] for a {height} x {width} input", given, (np.float32,), (*lead, count, columns))
    return height, width


def scan(templates: object, probes: object, k: int, mask: object, dtype: type[np.generic]) -> Array | None:
    """Arguments of a scan; returns the mask as uint8."""
    rows = array("templates", templates, (dtype,), (None, None))
    array("probes", probes, (dtype,), (None, rows.shape[1]))
    if rows.shape[1] > MAX_DIMENSIONS:
        raise InputError(f"templates: expected at most {MAX_DIMENSIONS} columns, got {rows.shape}")
    if not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"k: expected a whole number of at least 1, got {k!r}")
    if mask is None:
        return None
    return array("mask", mask, (np.bool_, np.uint8), (rows.shape[0],)).view(np.uint8)


def pictures(crops: object) -> Array:
    """(N, h, w, 3) uint8 with at least one pixel each."""
    checked = array("crops", crops, (np.uint8,), (None, None, None, 3))
    if min(checked.shape[1:3]) < 1:
        raise InputError(f"crops: expected at least one pixel, got shape {checked.shape}")
    return checked
