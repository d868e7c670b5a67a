"""The native kernels let go of the GIL and keep their working memory apart from thread to thread."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface import kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FRAME = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
TEMPLATES = np.random.default_rng(1).integers(-127, 128, (150_000, 128)).astype(np.int8)
POINTS = (np.array([(38, 51), (73, 51), (56, 71), (41, 92), (70, 92)]) * 2 + 300).astype(np.float32)[None].repeat(16, 0)


def letterbox(times: int) -> None:
    out = np.empty((3, 640, 640), np.float32)
    for _ in range(times):
        kernels.letterbox(FRAME, out, resized=(360, 640))


def align(times: int) -> None:
    out = np.empty((16, 3, 112, 112), np.float32)
    for _ in range(times):
        kernels.align(FRAME, POINTS, POINTS[0] / 3, out)


def scan(times: int) -> None:
    for _ in range(times):
        kernels.scan_int8(TEMPLATES, TEMPLATES[:1], 5)


def hold(times: int) -> None:
    """Work of about the same time that keeps the GIL."""
    for _ in range(times):
        sum(range(100_000))


@pytest.mark.skipif(kernels.IMPLEMENTATION != "native", reason="only the native side lets go of the GIL")
@pytest.mark.parametrize(("work", "lets_go"), [(letterbox, True), (align, True), (scan, True), (hold, False)])
def test_the_gil_is_let_go(work: Callable[[int], None], lets_go: bool, slow_switching: None) -> None:
    """Another thread runs while a kernel works. Nothing here is a matter of time: no thread is made to give up the GIL,
    so it runs only where the kernel lets go of it. How much faster two threads are tells `edgeface bench threads`.
    """
    inside = threading.Event()

    def worker() -> None:
        inside.set()
        work(100)
        inside.clear()

    thread = threading.Thread(target=worker)
    thread.start()
    ran = 0
    while thread.is_alive():
        ran += inside.is_set()
        time.sleep(0)  # gives the GIL back to the worker, which wants it after each call
    assert (ran > 0) == lets_go


@pytest.fixture
def slow_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def test_threads_do_not_disturb_one_another() -> None:
    """Four threads, different sizes and formats at once: every result as if alone."""
    rng = np.random.default_rng(2)
    jobs: list[tuple[Any, tuple[int, int], str]] = [
        (FRAME, (90, 160), "bgr"),
        (rng.integers(0, 256, (300, 400), np.uint8), (333, 97), "gray"),
        (rng.integers(0, 256, (540, 640), np.uint8), (200, 320), "nv12"),
        (rng.integers(0, 256, (77, 33, 4), np.uint8), (200, 150), "bgra"),
    ]

    def run(frame: Any, resized: tuple[int, int], pixel_format: str) -> Any:
        out = np.empty((3, 400, 400), np.float32)
        kernels.letterbox(frame, out, resized=resized, pixel_format=pixel_format)
        return out

    alone = [run(*job) for job in jobs]
    wrong: list[int] = []

    def check(number: int) -> None:
        for turn in range(25):
            index = (number + turn) % len(jobs)
            if not np.array_equal(run(*jobs[index]), alone[index]):
                wrong.append(index)

    threads = [threading.Thread(target=check, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
