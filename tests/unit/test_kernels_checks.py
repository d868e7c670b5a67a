"""What the kernels refuse, and what their messages say."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface import _native, kernels
from edgeface.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

FRAME = np.zeros((8, 12, 3), np.uint8)
OUT = np.zeros((3, 6, 6), np.float32)
POINTS = np.array([[(2, 2), (9, 2), (5, 4), (3, 6), (8, 6)]], np.float32)
TEMPLATE = POINTS[0] / 2
SIX, WIDE, FOUR = np.zeros((6, 8), np.int8), np.zeros((1, 65537), np.int8), np.zeros((2, 2), np.float32)
HEAVY = ("cv2", "onnxruntime", "scipy", "onnx")


def read_only(array: Array) -> Array:
    array = array.copy()
    array.flags.writeable = False
    return array


LETTERBOX: list[tuple[str, Any, Any, dict[str, Any]]] = [
    ("frame: .*uint8, got float32", FRAME.astype(np.float32), OUT, {}),
    ("frame: .*uint8, got list", FRAME.tolist(), OUT, {}),
    (r"frame: .*\(H, W, 3\) for bgr, got \(8, 12\)", FRAME[..., 0], OUT, {}),
    (r"frame: .*\(H, W, 4\) for bgra", FRAME, OUT, {"pixel_format": "bgra"}),
    (r"frame: .*\(H, W\) for gray", FRAME, OUT, {"pixel_format": "gray"}),
    ("frame: .*H and W even", np.zeros((9, 5), np.uint8), OUT, {"pixel_format": "nv12"}),
    ("frame: .*H and W even", np.zeros((8, 4), np.uint8), OUT, {"pixel_format": "i420"}),
    ("frame: .*even width", np.zeros((8, 5, 2), np.uint8), OUT, {"pixel_format": "yuyv"}),
    ("frame: .*sides of 1 to 32767", np.zeros((0, 4, 3), np.uint8), OUT, {}),
    ("frame: .*side by side.*ascontiguousarray", FRAME[:, ::2], OUT, {}),
    ("frame: .*pixel_format='rgb'", FRAME[..., ::-1], OUT, {}),
    ("pixel_format: expected one of bgr,.*got 'yuv'", FRAME, OUT, {"pixel_format": "yuv"}),
    (r"out: .*shape \(3, any, any\), got \(6, 6, 3\)", FRAME, np.zeros((6, 6, 3), np.float32), {}),
    (r"out: .*shape \(any, any, 3\)", FRAME, OUT, {"layout": "nhwc"}),
    ("out: expected dtype float32 or float16 or int8, got float64", FRAME, OUT.astype(np.float64), {}),
    ("out: expected dtype .*got >f4", FRAME, OUT.astype(">f4"), {}),
    ("out: .*C-contiguous", FRAME, np.zeros((3, 6, 12), np.float32)[..., ::2], {}),
    ("out: .*writable", FRAME, read_only(OUT), {}),
    ("out: expected a numpy array, got memoryview", FRAME, memoryview(OUT), {}),  # type: ignore[arg-type]  # meant
    ("layout: expected one of nchw, nhwc, got 'chw'", FRAME, OUT, {"layout": "chw"}),
    ("color: expected one of bgr, rgb, got 'gray'", FRAME, OUT, {"color": "gray"}),
    ("matrix: expected one of bt601, bt709", FRAME, OUT, {"matrix": "bt2020"}),
    ("mean: expected three finite", FRAME, OUT, {"mean": (1.0, 2.0)}),
    ("mean: expected three finite", FRAME, OUT, {"mean": (1.0, 2.0, float("nan"))}),
    ("std: expected three numbers", FRAME, OUT, {"std": (1.0, 0.0, 1.0)}),
    ("std: expected three numbers", FRAME, OUT, {"std": (1.0, -3.0, 1.0)}),
    ("scale: expected None for float32", FRAME, OUT, {"scale": 0.1}),
    ("scale: expected a positive number for an int8 out, got None", FRAME, OUT.astype(np.int8), {}),
    ("scale: expected a positive number", FRAME, OUT.astype(np.int8), {"scale": float("nan")}),
    ("pad: ", FRAME, OUT, {"pad": float("nan")}),
    (r"resized \(7, 6\) at offset \(0, 0\): .*\(6, 6\)", FRAME, OUT, {"resized": (7, 6)}),
    ("resized .* at offset", FRAME, OUT, {"offset": (3, 0)}),
    ("resized: expected two whole numbers of at least 1", FRAME, OUT, {"resized": (0, 4)}),
    ("resized: expected two whole numbers", FRAME, OUT, {"resized": (4.0, 4)}),
    ("offset: expected two whole numbers of at least 0", FRAME, OUT, {"offset": (-1, 0)}),
]


@pytest.mark.parametrize(("message", "frame", "out", "options"), LETTERBOX)
def test_letterbox_refuses(message: str, frame: Any, out: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=message):
        kernels.letterbox(frame, out, **{"resized": (4, 6), **options})


ALIGN: list[tuple[str, dict[str, Any]]] = [
    ("landmarks: expected dtype float32, got float64", {"landmarks": POINTS.astype(np.float64)}),
    (r"landmarks: expected shape \(any, any, 2\)", {"landmarks": POINTS[0]}),
    ("landmarks: expected finite", {"landmarks": POINTS * np.float32("nan")}),
    ("landmarks: expected finite", {"landmarks": POINTS * np.float32("inf")}),
    (r"template: expected shape \(5, 2\), got \(4, 2\)", {"template": TEMPLATE[:4]}),
    ("template: expected finite", {"template": TEMPLATE * float("inf")}),
    ("at least two points", {"landmarks": POINTS[:, :1].copy(), "template": TEMPLATE[:1]}),
    (r"out: expected shape \(1, 3, any, any\), got \(2,", {"out": np.zeros((2, 3, 6, 6), np.float32)}),
    (r"crops: expected shape \(1, 6, 6, 3\)", {"crops": np.zeros((1, 3, 6, 6), np.uint8)}),
    ("crops: expected dtype uint8", {"crops": np.zeros((1, 6, 6, 3), np.float32)}),
    ("crops: .*writable", {"crops": read_only(np.zeros((1, 6, 6, 3), np.uint8))}),
]


@pytest.mark.parametrize(("message", "changes"), ALIGN)
def test_align_refuses(message: str, changes: dict[str, Any]) -> None:
    given = {"frame": FRAME, "landmarks": POINTS, "template": TEMPLATE, "out": np.zeros((1, 3, 6, 6), np.float32)}
    with pytest.raises(InputError, match=message):
        kernels.align(**{**given, **changes})


def test_batch_refuses_other_counts_and_takes_offsets_per_frame() -> None:
    out = np.zeros((2, 3, 6, 6), np.float32)
    with pytest.raises(InputError, match="3 frames, got out"):
        kernels.letterbox_batch([FRAME] * 3, out, resized=[(4, 6)] * 3)
    with pytest.raises(InputError, match="1 pairs"):
        kernels.letterbox_batch([FRAME] * 2, out, resized=[(4, 6)])
    white = np.full_like(FRAME, 255)
    kernels.letterbox_batch([FRAME, white], out, resized=[(4, 6), (2, 3)], offset=[(2, 0), (1, 1)], pad=7)
    assert (out[0, :, :2] == 7).all()
    assert (out[0, :, 2:] == 0).all()
    assert (out[1, :, 1:3, 1:4] == 255).all()
    assert (out[1] == 7).sum() == 3 * 30


def yunet(size: int = 32) -> dict[str, Array]:
    outputs = {}
    for stride in (8, 16, 32):
        for name, columns in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            outputs[f"{name}_{stride}"] = np.zeros(((size // stride) ** 2, columns), np.float32)
    return outputs


DECODE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("expected a map kps_16, got", {"kps_16": None}, {}),
    (r"bbox_8.*32 x 32.*expected shape \(16, 4\), got \(15, 4\)", {"bbox_8": np.zeros((15, 4), np.float32)}, {}),
    ("cls_8.*float32, got float64", {"cls_8": np.zeros((16, 1))}, {}),
    (r"cls_8.*shape \(1, 16, 1\), got \(2, 16, 1\)", {"cls_8": np.zeros((2, 16, 1), np.float32)}, {}),
    ("score_threshold: expected 0 to 1, got 1.5", {}, {"score_threshold": 1.5}),
    ("nms_iou: expected 0 to 1, got nan", {}, {"nms_iou": float("nan")}),
    ("blend_iou: expected 0 to 1, got 1.1", {}, {"blend_iou": 1.1}),
    ("top_k", {}, {"top_k": 0}),
    ("max_faces", {}, {"max_faces": -1}),
    ("strides", {}, {"strides": ()}),
    ("size: expected two whole numbers", {}, {"size": (32, 0)}),
]


@pytest.mark.parametrize(("message", "maps", "options"), DECODE)
def test_decode_refuses(message: str, maps: dict[str, Any], options: dict[str, Any]) -> None:
    outputs = {name: value for name, value in {**yunet(), **maps}.items() if value is not None}
    given: dict[str, Any] = {"size": (32, 32), "score_threshold": 0.5, "nms_iou": 0.3, **options}
    with pytest.raises(InputError, match=message):
        kernels.decode_yunet(outputs, **given)


@pytest.mark.parametrize("side", ["_kernels_py", "_native"])
def test_points_are_the_weighted_mean_of_the_cells_that_see_the_face(side: str) -> None:
    decode = importlib.import_module(f"edgeface.{side}").decode_yunet
    outputs = yunet()
    for cell, score, x in ((0, 0.9, 0.0), (1, 0.7, 4.0), (2, 0.8, 100.0)):
        outputs["cls_8"][cell] = outputs["obj_8"][cell] = score
        outputs["bbox_8"][cell, :2] = (-cell + 0.2 * cell, 0)  # boxes of 16 px, 1.6 px apart
        outputs["bbox_8"][cell, 2:] = np.log(2)
        outputs["kps_8"][cell] = np.tile([x / 8 - cell, 0], 5)
    outputs["bbox_8"][2, 0] = -1.25  # 6 px from the first: they share 45 %, enough to be suppressed, not to take part
    options: dict[str, Any] = {"size": (32, 32), "strides": (8, 16, 32), "score_threshold": 0.5, "nms_iou": 0.2}
    options |= {"top_k": 5000, "max_faces": None}
    _, scores, best = decode(outputs, **options, blend_iou=None)
    _, again, mean = decode(outputs, **options, blend_iou=0.6)
    np.testing.assert_allclose(scores, [0.9], rtol=1e-6)
    np.testing.assert_array_equal(scores, again)
    np.testing.assert_allclose(best[0, :, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(mean[0, :, 0], (0.4 * 0.0 + 0.2 * 4.0) / 0.6, rtol=1e-5)


def test_scrfd_refuses_no_anchors() -> None:
    with pytest.raises(InputError, match="anchors: expected at least 1"):
        kernels.decode_scrfd({}, size=(32, 32), score_threshold=0.5, nms_iou=0.3, anchors=0)


TEMPLATES: list[tuple[str, Any]] = [
    (r"probes: expected shape \(any, 8\)", lambda: kernels.scan_int8(SIX, SIX[:, :4].copy(), 1)),
    ("templates: expected dtype int8", lambda: kernels.scan_int8(SIX.view(np.uint8), SIX, 1)),
    ("templates: expected dtype float32", lambda: kernels.scan_float32(SIX, SIX, 1)),  # type: ignore[arg-type]
    ("k: expected a whole number of at least 1, got 0", lambda: kernels.scan_int8(SIX, SIX, 0)),
    (r"mask: expected shape \(6\), got \(5,\)", lambda: kernels.scan_int8(SIX, SIX, 1, mask=np.ones(5, bool))),
    ("mask: expected dtype bool or uint8", lambda: kernels.scan_int8(SIX, SIX, 1, mask=np.ones(6))),
    ("at most 65536 columns", lambda: kernels.scan_int8(WIDE, WIDE, 1)),
    ("x: expected dtype float32", lambda: kernels.l2_normalize(np.zeros((2, 2)))),  # type: ignore[arg-type]  # meant
    (r"out: expected shape \(2, 2\)", lambda: kernels.l2_normalize(FOUR, FOUR[:1])),
    ("scale: expected a positive", lambda: kernels.quantize_templates(np.zeros((2, 2), np.float32), scale=0)),
    (r"crops: expected shape \(any, any, any, 3\)", lambda: kernels.sharpness(np.zeros((4, 4, 3), np.uint8))),
    ("crops: expected at least one pixel", lambda: kernels.exposure(np.zeros((4, 0, 4, 3), np.uint8))),
]


@pytest.mark.parametrize(("message", "call"), TEMPLATES)
def test_template_kernels_refuse(message: str, call: Any) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_defined_outcomes() -> None:
    """What the docstrings promise for inputs without an answer."""
    same = np.full((1, 5, 2), 4, np.float32)
    crop = np.full((1, 3, 6, 6), 9, np.float32)
    kernels.align(np.full_like(FRAME, 255), same, TEMPLATE, crop)
    assert (crop == 0).all()
    zero = kernels.similarity_transform(same, TEMPLATE)[0]
    np.testing.assert_allclose(zero, np.column_stack([np.zeros((2, 2)), TEMPLATE.mean(axis=0)]), atol=1e-6)
    rows: npt.NDArray[np.float32] = np.array([[0, 0], [np.nan, 1], [3, 4]], np.float32)
    np.testing.assert_allclose(kernels.l2_normalize(rows), np.array([(0, 0), (0, 0), (0.6, 0.8)]), rtol=1e-6)
    np.testing.assert_array_equal(kernels.quantize_templates(rows, scale=0.5), [[0, 0], [0, 2], [6, 8]])
    found, dots = kernels.scan_int8(SIX[:1], SIX[:1], 3)
    assert found.tolist() == [[0, -1, -1]]
    assert dots.tolist() == [[0, -(2**31), -(2**31)]]
    boxes, scores, landmarks = kernels.decode_yunet(yunet(), size=(32, 32), score_threshold=0.5, nms_iou=0.3)
    assert (boxes.shape, scores.shape, landmarks.shape) == ((0, 4), (0,), (0, 5, 2))


def test_rounding_is_half_to_even_and_saturates() -> None:
    x = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, 900, -900]], np.float32)
    np.testing.assert_array_equal(kernels.quantize_templates(x, scale=1), [[0, 2, 2, 0, -2, 126, 127, 127, -127]])
    grey = np.array([[5, 15, 25, 200, 0]], np.uint8)
    out = np.empty((3, 1, 5), np.int8)
    kernels.letterbox(grey, out, resized=(1, 5), pixel_format="gray", std=(0.5,) * 3, scale=20)
    np.testing.assert_array_equal(out[0, 0], [0, 2, 2, 20, 0])


def in_new_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_environment_picks_the_side() -> None:
    show = "from edgeface import kernels; print(kernels.IMPLEMENTATION, kernels._side.__name__)"
    assert in_new_process(show, EDGEFACE_KERNELS="").stdout.split() == ["native", "edgeface._native"]
    assert in_new_process(show, EDGEFACE_KERNELS="python").stdout.split() == ["python", "edgeface._kernels_py"]
    refused = in_new_process(show, EDGEFACE_KERNELS="fast")
    assert "EDGEFACE_KERNELS: expected native or python, got 'fast'" in refused.stderr


def test_environment_picks_the_instruction_set() -> None:
    show = "from edgeface import _native; print(_native.simd())"
    for name in _native.simd_available():
        assert in_new_process(show, EDGEFACE_SIMD=name).stdout.strip() == name
    assert "EDGEFACE_SIMD: expected one of scalar" in in_new_process(show, EDGEFACE_SIMD="mmx").stderr
    with pytest.raises(ConfigurationError, match="got 'mmx'"):
        _native.use_simd("mmx")


def test_importing_the_kernels_loads_numpy_and_nothing_heavy() -> None:
    code = f"import sys, edgeface.kernels; print([m for m in {HEAVY} if m in sys.modules])"
    assert in_new_process(code).stdout.strip() == "[]"
