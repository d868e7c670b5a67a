"""Native kernels against the numpy reference, in every bit, on sizes, strides and options that hypothesis thinks of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface import _kernels_py, _native, kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Array = npt.NDArray[Any]

TEMPLATE = np.array([(38.3, 51.7), (73.5, 51.5), (56.0, 71.7), (41.5, 92.4), (70.7, 92.2)])
CHANNELS = {"bgr": 3, "rgb": 3, "bgra": 4, "gray": 0, "nv12": 0, "i420": 0, "yuyv": 2}
# Sides that vector loops leave rests of: one pixel, primes, just around multiples of 8 and 16.
SIDES = st.one_of(st.integers(1, 40), st.sampled_from([47, 48, 49, 61, 64, 65, 97, 113]))

each_simd = pytest.mark.parametrize("simd", _native.simd_available())


@pytest.fixture(autouse=True)
def _leave_simd_as_it_was() -> Iterator[None]:
    before = _native.simd()
    yield
    _native.use_simd(before)


def on(side: Any, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """`call` with one implementation behind it."""
    before, kernels._side = kernels._side, side
    try:
        return call(*arguments, **options)
    finally:
        kernels._side = before


def both(simd: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, Any]:
    """What the reference and the native side return."""
    _native.use_simd(simd)
    return on(_kernels_py, call, *arguments, **options), on(_native, call, *arguments, **options)


@st.composite
def frames(draw: st.DrawFn) -> tuple[Array, str]:
    """A frame of any format: any size, row stride, direction of rows; sometimes read-only."""
    pixel_format = draw(st.sampled_from(sorted(CHANNELS)))
    height, width = draw(SIDES), draw(SIDES)
    if pixel_format in ("nv12", "i420"):
        height = (height + height % 2) * 3 // 2
    if pixel_format in ("nv12", "i420", "yuyv"):
        width += width % 2
    channels = CHANNELS[pixel_format]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    row = width * max(channels, 1)
    memory = rng.integers(0, 256, (height, row + draw(st.integers(0, 5))), np.uint8)
    if draw(st.booleans()):
        memory = memory // 255 * 255  # only black and white: the extremes of every sum
    frame = memory[:, :row]
    if channels:
        frame = np.lib.stride_tricks.as_strided(
            frame, (height, width, channels), (memory.strides[0], channels, 1), writeable=False
        )
    if draw(st.booleans()):
        frame = frame[::-1]
    frame.flags.writeable = False
    return frame, pixel_format


@st.composite
def targets(draw: st.DrawFn) -> tuple[tuple[int, int], dict[str, Any], type[np.generic]]:
    """Size of a tensor, options that letterbox and align share, its dtype."""
    numbers = st.floats(0, 255, width=32)
    dtype: Any = draw(st.sampled_from([np.float32, np.float16, np.int8]))
    options: dict[str, Any] = {
        "color": draw(st.sampled_from(["bgr", "rgb"])),
        "mean": (draw(numbers), draw(numbers), draw(numbers)),
        "std": tuple(draw(st.floats(0.01, 300)) for _ in range(3)),
        "layout": draw(st.sampled_from(["nchw", "nhwc"])),
        "scale": draw(st.floats(1e-3, 3)) if dtype is np.int8 else None,
        "matrix": draw(st.sampled_from(["bt601", "bt709"])),
        "full_range": draw(st.booleans()),
    }
    return (draw(SIDES), draw(SIDES)), options, dtype


def tensor(size: tuple[int, int], layout: str, dtype: type[np.generic], *lead: int) -> Array:
    """Filled with a pattern, so that whatever is left unwritten shows."""
    shape = (3, *size) if layout == "nchw" else (*size, 3)
    return np.full((*lead, *shape), 77, dtype)


@each_simd
@settings(max_examples=80, deadline=None)
@given(data=st.data(), source=frames(), target=targets())
def test_letterbox_is_the_reference(
    simd: str, data: st.DataObject, source: tuple[Array, str], target: tuple[tuple[int, int], dict[str, Any], Any]
) -> None:
    (frame, pixel_format), (size, options, dtype) = source, target
    resized = (data.draw(st.integers(1, size[0])), data.draw(st.integers(1, size[1])))
    offset = (data.draw(st.integers(0, size[0] - resized[0])), data.draw(st.integers(0, size[1] - resized[1])))
    outs = []
    for side in (_kernels_py, _native):
        _native.use_simd(simd)
        out = tensor(size, options["layout"], dtype)
        on(side, kernels.letterbox, frame, out, resized=resized, offset=offset, pad=114, pixel_format=pixel_format,
           **options)  # fmt: skip
        outs.append(out)
    np.testing.assert_array_equal(outs[1], outs[0])


@each_simd
@settings(max_examples=80, deadline=None)
@given(source=frames(), target=targets(), seed=st.integers(0, 2**32), size=st.floats(-3, 4), crops=st.booleans())
def test_align_is_the_reference(
    simd: str,
    source: tuple[Array, str],
    target: tuple[tuple[int, int], dict[str, Any], Any],
    seed: int,
    size: float,
    crops: bool,
) -> None:
    (frame, pixel_format), (room, options, dtype) = source, target
    rng = np.random.default_rng(seed)
    faces = int(rng.integers(0, 4))
    shift = rng.uniform(-60, 120, (faces, 1, 2))
    points = ((TEMPLATE / 112 + rng.normal(0, 0.1, (faces, 5, 2))) * 10.0**size + shift).astype(np.float32)
    found = []
    for side in (_kernels_py, _native):
        _native.use_simd(simd)
        out = tensor(room, options["layout"], dtype, faces)
        pictures = np.full((faces, *room, 3), 7, np.uint8) if crops else None
        on(side, kernels.align, frame, points, TEMPLATE / 112 * room[0], out, crops=pictures, pixel_format=pixel_format,
           **options)  # fmt: skip
        found.append((out, pictures))
    np.testing.assert_array_equal(found[1][0], found[0][0])
    if crops:
        np.testing.assert_array_equal(found[1][1], found[0][1])


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.floats(-20, 20), points=st.integers(2, 8), same=st.booleans())
def test_similarity_transform_is_the_reference(seed: int, size: float, points: int, same: bool) -> None:
    rng = np.random.default_rng(seed)
    landmarks = (rng.normal(0, 1, (3, points, 2)) * 10.0**size).astype(np.float32)
    if same:
        landmarks[1] = landmarks[1, 0]
    goal = rng.uniform(0, 112, (points, 2))
    ours, theirs = both(_native.simd(), kernels.similarity_transform, landmarks, goal)
    np.testing.assert_array_equal(theirs, ours)
    assert np.isfinite(ours).all()


@st.composite
def maps(draw: st.DrawFn, anchors: int) -> tuple[dict[str, Array], tuple[int, int]]:
    """A detector's maps: random, with ties, with NaN, infinity and exponents beyond float32 strewn in."""
    size = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spoilt = draw(st.sampled_from([0.0, 0.02, 0.5]))
    coarse = draw(st.booleans())
    scores = [("cls", 1), ("obj", 1)] if anchors == 1 else [("score", 1)]
    outputs = {}
    for stride in (8, 16, 32):
        count = -(-size[0] // stride) * -(-size[1] // stride) * anchors
        for name, columns in (*scores, ("bbox", 4), ("kps", 10)):
            values = rng.uniform(-0.1, 1.2, (count, columns)).astype(np.float32)
            if columns == 1 and coarse:
                values = np.rint(values * 8) / np.float32(8)
            if columns > 1:
                values *= np.float32(3)
            bad = rng.random(values.shape) < spoilt
            values[bad] = rng.choice([np.nan, np.inf, -np.inf, 90, -90, 3e38], int(bad.sum()))
            outputs[f"{name}_{stride}"] = values[None] if draw(st.booleans()) else values
    return outputs, size


@each_simd
@pytest.mark.parametrize("anchors", [1, 2])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_decode_is_the_reference_and_finite(simd: str, anchors: int, data: st.DataObject) -> None:
    outputs, size = data.draw(maps(anchors))
    options: dict[str, Any] = {
        "size": size,
        "score_threshold": data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])),
        "nms_iou": data.draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])),
        "top_k": data.draw(st.sampled_from([1, 7, 5000])),
        "max_faces": data.draw(st.sampled_from([None, 0, 1, 20])),
        "blend_iou": data.draw(st.sampled_from([None, 0.0, 0.6, 1.0])),
    }
    decode = kernels.decode_yunet if anchors == 1 else kernels.decode_scrfd
    ours, theirs = both(simd, decode, outputs, **options)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(b, a)
        assert np.isfinite(b).all()
    assert (np.diff(theirs[1]) <= 0).all()


@each_simd
@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(0, 600), columns=st.one_of(st.integers(1, 140), st.sampled_from([512])), queries=st.integers(0, 4),
    k=st.integers(1, 12), seed=st.integers(0, 2**32), kind=st.sampled_from(["any", "ties", "extreme"]),
    masked=st.sampled_from([None, "some", "none", "uint8"]),
)  # fmt: skip
def test_scan_int8_is_exact(
    simd: str, rows: int, columns: int, queries: int, k: int, seed: int, kind: str, masked: str | None
) -> None:
    rng = np.random.default_rng(seed)
    low, high = {"any": (-128, 128), "ties": (-1, 2), "extreme": (-128, -127)}[kind]
    templates = rng.integers(low, high, (rows, columns)).astype(np.int8)
    probes = rng.integers(low, high, (queries, columns)).astype(np.int8)
    mask: Array | None = None
    if masked is not None:
        mask = np.zeros(rows, bool) if masked == "none" else rng.random(rows) < 0.3
        mask = mask.astype(np.uint8) * 5 if masked == "uint8" else mask
    (rows_a, dots_a), (rows_b, dots_b) = both(simd, kernels.scan_int8, templates, probes, k, mask=mask)
    np.testing.assert_array_equal(rows_b, rows_a)
    np.testing.assert_array_equal(dots_b, dots_a)
    assert rows_b.dtype == np.int64
    assert dots_b.dtype == np.int32


@each_simd
@settings(max_examples=60, deadline=None)
@given(rows=st.integers(0, 300), columns=st.integers(1, 140), k=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_scan_float32_finds_the_best(simd: str, rows: int, columns: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = kernels.l2_normalize(rng.standard_normal((rows, columns)).astype(np.float32))
    x[rng.random(x.shape) < 0.01] = np.nan
    probes = kernels.l2_normalize(rng.standard_normal((2, columns)).astype(np.float32))
    (_, dots_a), (rows_b, dots_b) = both(simd, kernels.scan_float32, x, probes, k)
    np.testing.assert_allclose(dots_b, dots_a, atol=1e-6)  # near-equal rows may change places
    for probe in range(2):
        listed = rows_b[probe][rows_b[probe] >= 0]
        assert len(set(listed)) == len(listed) == min(k, int((~np.isnan(x).any(axis=1)).sum()))
        dots = x[listed].astype(np.float64) @ probes[probe]
        np.testing.assert_allclose(dots, dots_b[probe][: len(listed)], atol=1e-6)


@each_simd
@settings(max_examples=60, deadline=None)
@given(rows=st.integers(0, 9), columns=st.integers(0, 200), seed=st.integers(0, 2**32), size=st.floats(-30, 37))
def test_templates_are_the_reference(simd: str, rows: int, columns: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        x = (rng.standard_normal((rows, columns)) * 10.0**size).astype(np.float32)
    x[rng.random(x.shape) < 0.01] = rng.choice([np.nan, np.inf, 0.0])
    unit, native_unit = both(simd, kernels.l2_normalize, x)
    np.testing.assert_array_equal(native_unit, unit)
    for scale in (0.5 / 127, 0.003):
        for values in (unit, x):
            int8, native_int8 = both(simd, kernels.quantize_templates, values, scale=scale)
            np.testing.assert_array_equal(native_int8, int8)


@each_simd
@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 3), height=SIDES, width=SIDES, seed=st.integers(0, 2**32), harsh=st.booleans())
def test_quality_is_the_reference(simd: str, count: int, height: int, width: int, seed: int, harsh: bool) -> None:
    crops = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)
    if harsh:
        crops = crops // 128 * 255
    for measure in (kernels.sharpness, kernels.exposure, kernels.contrast):
        ours, theirs = both(simd, measure, crops)
        np.testing.assert_array_equal(theirs, ours)
        assert theirs.dtype == np.float32
