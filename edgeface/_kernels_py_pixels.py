"""The numpy reference of the pixel kernels: letterbox and align. It is their specification.

Everything up to the last affine step is integer arithmetic, so that every machine gives the same bits. Weights
are 14-bit fractions: 255 * 2**14 * 2**7 stays below 2**31, and a weight fits the signed 16-bit multiply-add that
both x86 (pmaddwd) and aarch64 (smlal) have. After the rows are combined, 7 bits of fraction are kept, which fits
a signed 16-bit number; after the columns, all 21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[Any]

ONE = 1 << 14  # a weight of 1
ROW_BITS = 7  # fraction bits kept after the rows are combined
POSITION_BITS = 7  # align samples at multiples of 1/128 pixel; OpenCV's table has 1/32
# Luma coefficients Kr, Kb of ITU-R BT.601-7 and BT.709-6.
LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}


def taps(source: int, target: int) -> tuple[Array, Array]:
    """First source index (target,) and weights (target, n) of each target pixel along one axis.

    Half-pixel centres. Bilinear up to a shrinkage of two, exact box area beyond. The weights of a pixel sum to 2**14.
    """
    x = np.arange(target, dtype=np.int64)
    if source > 2 * target:
        first = x * source // target
        count = int((((x + 1) * source + target - 1) // target - first).max())
        # Overlaps in units of 1/target source pixels, rounded cumulatively: so they add up to exactly 2**14.
        edges = (first[:, None] + np.arange(count + 1)) * target
        covered = np.clip(edges - (x * source)[:, None], 0, source)
        weights = np.diff((covered * ONE + source // 2) // source, axis=1)
        return first, weights
    numerator = (2 * x + 1) * source - target
    first, rest = np.divmod(numerator, 2 * target)
    second_weight = (rest * ONE + target) // (2 * target)
    second_weight[(first < 0) | (first >= source - 1)] = 0  # the picture's edge repeats outwards
    first = np.clip(first, 0, source - 1)
    return first, np.stack([ONE - second_weight, second_weight], axis=1)


def camera_coefficients(matrix: str, full_range: bool) -> tuple[int, int, int, int, int]:
    """Of luma (14-bit fraction), then V in red, U in green, V in green, U in blue (13-bit fractions)."""
    kr, kb = LUMA[matrix]
    kg = 1 - kr - kb
    luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    red, blue = 2 * (1 - kr) * chroma, 2 * (1 - kb) * chroma
    factors = (2 * luma, red, -blue * kb / kg, -red * kr / kg, blue)
    return tuple(int(np.floor(factor * 8192 + 0.5)) for factor in factors)  # type: ignore[return-value]  # of five


def _camera_to_bgr(y: Array, u: Array, v: Array, matrix: str, full_range: bool) -> Array:
    """(..., 3) uint8 of int64 samples, in the 16-bit arithmetic of pmulhrsw and sqrdmulh, with 6 bits of fraction."""

    def times(sample: Array, factor: int) -> Array:
        return (sample * factor + (1 << 14)) >> 15

    to_y, v_to_red, u_to_green, v_to_green, u_to_blue = camera_coefficients(matrix, full_range)
    luma = times(np.maximum(y - (0 if full_range else 16), 0) << 7, to_y)
    u, v = (u - 128) << 8, (v - 128) << 8
    red, blue = luma + times(v, v_to_red), luma + times(u, u_to_blue)
    green = luma + (times(u, u_to_green) + times(v, v_to_green))
    bgr: Array = np.clip((np.stack([blue, green, red], axis=-1) + 32) >> 6, 0, 255).astype(np.uint8)
    return bgr


def to_bgr(frame: Array, pixel_format: str, matrix: str = "bt601", full_range: bool = False) -> Array:
    """(H, W, 3) uint8 BGR; each chroma sample counts for all pixels it covers, as in OpenCV's cvtColor."""
    if pixel_format in ("bgr", "bgra"):
        return frame[..., :3]
    if pixel_format == "rgb":
        return frame[..., ::-1]
    if pixel_format == "gray":
        return np.repeat(frame[..., None], 3, axis=2)
    wide = frame.astype(np.int64)
    if pixel_format == "yuyv":
        chroma = np.repeat(wide[..., 1].reshape(len(frame), -1, 2), 2, axis=1)
        return _camera_to_bgr(wide[..., 0], chroma[..., 0], chroma[..., 1], matrix, full_range)
    height, width = frame.shape[0] * 2 // 3, frame.shape[1]
    if pixel_format == "nv12":
        half = wide[height:].reshape(height // 2, width // 2, 2)
    else:
        half = wide[height:].reshape(2, height // 2, width // 2).transpose(1, 2, 0)
    chroma = half.repeat(2, axis=0).repeat(2, axis=1)
    return _camera_to_bgr(wide[:height], chroma[..., 0], chroma[..., 1], matrix, full_range)


def affine(mean: Sequence[float], std: Sequence[float], scale: float | None) -> tuple[Array, Array]:
    """Factor and summand of each output channel: (p - mean) / std, and / scale for int8, as p * a + b."""
    spread = np.asarray(std, np.float64) * (1.0 if scale is None else scale)
    return (1 / spread).astype(np.float32), (-np.asarray(mean, np.float64) / spread).astype(np.float32)


def _to_dtype(values: Array, dtype: np.dtype[Any]) -> Array:
    if dtype == np.int8:
        whole: Array = np.rint(np.clip(values, -128, 127)).astype(np.int8)
        return whole
    with np.errstate(over="ignore"):  # beyond float16's range is infinity, as the hardware does it
        return values.astype(dtype)


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
    source = to_bgr(frame, pixel_format, matrix, full_range)
    first_y, weights_y = taps(source.shape[0], resized[0])
    first_x, weights_x = taps(source.shape[1], resized[1])
    rows = np.zeros((resized[0], *source.shape[1:]), np.int64)
    for tap in range(weights_y.shape[1]):
        index = np.minimum(first_y + tap, source.shape[0] - 1)  # a tap past the end has weight 0
        rows += weights_y[:, tap, None, None] * source[index]
    rows = (rows + (1 << 13 - ROW_BITS)) >> (14 - ROW_BITS)
    sums = np.zeros((*resized, 3), np.int64)
    for tap in range(weights_x.shape[1]):
        index = np.minimum(first_x + tap, source.shape[1] - 1)
        sums += weights_x[:, tap, None] * rows[:, index]
    picture = sums.astype(np.float32) * np.float32(2.0 ** -(14 + ROW_BITS))
    if color == "rgb":
        picture = picture[..., ::-1]
    a, b = affine(mean, std, scale)
    hwc = out.transpose(1, 2, 0) if layout == "nchw" else out
    hwc[...] = _to_dtype(np.float32(pad) * a + b, out.dtype)
    top, left = offset
    hwc[top : top + resized[0], left : left + resized[1]] = _to_dtype(picture * a + b, out.dtype)


def similarity_transform(landmarks: Array, template: Array) -> Array:
    # In the plane Umeyama's closed form is one complex division: the rotation and scale a + ib that minimise
    # sum |(a + ib) p - q|**2 over centred points p, q. The sums run point by point, so that both sides agree exactly.
    points = landmarks.astype(np.float64)
    goal = template.astype(np.float64)
    count = points.shape[1]
    mean_p, mean_q = np.zeros((len(points), 2)), np.zeros(2)
    for i in range(count):
        mean_p = mean_p + points[:, i]
        mean_q = mean_q + goal[i]
    mean_p, mean_q = mean_p / count, mean_q / count
    along, across, spread = np.zeros(len(points)), np.zeros(len(points)), np.zeros(len(points))
    for i in range(count):
        px, py = points[:, i, 0] - mean_p[:, 0], points[:, i, 1] - mean_p[:, 1]
        qx, qy = goal[i] - mean_q
        along = along + (px * qx + py * qy)
        across = across + (px * qy - py * qx)
        spread = spread + (px * px + py * py)
    usable = spread > 0
    spread = np.where(usable, spread, 1.0)
    a, b = np.where(usable, along / spread, 0.0), np.where(usable, across / spread, 0.0)
    out = np.empty((len(points), 2, 3))
    out[:, 0, 0], out[:, 0, 1], out[:, 0, 2] = a, -b, mean_q[0] - (a * mean_p[:, 0] - b * mean_p[:, 1])
    out[:, 1, 0], out[:, 1, 1], out[:, 1, 2] = b, a, mean_q[1] - (b * mean_p[:, 0] + a * mean_p[:, 1])
    return out


def _positions(matrix: Array, height: int, width: int) -> tuple[Array, Array] | None:
    """Where each pixel of the crop lies in the frame, in 1/128 pixel; None when the matrix has no usable inverse."""
    (a, b, c), (d, e, f) = (map(float, row) for row in matrix)
    determinant = a * e - b * d
    if not abs(determinant) > 1e-12:
        return None
    inverse = [value / determinant for value in (e, -b, b * f - c * e, -d, a, c * d - a * f)]
    if not all(abs(value) < 1e9 for value in inverse):  # keeps every sum below finite
        return None
    unit = float(1 << POSITION_BITS)
    x, y = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    found = []
    for ix, iy, i0 in (inverse[:3], inverse[3:]):
        along_x = (unit * ix * x).astype(np.float32)
        along_y = (unit * (iy * y + i0)).astype(np.float32)
        position = along_x[None, :] + along_y[:, None]
        limit = np.float32(1 << 22)  # 2**15 pixels, one more than a frame can have; exact in float32
        found.append(np.rint(np.clip(position, -limit, limit)).astype(np.int64))
    return found[0], found[1]


def align(
    frame: Array,
    landmarks: Array,
    template: Array,
    out: Array,
    *,
    pixel_format: str = "bgr",
    color: str = "rgb",
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    layout: str = "nchw",
    scale: float | None = None,
    crops: Array | None = None,
    matrix: str = "bt601",
    full_range: bool = False,
) -> None:
    source = to_bgr(frame, pixel_format, matrix, full_range).astype(np.int64)
    height, width = source.shape[:2]
    a, b = affine(mean, std, scale)
    for face, transform in enumerate(similarity_transform(landmarks, template)):
        hwc = out[face].transpose(1, 2, 0) if layout == "nchw" else out[face]
        positions = _positions(transform, *hwc.shape[:2])
        sums = np.zeros(hwc.shape, np.int64)
        if positions is not None:
            px, py = positions
            one = 1 << POSITION_BITS
            x, y, fx, fy = px >> POSITION_BITS, py >> POSITION_BITS, px & (one - 1), py & (one - 1)
            for dx, dy, weight in (
                (0, 0, (one - fx) * (one - fy)),
                (1, 0, fx * (one - fy)),
                (0, 1, (one - fx) * fy),
                (1, 1, fx * fy),
            ):
                inside = (x + dx >= 0) & (x + dx < width) & (y + dy >= 0) & (y + dy < height)
                pixel = source[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]
                sums += weight[..., None] * np.where(inside[..., None], pixel, 0)
        picture = sums.astype(np.float32) * np.float32(2.0**-14)
        if crops is not None:
            crops[face] = np.rint(picture).astype(np.uint8)
        if color == "rgb":
            picture = picture[..., ::-1]
        hwc[...] = _to_dtype(picture * a + b, out.dtype)
