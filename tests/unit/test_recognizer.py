"""`FaceRecognizer` wires the parts: with made-up engines and a real gallery, every step's result can be known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface import Decision, Detector, Embedder, FaceRecognizer, Gallery
from edgeface.errors import ConfigurationError, EnrolmentError, InputError, ModelNotFoundError
from edgeface.manifest import OperatingPoint, Thresholds
from edgeface.policy import Policy, make_policy
from edgeface.runtime.fake import FakeEngine
from edgeface.runtime.reload import ReloadableEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from edgeface.types import ByteArray

SPOT = 240
POLICY = Policy(0.9, 0.001, 1e-4, "a test")


def picture(*spots: tuple[int, int], seed: int = 0) -> ByteArray:
    """A frame with a face of 8x8 px at each (left, top); what is around a face tells who it is."""
    frame: npt.NDArray[np.uint8] = np.random.default_rng(seed).integers(0, 60, (256, 256, 3), np.uint8)
    for left, top in spots:
        frame[top : top + 8, left : left + 8] = SPOT
    return frame


@pytest.fixture
def recognizer(
    spot_detector: Callable[..., FakeEngine], embedder_manifest: Callable[..., Any], tmp_path: Path
) -> Iterator[FaceRecognizer]:
    """Its embedder tells faces apart by the place of the aligned crop, which is a single point: by nothing.

    So a `tensor` of the crop is replaced by the mean level of the whole input, which `picture`'s seed changes.
    """
    random = np.random.default_rng(4).standard_normal((8, 256)).astype(np.float32)

    def respond(tensor: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        codes = tensor.reshape(len(tensor), -1).astype(np.float64).sum(axis=1).astype(np.int64) % 256
        return {"embedding": np.ascontiguousarray(random[:, codes].T)}

    detector = spot_detector()
    # Five distinct points, so that crops have a size.
    plain = detector._respond

    def with_points(tensor: npt.NDArray[np.float32]) -> Any:
        outputs = dict(plain(tensor))
        outputs["kps_8"] = np.tile(
            np.array([0, 0, 1, 0, 0.5, 0.5, 0, 1, 1, 1], np.float32), (1, outputs["cls_8"].shape[1], 1)
        )
        return outputs

    detector._respond = with_points
    embedder = Embedder(FakeEngine(embedder_manifest(), respond))
    with Gallery.open(tmp_path / "test.gallery", model_id=embedder.model_id, dimension=8) as gallery:
        yield FaceRecognizer(Detector(detector), embedder, gallery, POLICY)


def test_what_a_recogniser_is_made_of_is_printed(recognizer: FaceRecognizer) -> None:
    told = repr(recognizer)
    assert "<Detector " in told
    assert "max_side_px 640" in told
    assert "<Embedder tones@0/fp32: " in told
    assert f"<Gallery {recognizer.gallery.path}: 8-d int8 templates of tones@0/fp32>" in told
    recognizer.gallery.close()
    assert repr(recognizer) == told  # of a closed one too: it is what logs and debuggers print


def test_enrolled_people_are_recognised_and_others_are_not(recognizer: FaceRecognizer) -> None:
    ada, bob, eve = (picture((80, 96), seed=seed) for seed in (1, 2, 3))
    recognizer.enroll("ada", ada, force=True)
    person = recognizer.enroll("bob", [bob], force=True)
    (found,) = recognizer.recognize(bob)
    assert (found.name, found.person_id, found.decision) == ("bob", person.person_id, Decision.MATCH)
    assert found.similarity > 0.99
    assert found.box.tolist() == [80, 96, 88, 104]
    assert found.matches.names[0] == "bob"
    assert found.margin == pytest.approx(found.matches.margin)
    (stranger,) = recognizer.recognize(eve)
    assert (stranger.name, stranger.person_id, stranger.decision) == (None, None, Decision.UNKNOWN)
    assert len(stranger.matches) == 2  # the nearest people all the same, for callers who decide for themselves


def test_metadata_is_kept_with_the_person(recognizer: FaceRecognizer) -> None:
    photo = picture((80, 96), seed=1)
    recognizer.enroll("ada", photo, force=True, metadata={"badge": 7})
    (found,) = recognizer.recognize(photo)
    assert found.person_id is not None
    assert recognizer.gallery.person(found.person_id).metadata == {"badge": 7}
    assert recognizer.enroll("ada", photo, force=True).metadata == {"badge": 7}
    assert recognizer.enroll("ada", photo, force=True, metadata={}).metadata == {}
    with pytest.raises(InputError, match="metadata: expected a mapping"):
        recognizer.enroll("bob", picture((80, 96), seed=2), force=True, metadata={"badge": {7}})
    assert [one.name for one in recognizer.gallery.people()] == ["ada"]


def test_an_empty_gallery_knows_nobody(recognizer: FaceRecognizer) -> None:
    (found,) = recognizer.recognize(picture((80, 96)))
    assert (found.name, found.decision, found.similarity) == (None, Decision.UNKNOWN, -1.0)
    assert len(found.matches) == 0


def test_two_who_look_alike_are_ambiguous(recognizer: FaceRecognizer) -> None:
    photo = picture((80, 96), seed=1)
    recognizer.enroll("ada", photo, force=True)
    recognizer.enroll("ada's twin", photo, force=True)
    (found,) = recognizer.recognize(photo)
    assert (found.name, found.person_id, found.decision) == (None, None, Decision.AMBIGUOUS)
    assert set(found.matches.names) == {"ada", "ada's twin"}
    # Two templates of one person are not two people.
    recognizer.gallery.remove("ada's twin")
    recognizer.enroll("ada", photo, force=True)
    assert [one.name for one in recognizer.recognize(photo)] == ["ada"]


def test_all_faces_of_a_frame_go_through_the_embedder_at_once(recognizer: FaceRecognizer) -> None:
    spots = [(16 + 40 * i, 16 + 40 * j) for i in range(5) for j in range(4)]
    found = recognizer.recognize(picture(*spots))
    assert sorted((int(one.box[0]), int(one.box[1])) for one in found) == sorted(spots)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert recognizer.embedder.engine.shapes == [(20, 3, 112, 112)]  # type: ignore[attr-defined]  # a FakeEngine


def test_no_face_is_an_empty_list(recognizer: FaceRecognizer) -> None:
    assert recognizer.recognize(picture()) == []


def test_the_stages_are_timed(recognizer: FaceRecognizer) -> None:
    for frame in (picture(), picture((80, 96))):
        stages_ms: dict[str, float] = {}
        recognizer.recognize(frame, stages_ms=stages_ms)
        assert list(stages_ms) == ["detect", "align", "embed", "search"]
        assert all(value >= 0 for value in stages_ms.values())


@pytest.mark.parametrize(
    ("spots", "reason", "said"),
    [([], "no_face", "photograph 2: expected one face, got none"),
     ([(16, 16), (96, 96)], "several_faces", "photograph 2: expected one face, got 2; crop it")],
)  # fmt: skip
def test_all_photographs_are_enrolled_or_none(
    spots: list[tuple[int, int]], reason: str, said: str, recognizer: FaceRecognizer
) -> None:
    with pytest.raises(EnrolmentError, match=said) as refusal:
        recognizer.enroll("ada", [picture((80, 96)), picture(*spots)])
    assert refusal.value.reason == reason
    assert len(recognizer.gallery) == 0


@pytest.mark.parametrize("photos", [[], (), None, "photo.jpg", {"ada": 1}])
def test_what_is_no_photograph_is_refused(photos: Any, recognizer: FaceRecognizer) -> None:
    with pytest.raises(InputError, match=r"photos: expected at least one|frame: expected"):
        recognizer.enroll("ada", photos)


def test_several_photographs_are_one_person(recognizer: FaceRecognizer) -> None:
    photos = [picture((80, 96), seed=seed) for seed in range(3)]
    assert recognizer.enroll("ada", photos[:2], force=True).templates == 2
    assert recognizer.enroll("ada", (photos[2],), force=True).templates == 3
    assert [one.name for photo in photos for one in recognizer.recognize(photo)] == ["ada"] * 3


def test_verify_compares_the_subjects(recognizer: FaceRecognizer) -> None:
    one, other = picture((120, 120), seed=1), picture((120, 120), seed=2)
    same = recognizer.verify(one, one)
    assert (same.match, same.threshold, same.fmr) == (True, 0.9, 1e-4)
    assert same.similarity == pytest.approx(1, abs=1e-5)
    assert not recognizer.verify(one, other).match
    with pytest.raises(InputError, match="second photograph: expected a face, found none"):
        recognizer.verify(one, picture())
    with pytest.raises(InputError, match="first photograph: expected a face, found none"):
        recognizer.verify(picture(), one)


def test_a_gallery_of_another_model_is_refused(
    spot_detector: Callable[..., FakeEngine], tone_embedder: Callable[..., FakeEngine], tmp_path: Path
) -> None:
    embedder = Embedder(tone_embedder())
    with (
        Gallery.open(tmp_path / "other.gallery", model_id="other@1/int8", dimension=8) as gallery,
        pytest.raises(ConfigurationError, match=r"templates of other@1/int8, the embedder makes those of tones@0/fp32"),
    ):
        FaceRecognizer(Detector(spot_detector()), embedder, gallery, POLICY)


def test_closing_leaves_parts_that_the_caller_made(recognizer: FaceRecognizer) -> None:
    with recognizer:
        pass
    recognizer.close()
    assert len(recognizer.recognize(picture((80, 96)))) == 1


def test_a_model_that_is_not_there_names_the_command(empty_home: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model 'yunet' .*run `edgeface models fetch yunet`"):
        FaceRecognizer.open(tmp_path / "a.gallery")
    with pytest.raises(ModelNotFoundError, match=r"run `edgeface build yunet --precision int8 --calibration FOLDER`"):
        FaceRecognizer.open(tmp_path / "a.gallery", precision="int8")
    with pytest.raises(ModelNotFoundError, match=r"no manifest beside the model"):
        FaceRecognizer.open(tmp_path / "a.gallery", detector=tmp_path / "own.onnx")
    # Nothing was made on the way to the error.
    assert not (tmp_path / "a.gallery").exists()
    assert not empty_home.exists()


def raised(table: Thresholds, by: float) -> Thresholds:
    return replace(table, points=tuple(replace(point, similarity=point.similarity + by) for point in table.points))


TABLE = Thresholds(
    "a table", 10**7, (OperatingPoint(1e-2, 0.3, 0.99), OperatingPoint(1e-4, 0.4, 0.98), OperatingPoint(1e-6, 0.6, 0.9))
)


@pytest.mark.parametrize("asked", [{"fmr": 1e-4}, {"fpir": 1e-4}, {"fmr": 1e-4, "margin": 0.07}, {"threshold": 0.35}])
def test_the_policy_follows_the_engine_that_runs(
    asked: dict[str, Any], recognizer: FaceRecognizer, embedder_manifest: Callable[..., Any]
) -> None:
    old = embedder_manifest(thresholds=TABLE)
    held = ReloadableEngine(FakeEngine(old, lambda tensor: {}))
    embedder = Embedder(held)
    made = FaceRecognizer(recognizer.detector, embedder, recognizer.gallery, make_policy(old, **asked))
    before = made.policy
    steeper = replace(raised(TABLE, 0.1), points=(TABLE.points[0], *raised(TABLE, 0.1).points[1:]))
    held.exchange(FakeEngine(embedder_manifest(thresholds=steeper), lambda tensor: {}))
    after = made.policy
    assert after.threshold == pytest.approx(before.threshold + (0.0 if "threshold" in asked else 0.1))
    if "margin" in asked:
        assert after.margin == before.margin == 0.07
    else:
        assert after.margin == pytest.approx(before.margin + 0.05)  # the risen step is worth two factors of ten


def test_more_templates_than_the_table_supports_do_not_end_recognition(
    recognizer: FaceRecognizer, embedder_manifest: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    manifest = embedder_manifest(thresholds=TABLE)
    policy = make_policy(manifest, fpir=2e-6)  # of two templates, not of three
    embedder = Embedder(FakeEngine(manifest, recognizer.embedder.engine._respond))  # type: ignore[attr-defined]
    made = FaceRecognizer(recognizer.detector, embedder, recognizer.gallery, policy)
    photo = picture((80, 96), seed=1)
    for name in ("ada", "bob"):
        made.enroll(name, photo, force=True)
    before = made.policy
    assert before.fpir == 2e-6
    assert before.threshold == pytest.approx(0.6)
    with pytest.raises(ConfigurationError, match="higher fpir, enrol fewer templates, or measure a table of more"):
        made.enroll("eve", photo, force=True)
    recognizer.gallery.add("eve", recognizer.embedder.embed(photo, recognizer.detector.detect(photo).landmarks))
    assert len(made.recognize(photo)) == 1
    assert made.policy.threshold >= before.threshold
    assert made.policy.fmr == pytest.approx(1e-6)
    assert made.policy.fpir == pytest.approx(3e-6)
    assert "Recognition goes on" in caplog.text
    assert made.policy is made.policy  # made, and logged, once
    made.gallery.remove("eve")
    assert made.policy.fpir == 2e-6
