"""The detector's geometry, with an engine that says exactly what it was shown: sizes, places, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeface import Detector
from edgeface.detect import DECODERS
from edgeface.errors import ClosedError, ConfigurationError, InferenceError, InputError
from edgeface.runtime.fake import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from edgeface.manifest import Manifest
    from edgeface.types import ByteArray, FloatArray

SIDES = st.integers(32, 900)


def spotted(height: int, width: int, left: int, top: int, side: int) -> ByteArray:
    frame: npt.NDArray[np.uint8] = np.zeros((height, width, 3), np.uint8)
    frame[top : top + side, left : left + side] = 255
    return frame


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=SIDES, width=SIDES, side_px=st.sampled_from([32, 64, 160, 320, 640]), fixed=st.booleans())
def test_the_network_sees_a_legal_size_and_an_undistorted_frame(
    spot_detector: Callable[..., FakeEngine], height: int, width: int, side_px: int, fixed: bool
) -> None:
    engine = spot_detector(input_size=(96, 160)) if fixed else spot_detector()
    Detector(engine, max_side_px=side_px).detect(np.zeros((height, width, 3), np.uint8))
    ((batch, planes, rows, columns),) = engine.shapes
    assert (batch, planes) == (1, 3)
    assert rows % 32 == columns % 32 == 0
    if fixed:
        assert (rows, columns) == (96, 160)
        return
    assert max(rows, columns) <= side_px
    if max(height, width) <= side_px:  # never enlarged, never shrunk without need: padding only
        assert 0 <= rows - height < 32
        assert 0 <= columns - width < 32
    else:
        shrink = side_px / max(height, width)
        assert -1 < rows - height * shrink < 33
        assert -1 < columns - width * shrink < 33


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), height=st.integers(64, 700), width=st.integers(64, 700), fixed=st.booleans())
def test_a_spot_is_found_where_it_is(
    spot_detector: Callable[..., FakeEngine], data: st.DataObject, height: int, width: int, fixed: bool
) -> None:
    """Letterbox there and back: the box that comes out lies on the spot that went in, within a cell of the network."""
    engine = spot_detector(input_size=(192, 256)) if fixed else spot_detector()
    detector = Detector(engine, max_side_px=256, max_overlap=0.9)
    shrink = min(1.0, *((192 / height, 256 / width) if fixed else (256 / height, 256 / width)))
    side = int(np.ceil(24 / shrink))
    if side >= min(height, width):
        return
    left = data.draw(st.integers(0, width - side), label="left")
    top = data.draw(st.integers(0, height - side), label="top")
    faces = detector.detect(spotted(height, width, left, top, side))
    assert len(faces) >= 4  # three cells' width of spot holds two whole cells each way at least
    cell = 8 / shrink
    assert np.all(np.abs(faces.sizes - cell) < 0.05 * cell + 0.05)
    # Cells more than half bright count, so boxes reach at most half a cell over the spot; a pixel for rounding.
    slack = cell / 2 + 1 / shrink
    assert faces.boxes[:, 0].min() >= left - 0.5 - slack
    assert faces.boxes[:, 1].min() >= top - 0.5 - slack
    assert faces.boxes[:, 2].max() <= left + side - 0.5 + slack
    assert faces.boxes[:, 3].max() <= top + side - 0.5 + slack
    # And they reach nearly as far as it does.
    assert faces.boxes[:, 0].min() <= left - 0.5 + slack
    assert faces.boxes[:, 2].max() >= left + side - 0.5 - slack


@pytest.mark.parametrize("times", [2, 4])
def test_the_way_back_maps_centres_of_pixels_to_centres_of_pixels(
    times: int, spot_detector: Callable[..., FakeEngine]
) -> None:
    """A cell of 8 pixels that begins at pixel 40 ends at 47: its edges lie half a pixel outside those centres."""
    frame = spotted(96 * times, 128 * times, 40 * times, 24 * times, 8 * times)
    faces = Detector(spot_detector(), max_side_px=128).detect(frame)
    expected = np.array([40.0, 24.0, 48.0, 32.0]) * times + (times - 1) / 2
    assert len(faces) == 1
    # The network's x = 40 lies at x_frame + 0.5 = 40.5 * times.
    assert np.allclose(faces.boxes[0], expected, atol=1e-3)
    assert np.allclose(faces.landmarks[0], expected[:2], atol=1e-3)


def test_colours_and_scaling_are_the_manifests(detector_manifest: Callable[..., Manifest]) -> None:
    from edgeface.manifest import Preprocessing

    seen: list[FloatArray] = []

    def respond(tensor: FloatArray) -> dict[str, FloatArray]:
        seen.append(tensor.copy())
        raise InferenceError("seen enough")

    frame: npt.NDArray[np.uint8] = np.full((40, 50, 3), (10, 20, 30), np.uint8)
    for color, order in (("bgr", (10, 20, 30)), ("rgb", (30, 20, 10))):
        given_ = Preprocessing(color, (1.0, 2.0, 3.0), (2.0, 4.0, 5.0))  # type: ignore[arg-type]  # one of the two
        detector = Detector(FakeEngine(detector_manifest(preprocessing=given_), respond))
        with pytest.raises(InferenceError, match="seen enough"):
            detector.detect(frame)
        assert seen[-1].shape == (1, 3, 64, 64)
        for plane, level, mean, std in zip(seen[-1][0], order, (1, 2, 3), (2, 4, 5), strict=True):
            assert np.allclose(plane[:40, :50], (level - mean) / std, atol=1e-5)
            assert np.allclose(plane[40:], -mean / std, atol=1e-5)  # padding is black in the frame's levels
            assert np.allclose(plane[:, 50:], -mean / std, atol=1e-5)


def test_options_choose_among_faces(spot_detector: Callable[..., FakeEngine]) -> None:
    frame: npt.NDArray[np.uint8] = np.zeros((64, 64, 3), np.uint8)
    for number, level in enumerate((250, 200, 150)):
        frame[8:16, 16 * number : 16 * number + 8] = level
    everything = Detector(spot_detector(), min_score=0.1).detect(frame)
    # score = sqrt(cls * obj), cls = level / 255
    assert np.allclose(everything.scores, np.sqrt(np.array([250, 200, 150]) / 255), atol=1e-3)
    assert len(Detector(spot_detector(), min_score=0.85).detect(frame)) == 2
    assert len(Detector(spot_detector(), min_score=0.1, max_faces=1).detect(frame)) == 1


def test_nothing_is_an_empty_result(spot_detector: Callable[..., FakeEngine]) -> None:
    faces = Detector(spot_detector()).detect(np.zeros((480, 640, 3), np.uint8))
    assert len(faces) == 0
    assert faces.boxes.shape == (0, 4)
    assert faces.landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize("size", [(32, 32), (32, 8192), (8192, 32), (33, 1001), (4320, 7680)])
def test_extreme_frames_run(size: tuple[int, int], spot_detector: Callable[..., FakeEngine]) -> None:
    frame = np.broadcast_to(np.uint8(200), (*size, 3)).copy()
    detector = Detector(spot_detector(), max_side_px=640, max_faces=10_000)
    faces = detector.detect(frame)
    # Shrunk to less than half a cell, a strip is seen no more; everything else is full of spots.
    strip = min(size) * min(1, 640 / max(size)) < 4
    assert (len(faces) == 0) is strip
    cell = 8 * max(1, max(size) / 640)
    assert np.all(faces.boxes < np.array([size[1], size[0]] * 2) + cell)
    assert np.all(faces.boxes > -cell)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_side_px": 31}, "max_side_px: expected a whole number from 32 to 8192, got 31"),
        ({"max_side_px": 8193}, "max_side_px"),
        ({"max_side_px": 640.5}, "max_side_px"),
        ({"max_side_px": "640"}, "max_side_px"),
        ({"min_score": 0.0}, "min_score: expected a number between 0 and 1"),
        ({"min_score": float("nan")}, "min_score"),
        ({"min_score": "0.7"}, "min_score: expected a number between 0 and 1, got '0.7'"),
        ({"max_overlap": 1.0}, "max_overlap"),
        ({"max_faces": 0}, "max_faces"),
        ({"points": "median"}, "points: expected best or mean, got 'median'"),
    ],
)
def test_options_out_of_range_are_refused(
    options: dict[str, Any], said: str, spot_detector: Callable[..., FakeEngine]
) -> None:
    with pytest.raises(InputError, match=said):
        Detector(spot_detector(), **options)


def test_an_engine_that_detects_nothing_is_refused(
    tone_embedder: Callable[..., FakeEngine], spot_detector: Callable[..., FakeEngine]
) -> None:
    with pytest.raises(ConfigurationError, match=r"tones: expected a detector .* got kind 'embedder'"):
        Detector(tone_embedder())
    with pytest.raises(ConfigurationError, match="head 'retinaface'"):
        Detector(spot_detector(head="retinaface"))


def test_outputs_of_another_shape_are_refused(detector_manifest: Callable[..., Manifest]) -> None:
    engine = FakeEngine(detector_manifest(), lambda _: {"cls_8": np.zeros((1, 3, 1), np.float32)})
    with pytest.raises(InputError, match="cls_8"):
        Detector(engine).detect(np.zeros((64, 64, 3), np.uint8))


def test_nan_from_the_network_is_no_face(spot_detector: Callable[..., FakeEngine]) -> None:
    engine = spot_detector()
    sane = engine._respond
    engine._respond = lambda tensor: {key: np.full_like(value, np.nan) for key, value in sane(tensor).items()}
    assert len(Detector(engine).detect(np.full((64, 64, 3), 255, np.uint8))) == 0


def test_a_closed_engine_says_so(spot_detector: Callable[..., FakeEngine]) -> None:
    with spot_detector() as engine:
        detector = Detector(engine)
    with pytest.raises(ClosedError, match="spots: this engine was closed"):
        detector.detect(np.zeros((64, 64, 3), np.uint8))


def test_shrinking_matches_opencvs_letterbox(detector_manifest: Callable[..., Manifest]) -> None:
    seen: list[FloatArray] = []

    def respond(tensor: FloatArray) -> dict[str, FloatArray]:
        seen.append(tensor.copy())
        raise InferenceError("seen enough")

    noise = np.random.default_rng(5).uniform(0, 255, (300, 450, 3)).astype(np.float32)
    frame = np.clip(cv2.GaussianBlur(noise, (0, 0), 4) * 4 - 380, 0, 255).astype(np.uint8)
    with pytest.raises(InferenceError):
        Detector(FakeEngine(detector_manifest(), respond), max_side_px=320).detect(frame)
    theirs = cv2.resize(frame, (320, 213), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)
    assert seen[0].shape == (1, 3, 224, 320)
    assert np.abs(seen[0][0, :, :213] - theirs).max() < 2


@pytest.mark.parametrize("lacking", ["cls_8", "obj_16", "kps_32"])
def test_a_manifest_without_a_map_of_its_head_is_refused_at_the_start(
    detector_manifest: Callable[..., Manifest], lacking: str
) -> None:
    manifest = detector_manifest()
    outputs = {name: value for name, value in manifest.outputs.items() if name != lacking}
    engine = FakeEngine(detector_manifest(outputs=outputs), lambda tensor: {})
    with pytest.raises(ConfigurationError, match=f"head yunet needs .* lacks {lacking} "):
        Detector(engine)


@pytest.mark.parametrize("size", [(100, 160), (96, 150), (16, 32)])
def test_a_fixed_size_off_the_grid_is_refused_at_the_start(
    spot_detector: Callable[..., FakeEngine], size: tuple[int, int]
) -> None:
    with pytest.raises(ConfigurationError, match=f"multiples of 32 px, got {size[0]} x {size[1]}"):
        Detector(spot_detector(input_size=size))


@pytest.mark.parametrize(("overlap", "blended"), [(0.3, 0.6), (0.8, 0.8)])
def test_faces_that_are_both_kept_share_no_candidates(
    overlap: float, blended: float, spot_detector: Callable[..., FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    plain = DECODERS["yunet"]

    def spy(outputs: Any, **options: Any) -> Any:
        asked.append(options["blend_iou"])
        return plain(outputs, **options)

    monkeypatch.setitem(DECODERS, "yunet", spy)
    Detector(spot_detector(), max_overlap=overlap, points="mean").detect(spotted(64, 64, 8, 8, 8))
    assert asked == [blended]
