"""OpenCV's own YuNet (`FaceDetectorYN`) on the same network: the same faces, points within one pixel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from edgeface import Detector, Faces, load_engine
from edgeface.photos import read_photo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from edgeface.types import ByteArray

    Reference = Callable[[ByteArray], Faces]

MIN_SCORE, MAX_OVERLAP = 0.7, 0.3
#: A score this near to the threshold may fall on either side of it.
NEAR = 0.02


@pytest.fixture(scope="module")
def detector(model_home: Path) -> Iterator[Detector]:
    with load_engine(model_home / "models/yunet.fp32.onnx") as engine:
        yield Detector(engine, max_side_px=2048, min_score=MIN_SCORE, max_overlap=MAX_OVERLAP, points="best")


@pytest.fixture(scope="module")
def reference(model_home: Path) -> Reference:
    assert int(cv2.__version__.split(".")[0]) == 4, "OpenCV 5 has another detector: the tests ask for 4.x"
    path = str(model_home / "models/yunet.fp32.onnx")

    def detect(frame: ByteArray) -> Faces:
        size = (frame.shape[1], frame.shape[0])
        _, rows = cv2.FaceDetectorYN.create(path, "", size, MIN_SCORE - NEAR, MAX_OVERLAP, 5000).detect(frame)
        if rows is None:
            return Faces.empty()
        found: npt.NDArray[np.float32] = np.asarray(rows, np.float32)
        boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], axis=1)
        return Faces(boxes, found[:, 14], found[:, 4:14].reshape(-1, 5, 2))

    return detect


def hold(ours: Faces, theirs: Faces, what: str) -> int:
    """The same faces with the same points; returns how many. Faces at the threshold may be on one side only."""
    taken: set[int] = set()
    for face in theirs:
        distances = np.abs(ours.landmarks - face.landmarks[0]).max(axis=(1, 2)) if len(ours) else np.empty(0)
        if face.scores[0] < MIN_SCORE + NEAR and (not len(distances) or distances.min() > 1):
            continue
        assert len(distances), f"{what}: OpenCV finds a face of score {face.scores[0]:.3f} at {face.boxes[0]}"
        nearest = int(distances.argmin())
        assert distances[nearest] < 1.0, f"{what}: points differ by {distances[nearest]:.2f} px"
        assert np.abs(ours.boxes[nearest] - face.boxes[0]).max() < 1.0, f"{what}: boxes differ"
        assert abs(ours.scores[nearest] - face.scores[0]) < 0.01, f"{what}: scores differ"
        taken.add(nearest)
    extra = [float(ours.scores[i]) for i in range(len(ours)) if i not in taken]
    assert all(score < MIN_SCORE + NEAR for score in extra), f"{what}: faces that OpenCV does not find: {extra}"
    return len(taken)


def test_the_demos_photographs(photos: dict[str, ByteArray], detector: Detector, reference: Reference) -> None:
    for name, photo in photos.items():
        for longest in (2048, 640, 333, 250):
            ratio = min(1.0, longest / max(photo.shape[:2]))
            size = (round(photo.shape[1] * ratio), round(photo.shape[0] * ratio))
            frame = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)
            assert hold(detector.detect(frame), reference(frame), f"{name} at {size}") == 1


def composed(photos: dict[str, ByteArray], seed: int, height: int = 960, width: int = 1280) -> ByteArray:
    """Faces of many sizes side by side; some reach out of the frame, some overlap."""
    random = np.random.default_rng(seed)
    frame: npt.NDArray[np.uint8] = random.integers(60, 120, (height, width, 3), np.uint8)
    names = sorted(photos)
    for number in range(16):
        photo = photos[names[int(random.integers(len(names)))]]
        ratio = float(random.uniform(90, 380)) / photo.shape[0]
        size = (max(40, round(photo.shape[1] * ratio)), max(40, round(photo.shape[0] * ratio)))
        small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
        left = number % 4 * (width // 4) + int(random.integers(-60, 60))
        top = number // 4 * (height // 4) + int(random.integers(-60, 60))
        x0, y0, x1, y1 = max(0, left), max(0, top), min(width, left + size[0]), min(height, top + size[1])
        frame[y0:y1, x0:x1] = small[y0 - top : y1 - top, x0 - left : x1 - left]
    return frame


@pytest.mark.parametrize("seed", range(4))
def test_frames_with_many_faces(
    seed: int, photos: dict[str, ByteArray], detector: Detector, reference: Reference
) -> None:
    frame = composed(photos, seed)
    assert hold(detector.detect(frame), reference(frame), f"seed {seed}") >= 6


def test_frames_without_any(detector: Detector, reference: Reference) -> None:
    for frame in (
        np.zeros((240, 320, 3), np.uint8),
        np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8),
    ):
        assert len(detector.detect(frame)) == len(reference(frame)) == 0


def test_embeddings_are_opencvs(photos: dict[str, ByteArray], model_home: Path, detector: Detector) -> None:
    """Its own alignment and network runner, fed with our points."""
    from edgeface import Embedder

    theirs = cv2.FaceRecognizerSF.create(str(model_home / "models/sface.fp32.onnx"), "")
    with load_engine(model_home / "models/sface.fp32.onnx") as engine:
        for name, photo in photos.items():
            (face,) = detector.detect(photo)
            row = np.concatenate([np.zeros(4), face.landmarks.reshape(-1), [0.9]]).astype(np.float32)
            vector = theirs.feature(theirs.alignCrop(photo, row[None]))[0]
            ours = Embedder(engine).embed(photo, face.landmarks)[0]
            assert float(ours @ vector / np.linalg.norm(vector)) > 0.99, name


LFW = os.environ.get("EDGEFACE_LFW", "")


@pytest.mark.skipif(not LFW, reason="EDGEFACE_LFW is not set: the folder with images/ and pairs.txt")
def test_photographs_of_lfw(detector: Detector, reference: Reference) -> None:
    paths = sorted(Path(LFW, "images").glob("*/*.jpg"))
    assert len(paths) > 100
    found = 0
    for path in paths[:: len(paths) // 50][:50]:
        frame = read_photo(path)
        found += hold(detector.detect(frame), reference(frame), path.name)
    assert found >= 50


@pytest.mark.parametrize("shape", [(250, 250), (251, 187), (97, 640)])
def test_padding_to_the_grid_is_theirs(shape: tuple[int, int], photos: dict[str, Any], detector: Detector) -> None:
    """Sizes that are no multiple of 32 are padded on the right and below by both: what is there moves nothing."""
    photo = np.asarray(cv2.resize(photos["rishi_sunak_2020"], (90, 96)), np.uint8)
    frame: npt.NDArray[np.uint8] = np.full((*shape, 3), 0, np.uint8)
    frame[:96, :90] = photo
    padded = cv2.copyMakeBorder(frame, 0, -shape[0] % 32, 0, -shape[1] % 32, cv2.BORDER_CONSTANT)
    (one,), (other,) = detector.detect(frame), detector.detect(np.asarray(padded, np.uint8))
    assert np.allclose(one.landmarks, other.landmarks, atol=1e-4)
