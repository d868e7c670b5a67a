"""The native kernels on two threads against the same work done twice on one: they let go of the GIL."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from edgeface import kernels
from edgeface.manifest import ARCFACE_112
from edgeface.tools.bench.harness import Row, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import click

TITLE = "native kernels on two threads"
OPTIONS: list[click.Option] = []
THREADS = 2
TARGET = 1.54  # 1 / 0.65: two threads end in under 0.65 of the serial time


def rows() -> Iterator[Row]:
    """Letterbox, align and scan, and a loop of Python, which shows what holding the GIL looks like."""
    frame = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    template = np.array(ARCFACE_112)
    faces = (template * 2 + 300).astype(np.float32)[None].repeat(16, 0)
    templates = np.random.default_rng(1).integers(-127, 128, (150_000, 128)).astype(np.int8)

    def letterbox() -> None:
        out = np.empty((3, 640, 640), np.float32)
        for _ in range(100):
            kernels.letterbox(frame, out, resized=(360, 640))

    def align() -> None:
        out = np.empty((16, 3, 112, 112), np.float32)
        for _ in range(100):
            kernels.align(frame, faces, template, out)

    def scan() -> None:
        for _ in range(100):
            kernels.scan_int8(templates, templates[:1], 5)

    yield _row("letterbox 1080p BGR, 100 times", letterbox, TARGET)
    yield _row("align 16 faces, 100 times", align, TARGET)
    yield _row("int8 scan of 150,000 rows, 100 times", scan, TARGET)
    yield _row("a sum in Python, which holds the GIL", lambda: sum(range(3_000_000)), None)


def _row(name: str, work: Callable[[], object], target: float | None) -> Row:
    def together() -> None:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def serial() -> None:
        work()
        work()

    return measure(
        f"two threads: {name}", together, serial, peer_name="one after the other", target=target,
        correctness="the tests compare what threads make", seconds=5,
    )  # fmt: skip
