"""The CUDA kernels on this machine's GPU against the CPU's kernels, and against what the GPU's memory allows.

"kernel" is one of many launches in a row on a frame that is on the GPU already; "frame" sends the frame first and
waits for the tensor, as a run of an engine does. The limit is reading the frame and writing the tensor once, at the
speed of a copy inside the GPU's memory. Needs an NVIDIA GPU, pycuda and the kernels; the log of a run belongs into
docs/gpu/.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface.manifest import ARCFACE_112, Manifest, Preprocessing
from edgeface.runtime.frame import Align, HeldFrame, Letterbox
from edgeface.tools.bench.harness import Row, measure, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeface.runtime.cuda import Gpu, Stream
    from edgeface.runtime.frame import Work

TITLE = "the CUDA kernels on this GPU"
OPTIONS = [
    click.Option(["--frame-size"], nargs=2, type=click.IntRange(32, 8192), default=(1080, 1920), show_default=True,
                 help="Height and width of the frame in pixels."),
    click.Option(["--memory"], type=click.Choice(["copied", "mapped"]), default="copied", show_default=True,
                 help="How frames cross to the GPU."),
    click.Option(["--seconds"], type=float, default=1.5, show_default=True, help="Time for each row."),
]  # fmt: skip
QUEUED = 50  # launches between two waits: a wait costs more than a kernel
FACES = (1, 4, 16)
ROOM = (640, 640)
TEMPLATE = np.array(ARCFACE_112, np.float32)


def rows(*, frame_size: tuple[int, int], memory: str, seconds: float) -> Iterator[Row]:
    """Letterbox of both formats, then align of 1, 4 and 16 faces."""
    from edgeface.runtime.cuda import Stream, acquire_gpu, release_gpu
    from edgeface.runtime.cuda_kernels import kernel_facts

    gpu = acquire_gpu()
    try:
        facts = gpu.facts
        click.echo(
            f"{facts.name}, compute capability {facts.compute_capability}, {facts.memory_mb} MB, driver for CUDA "
            f"{facts.driver}; kernels by {kernel_facts().says}; {memory} memory",
            err=True,  # standard output may be JSON
        )
        with gpu:
            stream = Stream(gpu)
            try:
                yield from _rows(gpu, stream, (frame_size[0] & ~1, frame_size[1] & ~1), memory, seconds)
            finally:
                stream.synchronize()
                stream.close()
    finally:
        release_gpu(gpu)


def _rows(gpu: Gpu, stream: Stream, size: tuple[int, int], memory: str, seconds: float) -> Iterator[Row]:
    random = np.random.default_rng(0)
    speed = _copy_speed(gpu, stream, 3 * size[0] * size[1])
    for pixel_format, shape in (("bgr", (*size, 3)), ("nv12", (size[0] * 3 // 2, size[1]))):
        frame = HeldFrame(random.integers(0, 256, shape, np.uint8), pixel_format=pixel_format)
        works: list[tuple[str, Work]] = [("letterbox", Letterbox.fit(frame, room=ROOM, fixed=False))]
        for count in FACES:
            shift = random.uniform(0, [max(size[1] - 250, 1), max(size[0] - 250, 1)], (count, 1, 2))
            landmarks = (TEMPLATE * 2 + shift).astype(np.float32)
            works.append((f"align {count} faces", Align(frame, landmarks, TEMPLATE, (112, 112))))
        for name, work in works:
            with frame:
                yield from _work_rows(gpu, stream, f"{name}, {pixel_format}", work, memory, speed, seconds)


def _work_rows(
    gpu: Gpu, stream: Stream, name: str, work: Work, memory: str, speed: float, seconds: float
) -> Iterator[Row]:
    from edgeface.runtime.cuda import BUFFERS
    from edgeface.runtime.cuda_kernels import Kernels
    from edgeface.runtime.preparer import Preparer

    manifest = _manifest("detector" if isinstance(work, Letterbox) else "embedder")
    count = math.prod(work.shape)
    out = BUFFERS["copied"](gpu, count)
    preparer = Preparer(gpu, gpu.shared(Kernels), manifest, largest=work.shape, memory=memory)
    tensor = np.empty(work.shape, np.float32)

    def queued() -> None:
        for _ in range(QUEUED):
            preparer.prepare(work, out.address, stream)
        stream.synchronize()

    def whole() -> None:
        work.frame.release()
        preparer.prepare(work, out.address, stream)
        stream.synchronize()

    def on_cpu() -> None:
        work.fill(tensor, manifest.preprocessing)

    try:
        on_cpu()
        whole()
        out.download(count, stream)
        stream.synchronize()
        apart = float(np.abs(out.host.reshape(work.shape) - tensor).max())
        said = "equal in every bit" if apart == 0 else f"AT MOST {apart:.3g} GREY LEVELS APART"
        peer = "edgeface on the CPU"
        fast = measure(f"{name}: kernel", queued, on_cpu, peer_name=peer, correctness=said, seconds=seconds)
        each = fast.ours_ms / QUEUED
        # Of each pixel of a crop, a third of `count`: four neighbours of three bytes.
        read = work.frame.image.nbytes if isinstance(work, Letterbox) else 4 * count
        limit = (read + 4 * count) / speed
        yield dataclasses.replace(
            fast, ours_ms=each, ratio=None if fast.ratio is None else fast.ratio * QUEUED,
            extra={"limit_ms": limit, "times_the_limit": each / limit},
        )  # fmt: skip
        yield measure(f"{name}: frame", whole, on_cpu, peer_name=peer, correctness=said, seconds=seconds)
    finally:
        stream.synchronize()
        preparer.close()
        out.close()


def _copy_speed(gpu: Gpu, stream: Stream, size: int) -> float:
    """Bytes a millisecond, read and written, of a copy inside the GPU's memory."""
    from edgeface.runtime.cuda import BUFFERS

    one, other = (BUFFERS["copied"](gpu, size, np.uint8) for _ in range(2))

    def copies() -> None:
        for _ in range(QUEUED):
            gpu.driver.memcpy_dtod_async(other.address, one.address, size, stream.raw)
        stream.synchronize()

    try:
        copies()
        return 2 * size * QUEUED / min(milliseconds(copies) for _ in range(5))
    finally:
        one.close()
        other.close()


def _manifest(kind: Any) -> Manifest:
    return Manifest(
        name=kind, model_id="bench@0/fp32", file="none", sha256="0" * 64, size=1, kind=kind, precision="fp32",
        runtime="tensorrt", licence="none", source="a benchmark", input_name="data", input_size=None, max_batch=None,
        preprocessing=Preprocessing("rgb"), outputs={}, dimension=2, template=ARCFACE_112,
    )  # fmt: skip
