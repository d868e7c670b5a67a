"""The CUDA kernels' arithmetic, compiled by g++, against the CPU's kernels: every bit of every number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import host_kernels
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface import kernels
from edgeface._kernels_py_pixels import ROW_BITS, affine, camera_coefficients, taps
from edgeface.manifest import ARCFACE_112
from edgeface.runtime import cuda_kernels

if TYPE_CHECKING:
    from collections.abc import Callable

Array = Any
SIDES = st.integers(1, 70)
BLOCK = (32, 8, 1)


def flat(dtype: np.dtype[Any], start: int = 0) -> list[int]:
    """Offsets of a record's members, those of records within it in their place."""
    found: list[int] = []
    for name in dtype.names or ():
        member, offset = dtype.fields[name][:2]  # type: ignore[index]  # it has names, so it has fields
        found += flat(member, start + offset) if member.names else [start + offset]
    return found


@pytest.mark.parametrize(("dtype", "of_align"), [(cuda_kernels.LETTERBOX, False), (cuda_kernels.ALIGN, True)])
def test_python_and_cpp_mean_the_same_struct(dtype: np.dtype[Any], of_align: bool) -> None:
    assert flat(dtype) == host_kernels.layout(of_align)


def test_every_kernel_is_there_with_its_struct() -> None:
    for name, job in cuda_kernels.KERNELS.items():
        assert host_kernels.load().host_kernel(name.encode()) == job.itemsize
    assert host_kernels.load().host_kernel(b"edgeface_letterbox") == 0


@st.composite
def pictures(draw: Callable[..., Any]) -> tuple[Array, str, dict[str, Any]]:
    """A frame, its format, and camera options; rows may lie apart, backwards too."""
    pixel_format = draw(st.sampled_from(["bgr", "nv12"]))
    height, width = draw(SIDES), draw(SIDES)
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    camera: dict[str, Any] = {}
    if pixel_format == "nv12":
        height, width = height + height % 2, width + width % 2
        camera = {"matrix": draw(st.sampled_from(["bt601", "bt709"])), "full_range": draw(st.booleans())}
        whole = random.integers(0, 256, (height * 3 // 2, width + draw(st.integers(0, 9))), np.uint8)
        frame = whole[:, :width]
    else:
        whole = random.integers(0, 256, (height, width + draw(st.integers(0, 9)), 3), np.uint8)
        frame = whole[:, :width]
        if draw(st.booleans()):
            frame = frame[::-1]
    if draw(st.booleans()):
        frame[...] = draw(st.sampled_from([0, 255]))
    return frame, pixel_format, camera


@st.composite
def colours(draw: Callable[..., Any]) -> dict[str, Any]:
    levels = st.tuples(*[st.floats(0, 255, width=32)] * 3)
    spread = st.tuples(*[st.floats(0.015625, 255, width=32)] * 3)
    return {"color": draw(st.sampled_from(["bgr", "rgb"])), "mean": draw(levels), "std": draw(spread)}


def fill(job: Any, frame: Array, size: tuple[int, int], colour: dict[str, Any], camera: dict[str, Any]) -> Array:
    """What both kernels' jobs have in common; gives factor and summand in blue, green, red order."""
    matrix, full_range = camera.get("matrix", "bt601"), camera.get("full_range", False)
    job["picture"] = (frame.ctypes.data, frame.strides[0], *size,
                      (*camera_coefficients(matrix, full_range), 0 if full_range else 16))  # fmt: skip
    turned = -1 if colour["color"] == "rgb" else 1
    factor, summand = (values[::turned] for values in affine(colour["mean"], colour["std"], None))
    job["channels"] = (factor, summand, int(turned == -1))
    return factor, summand


@settings(max_examples=300, deadline=None)
@given(pictures(), colours(), st.data())
def test_letterbox_is_the_cpus(picture: tuple[Array, str, dict[str, Any]], colour: dict[str, Any], data: Any) -> None:
    frame, pixel_format, camera = picture
    size = kernels.frame_size(frame, pixel_format=pixel_format)
    resized: tuple[int, int] = data.draw(st.tuples(SIDES, SIDES))
    top, left, below, right = (data.draw(st.integers(0, 5)) for _ in range(4))
    canvas = (resized[0] + top + below, resized[1] + left + right)
    pad = data.draw(st.sampled_from([0.0, 114.0]))
    wanted, got = np.full((2, 3, *canvas), np.nan, np.float32)
    kernels.letterbox(
        frame, wanted, resized=resized, offset=(top, left), pixel_format=pixel_format, pad=pad, **colour, **camera
    )
    job: Any = np.zeros((), cuda_kernels.LETTERBOX)
    factor, summand = fill(job, frame, size, colour, camera)
    job["pad"] = np.float32(pad) * factor + summand
    job["channels"]["factor"] = factor * np.float32(2.0 ** -(14 + ROW_BITS))
    held: list[Array] = []
    for axis, name in enumerate("yx"):
        first, weights = taps(size[axis], resized[axis])
        held += [first.astype(np.int32), weights.astype(np.int16)]
        job[f"first_{name}"], job[f"weights_{name}"] = held[-2].ctypes.data, held[-1].ctypes.data
        job[f"taps_{name}"] = weights.shape[1]
    job["out"], job["height"], job["width"] = got.ctypes.data, canvas[0], canvas[1]
    job["top"], job["left"], job["rows"], job["columns"] = top, left, resized[0], resized[1]
    grid = (-(-canvas[1] // 32), -(-canvas[0] // 8), 1)
    host_kernels.launch(f"edgeface_letterbox_{pixel_format}", job.tobytes(), grid, BLOCK)
    np.testing.assert_array_equal(got, wanted)


@settings(max_examples=300, deadline=None)
@given(pictures(), colours(), st.data())
def test_align_is_the_cpus(picture: tuple[Array, str, dict[str, Any]], colour: dict[str, Any], data: Any) -> None:
    """Faces inside, half outside and far outside the frame, tiny and huge, all points in one place too."""
    frame, pixel_format, camera = picture
    size = kernels.frame_size(frame, pixel_format=pixel_format)
    faces, crop = data.draw(st.integers(1, 3)), data.draw(st.tuples(SIDES, SIDES))
    template = np.array(ARCFACE_112, np.float32) * np.float32(crop[1] / 112)
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    scale = data.draw(st.sampled_from([0.0, 1e-3, 0.3, 1.0, 3.0, 1e4]))
    shift = data.draw(st.sampled_from([0.0, -60.0, 60.0, 1e6]))
    landmarks = (template * scale + random.normal(0, 3 * min(scale, 1), (faces, 5, 2)) + shift).astype(np.float32)
    wanted, got = np.full((2, faces, 3, *crop), np.nan, np.float32)
    kernels.align(frame, landmarks, template, wanted, pixel_format=pixel_format, **colour, **camera)
    matrices = kernels.similarity_transform(landmarks, template)
    positions = np.full((faces, 2 * sum(crop)), np.nan, np.float32)
    job: Any = np.zeros((), cuda_kernels.ALIGN)
    fill(job, frame, size, colour, camera)
    job["out"], job["matrices"], job["positions"] = (a.ctypes.data for a in (got, matrices, positions))
    job["height"], job["width"] = crop
    host_kernels.launch("edgeface_align_positions", job.tobytes(), (1, 1, faces), (32, 1, 1))
    grid = (-(-crop[1] // 32), -(-crop[0] // 8), faces)
    host_kernels.launch(f"edgeface_align_{pixel_format}", job.tobytes(), grid, BLOCK)
    np.testing.assert_array_equal(got, wanted)
