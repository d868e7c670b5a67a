"""The pipeline over many photographs: resumed with the identical result, damaged files reported."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface import Detector, Embedder
from edgeface.engines import embed_photos as module
from edgeface.engines.embed_photos import STAGES, embed_photos
from edgeface.errors import InferenceError
from edgeface.tools.demo import demo_photo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeface.runtime.fake import FakeEngine
    from edgeface.types import FloatArray


@pytest.fixture
def parts(
    spot_detector: Callable[..., FakeEngine], tone_embedder: Callable[..., FakeEngine], empty_home: Path
) -> tuple[Detector, Embedder]:
    return Detector(spot_detector(), max_side_px=160), Embedder(tone_embedder())


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for number, name in enumerate(("barack_obama_2005", "emmanuel_macron_2025", "rishi_sunak_2020")):
        path = tmp_path / f"{number}.jpg"
        shutil.copy(demo_photo(f"{name}.jpg"), path)
        paths.append(path)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    return [paths[0], tmp_path / "broken.jpg", paths[1], tmp_path / "absent.jpg", paths[2]]


def test_photographs_that_fail_are_reported_and_the_rest_goes_on(
    parts: tuple[Detector, Embedder], files: list[Path], empty_home: Path
) -> None:
    steps: list[int] = []
    done = embed_photos(files, *parts, progress=steps.append)
    assert done.detected.tolist() == [True, False, True, False, True]
    assert np.allclose(np.linalg.norm(done.embeddings, axis=1), [1, 0, 1, 0, 1], atol=1e-5)
    assert sorted(done.errors) == sorted(map(str, (files[1], files[3])))
    assert steps == [1, 2, 3, 4, 5]
    assert done.stages_ms.shape == (5, len(STAGES))
    assert np.isnan(done.stages_ms).all(axis=1).tolist() == [False, True, False, True, False]
    assert not any(empty_home.rglob("*.npz"))  # a finished run leaves nothing behind


@pytest.mark.parametrize("stage", ["detect", "embed"])
def test_a_photograph_on_which_the_runtime_fails_is_reported_and_the_rest_goes_on(
    stage: str, parts: tuple[Detector, Embedder], files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = parts[0].engine if stage == "detect" else parts[1].engine
    run, calls = engine.run, 0

    def failing(tensor: FloatArray) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # of the three photographs that are readable
            raise InferenceError("the device is busy")
        return run(tensor)

    monkeypatch.setattr(engine, "run", failing)
    done = embed_photos(files, *parts)
    assert done.detected.tolist() == [True, False, False, False, True]
    assert done.errors[str(files[2])] == "the device is busy"
    assert not done.embeddings[2].any()
    assert np.isnan(done.stages_ms[2]).all()


@pytest.fixture
def interrupted(parts: tuple[Detector, Embedder], files: list[Path], empty_home: Path) -> Callable[[int], Path]:
    """Starts a run, stops it after some photographs and gives its checkpoint."""

    def stop(after: int) -> Path:
        def progress(done: int) -> None:
            if done == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            embed_photos(files, *parts, progress=progress)
        (checkpoint,) = (empty_home / "unfinished").iterdir()
        return checkpoint

    return stop


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_resumed_run_gives_the_identical_result(
    after: int, parts: tuple[Detector, Embedder], files: list[Path], interrupted: Callable[[int], Path]
) -> None:
    whole = embed_photos(files, *parts)
    checkpoint = interrupted(after)
    assert checkpoint.stat().st_mode & 0o777 == 0o600  # templates are personal data
    steps: list[int] = []
    resumed = embed_photos(files, *parts, progress=steps.append)
    assert steps == list(range(after + 1, 6))
    assert np.array_equal(resumed.embeddings, whole.embeddings)
    assert np.array_equal(resumed.detected, whole.detected)
    assert resumed.errors == whole.errors
    assert np.array_equal(np.isnan(resumed.stages_ms), np.isnan(whole.stages_ms))
    assert not checkpoint.exists()


def count_done(files: list[Path], parts: tuple[Detector, Embedder], **options: Any) -> int:
    steps: list[int] = []
    embed_photos(files, *parts, progress=steps.append, **options)
    return len(steps)


def test_what_changed_is_not_resumed(
    parts: tuple[Detector, Embedder],
    files: list[Path],
    interrupted: Callable[[int], Path],
    spot_detector: Callable[..., FakeEngine],
    tone_embedder: Callable[..., FakeEngine],
) -> None:
    interrupted(3)
    others = [
        (files, (Detector(spot_detector(), max_side_px=128), parts[1])),
        (files, (Detector(spot_detector(), max_side_px=160, min_score=0.6), parts[1])),
        (files, (parts[0], Embedder(tone_embedder(sha256="1" * 64)))),
        (files[::-1], parts),
    ]
    for photos, pair in others:
        assert count_done(photos, pair) == 5
    files[0].touch()
    assert count_done(files, parts) == 5


def test_fresh_starts_anew(
    parts: tuple[Detector, Embedder], files: list[Path], interrupted: Callable[[int], Path]
) -> None:
    interrupted(3)
    assert count_done(files, parts, resume=False) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "no zip", "another"])
def test_a_damaged_checkpoint_is_as_good_as_none(
    damage: str, parts: tuple[Detector, Embedder], files: list[Path], interrupted: Callable[[int], Path]
) -> None:
    checkpoint = interrupted(3)
    content = checkpoint.read_bytes()
    middle = len(content) // 2
    changed = {
        "cut": content[:middle],
        "empty": b"",
        "noise": content[: middle - 50] + bytes(100) + content[middle + 50 :],
        "no zip": b"\x93NUMPY" + bytes(50),
    }
    if damage == "another":
        np.savez(checkpoint, done=np.array(9), embeddings=np.zeros((9, 8)), detected=np.zeros(9), stages_ms=np.zeros(9),
                 errors=np.array(["x"]))  # fmt: skip
    else:
        checkpoint.write_bytes(changed[damage])
    done = embed_photos(files, *parts)
    assert done.detected.tolist() == [True, False, True, False, True]


def test_a_disk_that_is_full_ends_checkpoints_not_the_run(
    parts: tuple[Detector, Embedder],
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(module, "write_atomically", full)
    assert embed_photos(files, *parts).detected.sum() == 3
    assert "No space left on device" in caplog.text
    assert "cannot be resumed" in caplog.text
