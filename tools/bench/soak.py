"""The loop for an hour, compressed: memory after warm-up and at the end, a camera lost and back, callbacks that crash.

Frames are small and come as fast as they are taken, so that 100,000 of them take minutes. Peak memory counts what the
whole process holds; a leak of one frame in a thousand would show.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface.tools.bench.harness import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeface.types import ByteArray

TITLE = "the recognition loop, soaked"
OPTIONS = [
    click.Option(["--frames"], type=click.IntRange(1000), default=100_000, show_default=True),
    click.Option(["--losses"], type=click.IntRange(0), default=100, show_default=True,
                 help="How often the camera is lost and comes back."),
]  # fmt: skip
SIZE, FACES = (240, 320), 2
CLIP_FRAMES = 300
CRASH_EVERY = 7  # of the events one in so many makes the callback crash


def rows(*, frames: int, losses: int) -> Iterator[Row]:
    """One row: median latency, and how memory, losses and crashes went."""
    from edgeface import FaceRecognizer
    from edgeface.engines.recipe import load_recipe
    from edgeface.photos import read_photo
    from edgeface.tools.bench.stream import ComposedStream, cut_out
    from edgeface.tools.demo import ENROL, PROBES, demo_photo
    from edgeface.tools.models import DEFAULT, ensure_models
    from edgeface.video import EventKind, RecognitionLoop
    from edgeface.video import capture as capturing
    from edgeface.video.capture import CaptureSource

    ensure_models([load_recipe(name) for name in DEFAULT])
    with (
        tempfile.TemporaryDirectory(prefix="edgeface-soak-") as folder,
        FaceRecognizer.open(Path(folder) / "soak.gallery", threads=1) as recognizer,
    ):
        for name, photos in ENROL.items():
            recognizer.enroll(name, [read_photo(demo_photo(photo)) for photo in photos])
        heads = [cut_out(photo, read_photo(demo_photo(photo)), recognizer.detector) for photo in PROBES]
        stream = ComposedStream([head for head in heads if head], size=SIZE, faces=FACES, frames=CLIP_FRAMES, seed=1)
        clip = [image for image, _ in stream]
        capturing.FIRST_WAIT_S = 0.001  # the waits between attempts are not what is measured here
        camera = Camera(clip, frames, losses)
        # The first batch of two takes onnxruntime's memory up by 13 MB, once, in whichever frame it comes.
        recognizer.embedder.run(np.zeros((FACES, 3, 112, 112), np.float32))
        loop = RecognitionLoop(recognizer, budget_ms=100)
        heard: dict[str, int] = {}

        def callback(event: Any) -> None:
            heard[str(event.kind)] = heard.get(str(event.kind), 0) + 1
            if sum(heard.values()) % CRASH_EVERY == 0:
                raise RuntimeError("a callback that crashes on purpose")

        loop.on(callback)
        memory: list[float] = []
        latencies = np.full(frames, np.nan)  # touched at once: a list that grows would look like a leak of the loop
        done = 0
        disk = disk_kb(folder)
        source = CaptureSource(camera.open, name="soak", retry_for_s=2.0)
        camera.taken = source
        start = time.perf_counter()
        reported = 0
        for result in loop.run(source):
            reported += sum(event.kind is EventKind.CALLBACK_FAILED for event in result.events)
            if result.number >= 0:
                latencies[done] = result.latency_ms
                done += 1
                if done % max(1, frames // 50) == 0:
                    memory.append(resident_mb())
        seconds = time.perf_counter() - start
        disk = disk_kb(folder) - disk
    latencies = latencies[:done]
    warm, late = float(np.median(memory[4:9])), float(np.median(memory[-5:]))
    said = (
        f"{done} frames in {seconds:.0f} s; memory {warm:.1f} MB after warm-up, {late:.1f} MB at the end; "
        f"disk {disk:+.0f} kB; "
        f"camera lost {heard.get('source_lost', 0)} and back {heard.get('source_back', 0)} times; "
        f"{loop.counts.callback_failures} callbacks crashed, {reported} reported in results"
    )
    yield Row(f"{frames} frames, {SIZE[1]}x{SIZE[0]}, {FACES} faces", float(np.median(latencies)), "", None, None, None,
              said, {"growth_mb": late - warm, "p99_ms": float(np.percentile(latencies, 99))})  # fmt: skip


class Camera:
    """A camera that is played: every frame waits until it was taken, and every so often the camera fails.

    Args:
        clip: its frames, played forwards and backwards.
        frames: how many it gives in all.
        losses: how often it fails meanwhile; each time it can be opened again.
    """

    def __init__(self, clip: list[ByteArray], frames: int, losses: int) -> None:
        self.taken: Any = None
        self._clip = clip
        self._left = frames
        self._every = frames // (losses + 1) if losses else frames
        self._given = 0
        self._failed_at = 0

    def open(self) -> Camera:
        return self

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self._left > 0

    def read(self, image: Any = None) -> tuple[bool, Any]:
        if self._left <= 0:
            return False, None
        if self._given and self._given % self._every == 0 and self._given != self._failed_at:
            self._failed_at = self._given
            return False, None
        while self.taken is None or self.taken.waiting:
            time.sleep(0.0002)
        index = self._given % (2 * len(self._clip))
        frame = self._clip[index if index < len(self._clip) else 2 * len(self._clip) - 1 - index]
        self._given += 1
        self._left -= 1
        target = np.empty_like(frame) if image is None else image
        np.copyto(target, frame)
        return True, target

    def release(self) -> None:
        """Nothing to give back."""


def disk_kb(folder: str) -> float:
    """What the files of a folder take."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e3


def resident_mb() -> float:
    """Memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
