"""The CUDA kernels on a real GPU: the CPU's tensors, no leak, and the benchmark that times them. `pytest -m gpu`."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from edgeface.manifest import ARCFACE_112, Manifest, Preprocessing
from edgeface.runtime.cuda import BUFFERS, Gpu, Stream
from edgeface.runtime.cuda_kernels import Kernels, kernel_facts
from edgeface.runtime.frame import Align, HeldFrame, Letterbox, Work
from edgeface.runtime.preparer import FramePool, Preparer
from edgeface.tools.bench.cuda import _manifest, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.gpu

TEMPLATE = np.array(ARCFACE_112, np.float32)
#: Sizes of a phone's and a camera's frames, odd ones, and the smallest and flattest that are allowed.
SIZES = ((1080, 1920), (720, 1280), (481, 641), (33, 8191), (3000, 40), (32, 32), (640, 640), (2160, 3840))


@pytest.fixture
def stream(gpu: Gpu) -> Iterator[Stream]:
    facts = kernel_facts()
    if not facts.built:
        pytest.skip(f"there are no CUDA kernels: {facts.says}")
    with gpu:
        made = Stream(gpu)
        yield made
        made.synchronize()
        made.close()


def frame_of(size: tuple[int, int], pixel_format: str) -> HeldFrame:
    random = np.random.default_rng(math.prod(size))
    height, width = size
    if pixel_format == "nv12":
        height, width = height & ~1, width & ~1
        return HeldFrame(random.integers(0, 256, (height * 3 // 2, width), np.uint8), pixel_format="nv12")
    return HeldFrame(random.integers(0, 256, (height, width, 3), np.uint8))


def works_of(frame: HeldFrame) -> list[Work]:
    """Several letterboxes, and faces inside, half outside, far outside, tiny, huge and without extent."""
    height, width = frame.size
    random = np.random.default_rng(1)
    scales = np.array([0.5, 1, 3, 20, 1e-3, 0, 1, 1])[:, None, None]
    shifts = random.uniform(-60, [width, height], (8, 1, 2))
    shifts[6], shifts[7] = (-40, -40), (1e6, 0)
    noise = random.normal(0, 2, (8, 5, 2)) * np.minimum(scales, 1)
    faces = Align(frame, (TEMPLATE * scales + shifts + noise).astype(np.float32), TEMPLATE, (112, 112))
    rooms = ((640, 640), (320, 320))
    boxes = [Letterbox.fit(frame, room=room, fixed=fixed) for room in rooms for fixed in (False, True)]
    return [*boxes, faces, faces[2:3]]


def apart(gpu: Gpu, stream: Stream, work: Work, given: Preprocessing, memory: str) -> float:
    """Largest difference between GPU and CPU, in grey levels."""
    kind = "detector" if isinstance(work, Letterbox) else "embedder"
    manifest: Manifest = dataclasses.replace(_manifest(kind), preprocessing=given)
    out = BUFFERS["copied"](gpu, math.prod(work.shape))
    preparer = Preparer(gpu, gpu.shared(Kernels), manifest, largest=work.shape, memory=memory)
    try:
        preparer.prepare(work, out.address, stream)
        out.download(math.prod(work.shape), stream)
        stream.synchronize()
        tensor = np.empty(work.shape, np.float32)
        work.fill(tensor, given)
        spread = np.array(given.std, np.float32)[:, None, None]
        return float((np.abs(out.host.reshape(work.shape) - tensor) * spread).max())
    finally:
        stream.synchronize()
        preparer.close()
        out.close()


@pytest.mark.parametrize("memory", sorted(BUFFERS))
@pytest.mark.parametrize("pixel_format", ["bgr", "nv12"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_gpu_makes_the_cpus_tensors(
    gpu: Gpu, stream: Stream, size: tuple[int, int], pixel_format: str, memory: str
) -> None:
    """The specification allows one grey level; integers and unfused arithmetic leave nothing to differ by."""
    frame = frame_of(size, pixel_format)
    colors: tuple[Literal["rgb"], Literal["bgr"]] = ("rgb", "bgr")
    for color in colors:
        given = Preprocessing(color, mean=(127.5, 100.0, 50.25), std=(128.0, 58.5, 1.0))
        with frame:
            for work in works_of(frame):
                assert apart(gpu, stream, work, given, memory) == 0.0


def test_5000_frames_take_no_more_memory(gpu: Gpu, stream: Stream, slack_bytes: int) -> None:
    frames = [frame_of(size, pixel_format) for size in SIZES[:3] for pixel_format in ("bgr", "nv12")]
    works = [Letterbox.fit(frame, room=(640, 640), fixed=True) for frame in frames]
    out = BUFFERS["copied"](gpu, math.prod(works[0].shape))
    preparer = Preparer(gpu, gpu.shared(Kernels), _manifest("detector"), largest=works[0].shape, memory="copied")
    for number in range(5_000):
        with frames[number % len(frames)]:
            preparer.prepare(works[number % len(frames)], out.address, stream)
            stream.synchronize()
        if number == 10:
            free_before = gpu.driver.mem_get_info()[0]
    assert free_before - gpu.driver.mem_get_info()[0] < slack_bytes
    pool: Any = gpu.shared(FramePool)
    assert len(pool._all) == 1
    preparer.close()
    out.close()


def test_the_benchmark_finds_no_difference(gpu: Gpu) -> None:
    """`edgeface bench cuda` prints what docs/gpu/ keeps; here only that its rows are whole. Times are for people."""
    found = list(rows(frame_size=(1080, 1920), memory="copied", seconds=0.2))
    for row in found:
        print(f"{row.name}: {row.ours_ms:.4f} ms, CPU {row.peer_ms:.4f} ms, {row.correctness}, {row.extra}")
    assert {row.correctness for row in found} == {"equal in every bit"}
