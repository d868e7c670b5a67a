"""The kernels against OpenCV, which made the pictures that the networks were trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from edgeface import kernels

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

TEMPLATE = np.array([(38.3, 51.7), (73.5, 51.5), (56.0, 71.7), (41.5, 92.4), (70.7, 92.2)])


def scene(height: int, width: int, seed: int = 0) -> Array:
    """(H, W, 3) uint8: blurred noise over a gradient, with sharp bars."""
    rng = np.random.default_rng(seed)
    noise: Any = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.float32), (0, 0), 2)
    y, x = np.mgrid[:height, :width]
    noise = (noise - 127) * 3 + 60 + 120 * (x / width)[..., None] * (1, 0.6, 0.3) + 30 * ((y // 9) % 2)[..., None]
    return np.asarray(np.clip(noise, 0, 255), np.uint8)


def letterboxed(frame: Array, resized: tuple[int, int], **options: Any) -> Array:
    out = np.empty((*resized, 3), np.float32)
    kernels.letterbox(frame, out, resized=resized, layout="nhwc", **options)
    return out


@pytest.mark.parametrize(
    ("size", "resized", "filter_"),
    [
        ((1080, 1920), (360, 640), cv2.INTER_AREA),
        ((720, 1280), (213, 379), cv2.INTER_AREA),
        ((501, 333), (90, 61), cv2.INTER_AREA),
        ((480, 640), (360, 480), cv2.INTER_LINEAR),
        ((480, 640), (240, 320), cv2.INTER_LINEAR),
        ((250, 250), (640, 640), cv2.INTER_LINEAR),
        ((97, 61), (97, 61), cv2.INTER_LINEAR),
        ((31, 37), (83, 89), cv2.INTER_LINEAR),
    ],
)
def test_letterbox_is_within_a_grey_level_of_resize(
    size: tuple[int, int], resized: tuple[int, int], filter_: int
) -> None:
    frame = scene(*size)
    theirs = cv2.resize(frame, resized[::-1], interpolation=filter_)
    assert np.abs(letterboxed(frame, resized) - theirs).max() < 1


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_camera_colours_are_those_of_the_standards(matrix: str, full: bool) -> None:
    """Grey stays grey; the primaries of ITU-R BT.601 and BT.709 come back to within rounding."""
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    rng = np.random.default_rng(0)
    rgb = np.concatenate([np.eye(3), 1 - np.eye(3), np.zeros((1, 3)), np.ones((1, 3)), rng.random((200, 3))])
    luma = rgb @ (kr, 1 - kr - kb, kb)
    cb, cr = (rgb[:, 2] - luma) / (2 * (1 - kb)), (rgb[:, 0] - luma) / (2 * (1 - kr))
    spans = (255, 255, 0) if full else (219, 224, 16)
    yuv = np.rint([luma * spans[0] + spans[2], cb * spans[1] + 128, cr * spans[1] + 128]).clip(0, 255).astype(np.uint8)
    frame = np.empty((1, 2 * len(rgb), 2), np.uint8)  # YUYV: two equal pixels of each colour
    frame[0, :, 0] = yuv[0].repeat(2)
    frame[0, 0::2, 1], frame[0, 1::2, 1] = yuv[1], yuv[2]
    out = letterboxed(frame, (1, 2 * len(rgb)), pixel_format="yuyv", matrix=matrix, full_range=full, color="rgb")
    assert np.abs(out[0, ::2] - rgb * 255).max() < 2.5  # a step of Cb is up to 2.1 grey levels of blue


@pytest.mark.parametrize("resized", [(360, 640), (270, 480), (540, 960), (700, 1100)])
@pytest.mark.parametrize("pixel_format", ["nv12", "i420", "yuyv"])
def test_camera_formats_are_within_a_grey_level_of_cvtcolor(pixel_format: str, resized: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    if pixel_format == "yuyv":  # random chroma: many colours that must be clipped
        frame = rng.integers(0, 256, (540, 960, 2), np.uint8)
        bgr = cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_YUY2)
    else:
        frame = rng.integers(0, 256, (810, 960), np.uint8)
        bgr = cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_NV12 if pixel_format == "nv12" else cv2.COLOR_YUV2BGR_I420)
    ours = letterboxed(frame, resized, pixel_format=pixel_format)
    theirs = letterboxed(np.asarray(bgr, np.uint8), resized)
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - theirs).mean() < 0.05


@pytest.mark.parametrize("pixel_format", ["rgb", "bgra", "gray"])
def test_other_formats_are_the_same_picture(pixel_format: str) -> None:
    frame = scene(90, 120)
    code = {"rgb": cv2.COLOR_BGR2RGB, "bgra": cv2.COLOR_BGR2BGRA, "gray": cv2.COLOR_BGR2GRAY}[pixel_format]
    other = np.asarray(cv2.cvtColor(frame, code), np.uint8)
    same = frame if pixel_format != "gray" else np.repeat(other[..., None], 3, axis=2)
    np.testing.assert_array_equal(letterboxed(other, (60, 77), pixel_format=pixel_format), letterboxed(same, (60, 77)))


def test_blob_from_image_gives_the_same_tensor() -> None:
    frame = scene(64, 64)
    blob = cv2.dnn.blobFromImage(frame, 1 / 58, (64, 64), (104, 117, 123), swapRB=True)
    out = np.empty((3, 64, 64), np.float32)
    kernels.letterbox(frame, out, resized=(64, 64), color="rgb", mean=(104, 117, 123), std=(58, 58, 58))
    np.testing.assert_allclose(out, blob[0], atol=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_align_is_warpaffine(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = scene(400, 500, seed)
    angle, size = rng.uniform(-0.8, 0.8), rng.uniform(0.5, 3)
    turn = size * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = rng.uniform((-20, -20), (520, 420))  # some faces reach outside the frame
    points = ((TEMPLATE - 56) @ turn + centre + rng.normal(0, size, (5, 2))).astype(np.float32)[None]
    out, crop = np.empty((1, 3, 112, 112), np.float32), np.empty((1, 112, 112, 3), np.uint8)
    kernels.align(frame, points, TEMPLATE, out, color="bgr", crops=crop)
    matrix = kernels.similarity_transform(points, TEMPLATE)[0]
    exact = _bilinear(frame, matrix)
    theirs = cv2.warpAffine(frame, matrix, (112, 112)).astype(np.float32)
    ours = out[0].transpose(1, 2, 0)
    assert np.abs(ours - exact).max() < 3  # positions are rounded to 1/128 px: at most 1/256 of a step of 255 each way
    assert np.abs(ours - exact).mean() <= np.abs(theirs - exact).mean() + 0.01  # no further off than OpenCV
    if np.linalg.norm(theirs) > 0:
        assert np.vdot(ours, theirs) / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.9995
    np.testing.assert_array_equal(crop[0], np.rint(ours).astype(np.uint8))


def _bilinear(frame: Array, matrix: Array) -> Array:
    """(112, 112, 3) float64: exact bilinear samples, black outside the frame."""
    inverse = np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))
    y, x = np.mgrid[:112, :112]
    at_x, at_y, _ = np.einsum("ij,jhw->ihw", inverse, np.stack([x, y, np.ones_like(x)]))
    padded = np.pad(frame.astype(np.float64), ((500, 500), (500, 500), (0, 0)))
    left, top = np.floor(at_x).astype(int), np.floor(at_y).astype(int)
    fx, fy = (at_x - left)[..., None], (at_y - top)[..., None]

    def pixel(dy: int, dx: int) -> Array:
        rows, columns = np.clip(top + dy + 500, 0, len(padded) - 1), np.clip(left + dx + 500, 0, padded.shape[1] - 1)
        found: Array = padded[rows, columns]
        return found

    upper = pixel(0, 0) * (1 - fx) + pixel(0, 1) * fx
    lower = pixel(1, 0) * (1 - fx) + pixel(1, 1) * fx
    exact: Array = upper * (1 - fy) + lower * fy
    return exact


def test_align_of_a_camera_frame_is_that_of_its_bgr_picture() -> None:
    frame = cv2.cvtColor(scene(300, 400), cv2.COLOR_BGR2YUV_I420)
    bgr = np.asarray(cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_I420), np.uint8)
    points = (np.stack([TEMPLATE, TEMPLATE * 2 + 50, TEMPLATE + np.array((250, 150))])).astype(np.float32)
    ours, theirs = np.empty((2, 3, 3, 112, 112), np.float32)
    kernels.align(np.asarray(frame, np.uint8), points, TEMPLATE, ours, pixel_format="i420")
    kernels.align(bgr, points, TEMPLATE, theirs)
    assert np.abs(ours - theirs).max() <= 1


def test_similarity_transform_is_the_least_squares_solution() -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform(0, 500, (20, 5, 2)).astype(np.float32)
    for p, found in zip(points.astype(np.float64), kernels.similarity_transform(points, TEMPLATE), strict=True):
        system = np.zeros((10, 4))  # unknowns a, b, tx, ty of [[a, -b], [b, a]] p + t
        system[0::2] = np.column_stack([p[:, 0], -p[:, 1], np.ones(5), np.zeros(5)])
        system[1::2] = np.column_stack([p[:, 1], p[:, 0], np.zeros(5), np.ones(5)])
        a, b, tx, ty = np.linalg.lstsq(system, TEMPLATE.reshape(-1), rcond=None)[0]
        np.testing.assert_allclose(found, [[a, -b, tx], [b, a, ty]], atol=1e-8)


def test_quality_measures_are_opencvs() -> None:
    crops = np.stack([scene(112, 112, seed) for seed in range(4)])
    grey = [cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY) for crop in crops]
    np.testing.assert_allclose(kernels.sharpness(crops), [cv2.Laplacian(g, cv2.CV_64F).var() for g in grey], rtol=1e-5)
    np.testing.assert_allclose(kernels.exposure(crops), [g.mean() / 255 for g in grey], rtol=1e-5)
    np.testing.assert_allclose(kernels.contrast(crops), [g.std() / 255 for g in grey], rtol=1e-5)
    blurred = np.stack([cv2.GaussianBlur(crop, (0, 0), 3) for crop in crops]).astype(np.uint8)
    assert (kernels.sharpness(blurred) < kernels.sharpness(crops) / 2).all()
