"""The liveness detector: where its crops lie, what the network sees, and how its numbers are read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface import Liveness, LivenessDetector, _kernels_py
from edgeface._kernels_py_pixels import to_bgr
from edgeface.errors import ConfigurationError, InferenceError, InputError
from edgeface.liveness import crop_places, read_scores
from edgeface.pad import LivenessSpec
from edgeface.runtime.fake import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.manifest import Manifest
    from edgeface.types import ByteArray, FloatArray

SPEC = LivenessSpec("square", 2.7, "probability", ("spoof", "live"), "live", 0.8, 0.4)
sides = st.floats(1, 3000, width=32)
places = st.floats(-500, 2500, width=32)


def spec(**changes: object) -> LivenessSpec:
    return LivenessSpec(**{**vars(SPEC), **changes})


def reference_place(box: list[float], size: tuple[int, int], crop: str, scale: float) -> tuple[int, int, int, int]:
    """The rule of docs/formats/recipe.md, one number at a time."""
    left, top, right, bottom = box
    height, width = (bottom - top) * scale, (right - left) * scale
    if crop == "square":
        height = width = max(height, width)
    rows, columns = size[0] // 2 * 2, size[1] // 2 * 2
    shrink = min(1.0, rows / height, columns / width)
    starts, ends = [], []
    for length, room, centre in ((height, rows, (top + bottom) / 2), (width, columns, (left + right) / 2)):
        count = min(max(2 * round(length * shrink / 2), 2), room)
        first = 2 * round((centre + 0.5 - count / 2) / 2)
        first = min(max(first, 0), room - count)
        starts.append(first)
        ends.append(first + count)
    return starts[0], starts[1], ends[0], ends[1]


@given(st.tuples(places, places, sides, sides), st.tuples(st.integers(2, 2000), st.integers(2, 2000)),
       st.sampled_from(["square", "box"]), st.floats(1, 10))  # fmt: skip
def test_crops_lie_where_the_rule_says(
    face: tuple[float, float, float, float], size: tuple[int, int], crop: str, scale: float
) -> None:
    left, top, width, height = (float(np.float32(value)) for value in face)
    box = [left, top, float(np.float32(left + width)), float(np.float32(top + height))]
    (found,) = crop_places(box, size, spec(crop=crop, scale=scale)).tolist()
    first_y, first_x, end_y, end_x = found
    assert 0 <= first_y < end_y <= size[0]
    assert 0 <= first_x < end_x <= size[1]
    assert not any(value % 2 for value in found)
    assert tuple(found) == reference_place(box, size, crop, scale)


@given(st.floats(300, 700), st.floats(300, 700), st.floats(20, 60), st.floats(1, 4))
def test_a_crop_with_room_is_centred_on_the_face(x: float, y: float, side: float, scale: float) -> None:
    box = np.array([x - side / 2, y - side, x + side / 2, y + side], np.float32)  # twice as high as wide
    top, left, bottom, right = crop_places(box, (1000, 1000), spec(scale=scale))[0].tolist()
    assert abs((bottom - top) - 2 * side * scale) <= 1.01
    assert bottom - top == right - left
    # The centre of pixels left ... right - 1, in the coordinates of boxes; even steps round by one pixel at most.
    assert abs((left + right - 1) / 2 - x) <= 1.01
    assert abs((top + bottom - 1) / 2 - y) <= 1.01


def test_the_shape_of_the_box_can_be_kept() -> None:
    top, left, bottom, right = crop_places([100, 100, 140, 180], (1000, 1000), spec(crop="box", scale=2.0))[0].tolist()
    assert (bottom - top, right - left) == (160, 80)
    # Where it does not fit, it shrinks at its own aspect ratio.
    top, left, bottom, right = crop_places([0, 0, 400, 800], (1000, 1000), spec(crop="box", scale=4.0))[0].tolist()
    assert (bottom - top, right - left) == (1000, 500)


def test_a_box_without_area_is_a_pixel() -> None:
    assert crop_places([50, 50, 40, 50], (100, 100), spec(scale=8.0)).tolist() == [[46, 42, 54, 50]]


def camera_frames(height: int, width: int) -> dict[str, ByteArray]:
    random = np.random.default_rng(4)
    frames: dict[str, ByteArray] = {"bgr": random.integers(0, 256, (height, width, 3)).astype(np.uint8)}
    for name in ("nv12", "i420"):
        frames[name] = random.integers(0, 256, (height * 3 // 2, width)).astype(np.uint8)
    frames["yuyv"] = random.integers(0, 256, (height, width, 2)).astype(np.uint8)
    frames["bgra"] = random.integers(0, 256, (height, width, 4)).astype(np.uint8)
    return frames


@pytest.mark.parametrize("pixel_format", ["bgr", "nv12", "i420", "yuyv", "bgra"])
@pytest.mark.parametrize("box", [[40, 30, 61, 58], [-9, -9, 20, 25], [70, 60, 110, 99], [1, 1, 90, 80]])
def test_the_network_sees_the_cut_and_resized_face(
    liveness_manifest: Callable[..., Manifest], pixel_format: str, box: list[int]
) -> None:
    seen: list[FloatArray] = []

    def respond(tensor: FloatArray) -> dict[str, FloatArray]:
        seen.append(tensor.copy())
        return {"scores": np.full((len(tensor), 1), 0.5, np.float32)}

    frame = camera_frames(90, 100)[pixel_format]
    engine = FakeEngine(liveness_manifest(input_size=(24, 20)), respond)
    LivenessDetector(engine).scores(frame, np.array(box, np.float32), pixel_format=pixel_format)
    whole = to_bgr(frame, pixel_format)  # the reference cuts after the conversion, the detector before it
    top, left, bottom, right = reference_place([float(v) for v in box], (90, 100), "square", 2.7)
    expected = np.empty((3, 24, 20), np.float32)
    _kernels_py.letterbox(np.ascontiguousarray(whole[top:bottom, left:right]), expected, resized=(24, 20))
    assert np.array_equal(seen[0][0], expected)


def test_preprocessing_is_the_manifests(liveness_manifest: Callable[..., Manifest]) -> None:
    from edgeface.manifest import Preprocessing

    seen: list[FloatArray] = []

    def respond(tensor: FloatArray) -> dict[str, FloatArray]:
        seen.append(tensor.copy())
        return {"scores": np.zeros((len(tensor), 1), np.float32)}

    frame = np.empty((64, 64, 3), np.uint8)
    frame[:] = (10, 20, 30)
    given = Preprocessing("rgb", (10.0, 10.0, 10.0), (2.0, 4.0, 8.0))
    LivenessDetector(FakeEngine(liveness_manifest(preprocessing=given), respond)).scores(frame, [10, 10, 30, 30])
    assert seen[0][0, :, 5, 5].tolist() == [10.0, 2.5, 0.0]


def test_faces_go_in_batches_that_the_engine_takes(liveness_manifest: Callable[..., Manifest]) -> None:
    def respond(tensor: FloatArray) -> dict[str, FloatArray]:
        return {"scores": (tensor[:, 0, :1, 0] / 255).astype(np.float32)}

    frame = np.zeros((64, 512, 3), np.uint8)
    for column in range(8):
        frame[:, column * 64 : column * 64 + 64] = column * 30
    boxes = np.array([[c * 64 + 24, 24, c * 64 + 40, 40] for c in range(8)], np.float32)
    for most, shapes in ((None, [8]), (3, [3, 3, 2]), (1, [1] * 8)):
        engine = FakeEngine(liveness_manifest(max_batch=most), respond)
        scores = LivenessDetector(engine).scores(frame, boxes)
        assert [shape[0] for shape in engine.shapes] == shapes
        assert np.allclose(scores, np.arange(8) * 30 / 255, atol=1e-6)
    engine = FakeEngine(liveness_manifest(), respond)
    assert LivenessDetector(engine).scores(frame, np.empty((0, 4), np.float32)).shape == (0,)
    assert engine.shapes == []


@pytest.mark.parametrize(
    ("meaning", "classes", "live", "raw", "expected"),
    [
        ("logits", ("a", "live", "b"), "live", [[1.0, 2.0, 0.5]], math.exp(2) / (math.e + math.exp(2) + math.exp(0.5))),
        ("logits", ("live", "a"), "live", [[1000.0, -1000.0]], 1.0),  # no overflow
        ("logits", ("live", "a"), "live", [[-1e4, 1e4]], 0.0),
        ("probabilities", ("a", "live", "b"), "live", [[0.2, 0.7, 0.1]], 0.7),
        ("logit", ("spoof", "live"), "live", [[0.5]], 1 / (1 + math.exp(-0.5))),
        ("logit", ("spoof", "live"), "live", [-1e4], 0.0),
        ("logit", ("live", "spoof"), "live", [[0.5]], 1 - 1 / (1 + math.exp(-0.5))),
        ("probability", ("spoof", "live"), "live", [[0.8]], 0.8),
        ("probability", ("live", "spoof"), "live", [0.8], 0.2),
        ("probability", ("live", "spoof"), "live", [[1.004]], 0.0),  # float16 may miss 1 by a little
    ],
)
def test_scores_are_read_as_the_manifest_says(
    meaning: str, classes: tuple[str, ...], live: str, raw: list[Any], expected: float
) -> None:
    read = read_scores(np.array(raw, np.float32), 1, spec(meaning=meaning, classes=classes, live=live), "pad")
    assert read.shape == (1,)
    assert read[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("meaning", "classes", "raw", "said"),
    [
        ("probabilities", ("live", "a"), [[3.0, -2.0]], r"gave \[3.0, -2.0\]; if these are logits, say so"),
        ("probabilities", ("live", "a"), [[0.7, 0.7]], "if these are logits"),
        ("probability", ("a", "live"), [[7.5]], "if these are logits"),
        ("logits", ("live", "a"), [[float("nan"), 0.0]], "NaN or infinity"),
        ("logits", ("live", "a"), [[float("inf"), 0.0]], "NaN or infinity"),
        ("logits", ("live", "a"), [[1.0, 2.0, 3.0]], r"expected scores of shape \(1, 2\), the network gave \(1, 3\)"),
        ("logits", ("live", "a"), [1.0, 2.0], r"the network gave \(2,\)"),
        ("logit", ("a", "live"), [[1.0, 2.0]], r"expected scores of shape \(1, 1\)"),
    ],
)
def test_numbers_of_another_meaning_are_refused(
    meaning: str, classes: tuple[str, ...], raw: list[Any], said: str
) -> None:
    with pytest.raises(InferenceError, match=said):
        read_scores(np.array(raw, np.float32), 1, spec(meaning=meaning, classes=classes), "pad")


def test_decisions_at_and_between_the_thresholds(liveness_manifest: Callable[..., Manifest]) -> None:
    detector = LivenessDetector(FakeEngine(liveness_manifest(), lambda tensor: {}))
    decided = [detector.decide(score) for score in (0.0, 0.3999, 0.4, 0.7999, 0.8, 1.0)]
    assert decided == ["spoof", "spoof", "unsure", "unsure", "live", "live"]
    assert detector.decide(float("nan")) is Liveness.UNSURE


def test_another_kind_of_model_is_refused(tone_embedder: Callable[..., FakeEngine]) -> None:
    with pytest.raises(ConfigurationError, match="tones: expected a liveness model, got kind 'embedder'"):
        LivenessDetector(tone_embedder())


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([1, 2, 3], "expected shape"),
        ("box", "expected an"),
        ([[1, 2, float("nan"), 9]], "expected finite pixels"),
        ([[1, 2, 1e39, 9]], "expected finite pixels"),
        (None, "boxes: expected"),
    ],
)
def test_what_are_no_boxes_is_refused(liveness_manifest: Callable[..., Manifest], boxes: object, said: str) -> None:
    detector = LivenessDetector(FakeEngine(liveness_manifest(), lambda tensor: {}))
    with pytest.raises(InputError, match=said):
        detector.scores(np.zeros((64, 64, 3), np.uint8), boxes)
    with pytest.raises(InputError, match="frame: expected"):
        detector.scores(None, [1, 2, 3, 4])
