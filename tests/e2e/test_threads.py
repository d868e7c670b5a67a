"""Eight threads at once get what one gets: no shared buffer, no lost face."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import FaceRecognizer
from edgeface.errors import ClosedError

if TYPE_CHECKING:
    from pathlib import Path

    from edgeface.types import ByteArray


def summary(people: Any) -> list[tuple[Any, ...]]:
    return [(one.name, one.decision, one.similarity, one.box.tolist(), one.landmarks.tolist()) for one in people]


def test_eight_threads_get_what_one_gets(with_models: Path, tmp_path: Path, photos: dict[str, ByteArray]) -> None:
    # Frames of several sizes, so that a buffer that is shared between threads would be of the wrong one.
    frames = [photo[: photo.shape[0] // 32 * 32 - 32 * cut] for photo in photos.values() for cut in (0, 1)]
    with FaceRecognizer.open(tmp_path / "g", threads=1) as recognizer:
        recognizer.enroll("Emmanuel", photos["emmanuel_macron_2014"])
        recognizer.enroll("Jacinda", photos["jacinda_ardern_2018"])
        expected = [summary(recognizer.recognize(frame)) for frame in frames]
        assert sum(len(one) for one in expected) == len(frames)
        start = threading.Barrier(8, timeout=60)

        def work(seed: int) -> list[tuple[int, list[tuple[Any, ...]]]]:
            start.wait()
            order = np.random.default_rng(seed).permutation(len(frames))[:4]
            return [(int(i), summary(recognizer.recognize(frames[i]))) for i in order]

        with ThreadPoolExecutor(8) as pool:
            for results in pool.map(work, range(8)):
                for index, found in results:
                    assert found == expected[index]


def test_enrolling_while_others_recognise(with_models: Path, tmp_path: Path, photos: dict[str, ByteArray]) -> None:
    with FaceRecognizer.open(tmp_path / "g", threads=1) as recognizer:
        recognizer.enroll("Emmanuel", photos["emmanuel_macron_2014"])
        stop = threading.Event()

        def look() -> set[str | None]:
            seen: set[str | None] = set()
            while not stop.is_set():
                (person,) = recognizer.recognize(photos["jacinda_ardern_2022"])
                seen.add(person.name)
            return seen

        with ThreadPoolExecutor(4) as pool:
            looking = [pool.submit(look) for _ in range(4)]
            try:
                # One person under several names: enrolment refuses a face that it knows, unless told.
                for number in range(3):
                    recognizer.enroll(f"Rishi {number}", photos["rishi_sunak_2020"], force=True)
                recognizer.enroll("Jacinda", photos["jacinda_ardern_2018"])
            finally:
                stop.set()
            assert set().union(*(one.result(timeout=60) for one in looking)) <= {None, "Jacinda"}
        assert [one.name for one in recognizer.recognize(photos["jacinda_ardern_2022"])] == ["Jacinda"]
        assert len(recognizer.gallery) == 5


def test_closing_under_others_ends_in_closed_error(
    with_models: Path, tmp_path: Path, photos: dict[str, ByteArray]
) -> None:
    recognizer = FaceRecognizer.open(tmp_path / "g", threads=1)
    running = threading.Barrier(4, timeout=60)

    def look() -> str:
        recognizer.recognize(photos["barack_obama_2005"])
        running.wait()
        try:
            while True:
                recognizer.recognize(photos["barack_obama_2005"])
        except ClosedError:
            return "closed"

    with ThreadPoolExecutor(3) as pool:
        looking = [pool.submit(look) for _ in range(3)]
        running.wait()
        recognizer.close()
        assert [one.result(timeout=60) for one in looking] == ["closed"] * 3
