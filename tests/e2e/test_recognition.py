"""The real networks on real photographs: crowds, faces at the edge, every size and kind of frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from edgeface import Decision, Detector, FaceRecognizer, align_faces
from edgeface.errors import ClosedError, ConfigurationError, EnrolmentError, GalleryMismatchError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from edgeface import Faces
    from edgeface.types import ByteArray

    Photos = dict[str, ByteArray]


def resized(photo: ByteArray, height: int, width: int) -> ByteArray:
    return np.asarray(cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="module")
def people(model_home: Path, photos: Photos, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Knows Emmanuel Macron and Jacinda Ardern from one photograph each."""
    folder = model_home / "models"
    with FaceRecognizer.open(
        tmp_path_factory.mktemp("people") / "people.gallery",
        detector=folder / "yunet.fp32.onnx",
        embedder=folder / "sface.fp32.onnx",
    ) as opened:
        opened.enroll("Emmanuel", photos["emmanuel_macron_2014"])
        opened.enroll("Jacinda", photos["jacinda_ardern_2018"])
        yield opened


def heads(photos: Photos, recognizer: FaceRecognizer, side: int = 200) -> dict[str, ByteArray]:
    """Square cuts around each face, all of one size."""
    cuts = {}
    for name, photo in photos.items():
        (face,) = recognizer.detector.detect(photo)
        (height, width), box = face.sizes[0], face.boxes[0]
        centre, half = (box[:2] + box[2:]) / 2, 0.9 * max(height, width)
        padded = cv2.copyMakeBorder(photo, 500, 500, 500, 500, cv2.BORDER_REPLICATE)
        left, top = (int(v) for v in centre - half + 500)
        cut = padded[top : top + int(2 * half), left : left + int(2 * half)]
        cuts[name] = resized(np.asarray(cut, np.uint8), side, side)
    return cuts


def test_everybody_in_a_crowd_is_found_and_named(people: FaceRecognizer, photos: Photos) -> None:
    """24 faces in one frame of 1600 x 1200 px, 200 px each: 80 px where the network runs."""
    cuts = heads(photos, people)
    names = [sorted(cuts)[i % 6] for i in range(24)]
    frame: npt.NDArray[np.uint8] = np.full((1200, 1600, 3), 90, np.uint8)
    for number, name in enumerate(names):
        top, left = 50 + number // 6 * 280, 60 + number % 6 * 255
        frame[top : top + 200, left : left + 200] = cuts[name]
    found = people.recognize(frame)
    assert len(found) == 24
    for person in found:
        x, y = (person.box[:2] + person.box[2:]) / 2
        name = names[int((y - 50) // 280) * 6 + int((x - 60) // 255)]
        expected = {"emmanuel": "Emmanuel", "jacinda": "Jacinda"}.get(name.split("_")[0])
        assert person.name == expected, name
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_several_faces_are_not_enrolled_as_one(people: FaceRecognizer, photos: Photos) -> None:
    both = np.hstack([resized(photos[name], 400, 320) for name in ("rishi_sunak_2020", "barack_obama_2005")])
    with pytest.raises(EnrolmentError, match="expected one face, got 2") as refusal:
        people.enroll("Rishi", both)
    assert refusal.value.reason == "several_faces"
    assert len(people.gallery) == 2


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_face_partly_outside_the_frame_is_found(side: str, people: FaceRecognizer, photos: Photos) -> None:
    photo = photos["emmanuel_macron_2025"]
    (whole,) = people.detector.detect(photo)
    left, top, right, bottom = (int(v) for v in whole.boxes[0])
    fifth_x, fifth_y = (right - left) // 5, (bottom - top) // 5
    x, y = (left + fifth_x if side == "left" else 0), (top + fifth_y if side == "top" else 0)
    cut = photo[y : bottom - fifth_y if side == "bottom" else None, x : right - fifth_x if side == "right" else None]
    found = people.recognize(cut)
    assert len(found) == 1
    (person,) = found
    assert person.name == "Emmanuel"
    # Where it is in the whole photograph; the network sees no more of the box's cut side than the frame shows.
    uncut = [edge != side for edge in ("left", "top", "right", "bottom")]
    moved = np.abs(person.box - (whole.boxes[0] - [x, y, x, y]))
    assert moved[uncut].max() < 0.08 * max(whole.sizes[0])
    assert moved.max() < 0.25 * max(whole.sizes[0])
    assert np.abs(person.landmarks - (whole.landmarks[0] - [x, y])).max() < 0.06 * max(whole.sizes[0])


@pytest.mark.parametrize(
    "size", [(120, 96), (240, 196), (480, 384), (1080, 1920), (2160, 3840), (4320, 7680), (8192, 4096)],
    ids=lambda size: "x".join(map(str, size)),
)  # fmt: skip
def test_frames_from_thumbnails_to_8k(size: tuple[int, int], people: FaceRecognizer, photos: Photos) -> None:
    """The head takes most of the height; the rest of a wide frame is empty."""
    photo = photos["jacinda_ardern_2022"]
    height, width = size
    ratio = min(height / photo.shape[0], width / photo.shape[1])
    inner = (round(photo.shape[0] * ratio), round(photo.shape[1] * ratio))
    frame: npt.NDArray[np.uint8] = np.full((height, width, 3), 60, np.uint8)
    frame[: inner[0], : inner[1]] = cv2.resize(
        photo, inner[::-1], interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    )
    (person,) = people.recognize(frame)
    assert person.name == "Jacinda"
    (original,) = people.detector.detect(photo)
    error = np.abs(person.landmarks / ratio - original.landmarks[0]).max()
    assert error < 0.05 * original.sizes[0, 1] + 2 / ratio


@pytest.mark.parametrize("size", [(32, 32), (32, 8192), (8192, 32), (33, 47)])
def test_frames_without_a_face_are_empty(size: tuple[int, int], people: FaceRecognizer) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    assert people.recognize(noise) == []
    assert people.recognize(np.zeros((*size, 3), np.uint8)) == []


KINDS: dict[str, Any] = {
    "read-only": lambda photo: photo,
    "writable": lambda photo: photo.copy(),
    "cut out of a larger one": lambda photo: np.pad(photo, ((7, 5), (3, 9), (0, 0)))[7:-5, 3:-9],
    "upside down, turned back": lambda photo: np.ascontiguousarray(photo[::-1])[::-1],
    "RGB, turned to BGR": lambda photo: np.ascontiguousarray(photo[:, :, ::-1])[:, :, ::-1],
    "BGRA without alpha": lambda photo: np.dstack([photo, photo[:, :, 0]])[:, :, :3],
    "every second column": lambda photo: np.repeat(photo, 2, axis=1)[:, ::2],
    "planes": lambda photo: np.ascontiguousarray(photo.transpose(2, 0, 1)).transpose(1, 2, 0),
    "column order": np.asfortranarray,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_pixels_give_the_same_result_however_they_lie_in_memory(
    kind: str, people: FaceRecognizer, photos: Photos
) -> None:
    photo = photos["emmanuel_macron_2025"]
    (expected,) = people.recognize(photo.copy())
    (found,) = people.recognize(KINDS[kind](photo))
    assert np.array_equal(found.box, expected.box)
    assert np.array_equal(found.landmarks, expected.landmarks)
    assert found.similarity == expected.similarity


@pytest.mark.parametrize(
    ("pixel_format", "conversion", "lost"),
    [
        ("rgb", cv2.COLOR_BGR2RGB, 0.0),
        ("bgra", cv2.COLOR_BGR2BGRA, 0.0),
        ("i420", cv2.COLOR_BGR2YUV_I420, 0.03),  # half the resolution of colours
    ],
)
def test_frames_in_other_formats_are_the_same_people(
    pixel_format: str, conversion: int, lost: float, people: FaceRecognizer, photos: Photos
) -> None:
    given = {
        name: np.asarray(cv2.cvtColor(resized(photos[name], 480, 400), conversion), np.uint8)
        for name in ("emmanuel_macron_2014", "emmanuel_macron_2025")
    }
    one, other = (resized(photos[name], 480, 400) for name in given)
    (wanted,) = people.recognize(one)
    (person,) = people.recognize(given["emmanuel_macron_2014"], pixel_format=pixel_format)
    ((again,),) = people.recognize_each([given["emmanuel_macron_2014"]], pixel_format=pixel_format)
    assert wanted.name == person.name == again.name == "Emmanuel"
    assert person.similarity == again.similarity == pytest.approx(wanted.similarity, abs=lost + 1e-6)
    compared = people.verify(*given.values(), pixel_format=pixel_format)
    assert compared.similarity == pytest.approx(people.verify(one, other).similarity, abs=lost + 1e-6)
    frame = given["emmanuel_macron_2025"]
    people.enroll("the same man", frame, pixel_format=pixel_format, force=True)
    points = people.detector.detect(frame, pixel_format=pixel_format).landmarks
    probe = people.embedder.embed(frame, points, pixel_format=pixel_format)
    similarities = people.gallery.similarities("the same man", probe)
    people.gallery.remove("the same man")
    assert similarities is not None
    assert float(similarities.max()) > 0.999


@pytest.mark.parametrize("call", ["recognize", "enroll", "verify", "detect", "align"])
def test_what_is_no_frame_is_refused_everywhere(call: str, people: FaceRecognizer, photos: Photos) -> None:
    photo = photos["barack_obama_2005"]
    (face,) = people.detector.detect(photo)
    calls: dict[str, Callable[[Any], object]] = {
        "recognize": people.recognize,
        "enroll": lambda frame: people.enroll("nobody", frame),
        "verify": lambda frame: people.verify(photo, frame),
        "detect": people.detector.detect,
        "align": lambda frame: align_faces(frame, face.landmarks),
    }
    bad = [None, "photo.jpg", photo[:, :, 0], photo.astype(np.float32) / 255, photo[:0], photo[None], photo[:20],
           photo.astype(np.int64), np.empty((0, 0, 3), np.uint8), photo.tobytes()]  # fmt: skip
    for frame in bad:
        with pytest.raises(InputError, match="frame: expected a"):
            calls[call](frame)


def test_a_known_turn_scale_and_shift_of_the_frame_moves_the_face_likewise(
    people: FaceRecognizer, photos: Photos
) -> None:
    photo = resized(photos["rishi_sunak_2020"], 600, 480)
    (straight,) = people.detector.detect(photo)
    embedding = people.embedder.embed(photo, straight.landmarks)[0]
    for angle, scale in ((15, 1.0), (-20, 0.8), (0, 0.5), (10, 1.3)):
        motion = cv2.getRotationMatrix2D((240.0, 300.0), angle, scale)
        turned = np.asarray(cv2.warpAffine(photo, motion, (480, 600)), np.uint8)
        found: Faces = people.detector.detect(turned).subject(600, 480)
        expected = straight.landmarks[0] @ motion[:, :2].T + motion[:, 2]
        size = float(max(straight.sizes[0])) * scale
        assert np.abs(found.landmarks[0] - expected).max() < 0.08 * size, (angle, scale)
        # The same crop, and so nearly the same embedding.
        assert float(embedding @ people.embedder.embed(turned, found.landmarks)[0]) > 0.75, (angle, scale)


def test_points_over_all_cells_move_less_under_noise(people: FaceRecognizer, photos: Photos) -> None:
    """What the recogniser aligns by, against the best cell's points alone, as OpenCV takes them."""
    engine, random = people.detector.engine, np.random.default_rng(3)
    moved: dict[str, list[float]] = {"best": [], "mean": []}
    assert people.detector.points == "mean"
    for photo in heads(photos, people).values():
        noisy = [np.clip(photo + random.normal(0, 6, photo.shape), 0, 255).astype(np.uint8) for _ in range(4)]
        for points, distances in moved.items():
            detector = Detector(engine, points=points)
            (still,) = detector.detect(photo)
            for frame in noisy:
                (face,) = detector.detect(frame)
                assert np.allclose(face.boxes, still.boxes, atol=20)
                distances.append(float(np.linalg.norm(face.landmarks - still.landmarks, axis=-1).mean()))
    assert np.mean(moved["mean"]) < 0.8 * np.mean(moved["best"])


def test_a_mirrored_photograph_has_mirrored_points(people: FaceRecognizer, photos: Photos) -> None:
    photo = resized(photos["barack_obama_2005"], 640, 512)
    (face,) = people.detector.detect(photo)
    (other,) = people.detector.detect(photo[:, ::-1])
    mirrored = face.landmarks[0][[1, 0, 2, 4, 3]] * [-1, 1] + [511, 0]
    assert np.abs(other.landmarks[0] - mirrored).max() < 0.04 * max(face.sizes[0])
    # The viewer's left eye and corner of the mouth come first.
    for landmarks in (face.landmarks[0], other.landmarks[0]):
        assert landmarks[0, 0] < landmarks[1, 0]
        assert landmarks[3, 0] < landmarks[4, 0]
        assert landmarks[0, 1] < landmarks[2, 1] < landmarks[3, 1]


def test_embeddings_are_alike_for_one_person_and_not_for_two(people: FaceRecognizer, photos: Photos) -> None:
    rows = np.concatenate([
        people.embedder.embed(photo, people.detector.detect(photo).landmarks) for photo in photos.values()
    ])  # fmt: skip
    assert rows.shape == (6, 128)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    names = [name.rsplit("_", 1)[0] for name in photos]
    for i in range(6):
        for j in range(i):
            similarity = float(rows[i] @ rows[j])
            assert similarity > 0.5 if names[i] == names[j] else similarity < 0.3, (names[i], names[j])


def test_all_faces_at_once_and_one_by_one_are_the_same(people: FaceRecognizer, photos: Photos) -> None:
    cuts = heads(photos, people)
    frame = np.hstack(list(cuts.values()))
    faces = people.detector.detect(frame)
    assert len(faces) == 6
    together = people.embedder.embed(frame, faces.landmarks)
    alone = np.concatenate([people.embedder.embed(frame, face.landmarks) for face in faces])
    assert (together * alone).sum(axis=1).min() > 0.9999


def test_what_is_learned_is_there_after_closing(with_models: Path, tmp_path: Path, photos: Photos) -> None:
    path = tmp_path / "kiosk.gallery"
    with FaceRecognizer.open(path, threads=1) as recognizer:
        recognizer.enroll("Jacinda", photos["jacinda_ardern_2018"])
    with pytest.raises(ClosedError):
        recognizer.recognize(photos["jacinda_ardern_2022"])
    recognizer.close()
    with FaceRecognizer.open(path, threads=1, threshold=0.999) as strict:
        (found,) = strict.recognize(photos["jacinda_ardern_2022"])
        assert (found.decision, found.name) == (Decision.UNKNOWN, None)
        assert found.matches.names == ("Jacinda",)
    with FaceRecognizer.open(path, threads=1) as recognizer:
        assert [one.name for one in recognizer.recognize(photos["jacinda_ardern_2022"])] == ["Jacinda"]
        assert recognizer.verify(photos["jacinda_ardern_2018"], photos["jacinda_ardern_2022"]).match
        assert not recognizer.verify(photos["jacinda_ardern_2018"], photos["rishi_sunak_2020"]).match


def test_a_relative_model_is_loaded_again_from_another_folder(
    with_models: Path, tmp_path: Path, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(with_models / "models")
    with FaceRecognizer.open(
        tmp_path / "g", detector="yunet.fp32.onnx", embedder="sface.fp32.onnx"
    ) as recognizer:
        monkeypatch.chdir("/")
        recognizer.reload()
        recognizer.enroll("Emmanuel", photos["emmanuel_macron_2014"])
        assert [person.name for person in recognizer.recognize(photos["emmanuel_macron_2025"])] == ["Emmanuel"]


def test_a_gallery_of_another_model_is_refused_with_both_names(with_models: Path, tmp_path: Path) -> None:
    from edgeface import Gallery

    with Gallery.open(tmp_path / "g", model_id="other@123/int8", dimension=512):
        pass
    with pytest.raises(GalleryMismatchError, match="other@123/int8"):
        FaceRecognizer.open(tmp_path / "g")


def test_a_model_of_another_kind_is_refused_by_what_it_is(with_models: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="yunet: expected an embedder, got kind 'detector'"):
        FaceRecognizer.open(tmp_path / "a.gallery", embedder="yunet")


def test_precision_of_the_frame_does_not_depend_on_threads(with_models: Path, tmp_path: Path, photos: Photos) -> None:
    results = []
    for threads in (1, 2):
        with FaceRecognizer.open(tmp_path / f"{threads}.gallery", threads=threads) as recognizer:
            recognizer.enroll("Emmanuel", photos["emmanuel_macron_2014"])
            results.append(recognizer.recognize(photos["emmanuel_macron_2025"])[0])
    assert results[0].similarity == pytest.approx(results[1].similarity, abs=1e-4)
    assert np.allclose(results[0].box, results[1].box, atol=0.05)
