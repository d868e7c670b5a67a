"""Frames into a network's input on the GPU: the frames' memory, and the jobs of the CUDA kernels."""

from __future__ import annotations

import contextlib
import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import kernels as cpu
from edgeface._kernels_py_pixels import ROW_BITS, affine, camera_coefficients, taps
from edgeface.runtime.cuda import BUFFERS
from edgeface.runtime.cuda_kernels import ALIGN, LETTERBOX, Kernels
from edgeface.runtime.frame import Align, HeldFrame, Letterbox, Work

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeface.manifest import Manifest
    from edgeface.runtime.cuda import Buffer, Gpu, Stream

FORMATS = ("bgr", "nv12")
BLOCK = (32, 8, 1)  # a warp along a row: whole lines of memory
WEIGHT_BITS = 14


class FrameCopy:
    """A frame's copy on the GPU, in memory that a `FramePool` lends."""

    def __init__(self, pool: FramePool, buffer: Buffer) -> None:
        self._pool = pool
        self.gpu = pool.gpu
        self.address = buffer.address
        self._buffer: Buffer | None = buffer

    def release(self) -> None:
        """Give the memory back to the pool. No call of CUDA, from any thread."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._pool.give(buffer)


class FramePool:
    """Page-locked and GPU memory for frames: one piece for each frame that is held at the same time, used again.

    A piece grows when a larger frame comes; otherwise nothing is allocated once as many pieces are there as are used.
    Made and closed with the GPU's context current.
    """

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self._lock = threading.RLock()  # the garbage collector may give a frame back while this thread holds it
        self._all: list[Buffer] = []
        self._idle: list[Buffer] = []

    def upload(self, frame: HeldFrame, stream: Stream, *, memory: str) -> FrameCopy:
        """Copy a frame; the copy is whole once what was queued on the stream is done."""
        count = frame.image.size
        buffer = self._take(count, memory)
        try:
            np.copyto(buffer.host[:count].reshape(frame.image.shape), frame.image)
            buffer.upload(count, stream)
        except BaseException:
            stream.synchronize()
            self.give(buffer)
            raise
        return FrameCopy(self, buffer)

    def _take(self, count: int, memory: str) -> Buffer:
        with self._lock:
            idle = sorted((held for held in self._idle if held.kind == memory), key=lambda held: len(held.host))
            fitting = next((held for held in idle if len(held.host) >= count), None)
            if fitting is not None:
                self._idle.remove(fitting)
                return fitting
            if idle:  # the largest one is too small: make room for its successor first
                self._idle.remove(idle[-1])
                self._all.remove(idle[-1])
                idle[-1].close()
            made = BUFFERS[memory](self.gpu, count, np.uint8)
            self._all.append(made)
            return made

    def give(self, buffer: Buffer) -> None:
        """Take a piece back; nothing on the GPU may use it any more."""
        with self._lock:
            if buffer in self._all:  # otherwise the pool was closed in between
                self._idle.append(buffer)

    def close(self) -> None:
        """Free all pieces, those of frames that are still held too: nobody can run on them without the context."""
        with self._lock:
            self._idle.clear()
            while self._all:
                with contextlib.suppress(self.gpu.driver.Error):  # a lost context frees its memory by ending
                    self._all.pop().close()


class Preparer:
    """Prepares the input of one slot. Everything of a fixed size is allocated here; tables grow with the frame's size.

    Every method wants the GPU's context current.

    Args:
        gpu, kernels: of the context.
        manifest: of the network.
        largest: shape of its largest input.
        memory: ``mapped`` or ``copied``, of frames.
    """

    def __init__(
        self, gpu: Gpu, kernels: Kernels, manifest: Manifest, *, largest: tuple[int, ...], memory: str
    ) -> None:
        given = manifest.preprocessing
        self._gpu = gpu
        self._kernels = kernels
        self._frames = gpu.shared(FramePool)
        self._memory = memory
        self._letterbox: Any = np.zeros((), LETTERBOX)
        self._align: Any = np.zeros((), ALIGN)
        self._tables: Buffer | None = None
        self._key: Any = None
        self._buffers: list[Buffer] = []
        factor, summand = affine(given.mean, given.std, None)
        turned = -1 if given.color == "rgb" else 1  # the kernels want blue, green, red
        channels = (factor[::turned], summand[::turned], int(given.color == "rgb"))
        camera = (*camera_coefficients("bt601", False), 16)  # as kernels.letterbox unless told
        for job in (self._letterbox, self._align):
            job["channels"] = channels
            job["picture"]["camera"] = camera
        # Both kernels' sums have fractions; for align the kernel knows them.
        self._letterbox["channels"]["factor"] *= np.float32(2.0 ** -(WEIGHT_BITS + ROW_BITS))
        self._letterbox["pad"] = summand[::turned]  # of a grey level of 0
        if manifest.kind == "embedder":
            count, _, height, width = largest
            # Copied memory in any case: what every thread reads should be in memory that the GPU caches.
            self._matrices = self._own(BUFFERS["copied"](gpu, count * 6, np.float64))
            positions = self._own(BUFFERS["copied"](gpu, count * 2 * (height + width), np.float32))
            self._align["matrices"], self._align["positions"] = self._matrices.address, positions.address

    def _own(self, buffer: Buffer) -> Buffer:
        self._buffers.append(buffer)
        return buffer

    def prepare(self, work: Work, out: int, stream: Stream) -> None:
        """Queue what fills the tensor of `work.shape` at the device address `out`."""
        frame = work.frame
        copy = frame.copy
        if not isinstance(copy, FrameCopy) or copy.gpu is not self._gpu:
            frame.release()
            copy = frame.copy = self._frames.upload(frame, stream, memory=self._memory)
        picture = (self._letterbox if isinstance(work, Letterbox) else self._align)["picture"]
        picture["data"], picture["stride"] = copy.address, math.prod(frame.image.shape[1:])
        picture["height"], picture["width"] = frame.size
        if isinstance(work, Letterbox):
            self._run_letterbox(work, out, stream)
        else:
            self._run_align(work, out, stream)

    def _run_letterbox(self, work: Letterbox, out: int, stream: Stream) -> None:
        key = (work.frame.size, work.resized, work.canvas)
        if key != self._key:
            self._key = None  # what follows may fail half way
            self._write_tables(work, stream)
            self._key = key
        self._letterbox["out"] = out
        self._launch(f"edgeface_letterbox_{work.frame.pixel_format}", self._letterbox, work.canvas, 1, stream)

    def _write_tables(self, work: Letterbox, stream: Stream) -> None:
        """First taps and weights of every row and column, for one size of frame and of tensor."""
        job, frame, resized = self._letterbox, work.frame.size, work.resized
        first_y, weights_y = taps(frame[0], resized[0])
        first_x, weights_x = taps(frame[1], resized[1])
        parts: dict[str, npt.NDArray[Any]] = {
            "first_y": first_y.astype(np.int32), "first_x": first_x.astype(np.int32),
            "weights_y": weights_y.astype(np.int16), "weights_x": weights_x.astype(np.int16),
        }  # fmt: skip
        count = sum(part.nbytes for part in parts.values())
        if self._tables is None or len(self._tables.host) < count:
            if self._tables is not None:
                self._buffers.remove(self._tables)
                self._tables.close()
                self._tables = None
            self._tables = self._own(BUFFERS["copied"](self._gpu, count, np.uint8))
        at = 0
        for name, part in parts.items():
            self._tables.host[at : at + part.nbytes] = part.reshape(-1).view(np.uint8)
            job[name] = self._tables.address + at
            at += part.nbytes
        job["taps_y"], job["taps_x"] = weights_y.shape[1], weights_x.shape[1]
        job["height"], job["width"] = work.canvas
        job["rows"], job["columns"] = resized
        self._tables.upload(count, stream)

    def _run_align(self, work: Align, out: int, stream: Stream) -> None:
        matrices = cpu.similarity_transform(work.landmarks, work.template)
        self._matrices.host[: matrices.size] = matrices.reshape(-1)
        self._matrices.upload(matrices.size, stream)
        self._align["out"] = out
        self._align["height"], self._align["width"] = work.crop
        one_block_a_face = {"grid": (1, 1, len(work)), "block": (32, 1, 1)}
        self._kernels.launch("edgeface_align_positions", self._align, **one_block_a_face, stream=stream)
        self._launch(f"edgeface_align_{work.frame.pixel_format}", self._align, work.crop, len(work), stream)

    def _launch(self, name: str, job: Any, size: tuple[int, int], faces: int, stream: Stream) -> None:
        grid = (-(-size[1] // BLOCK[0]), -(-size[0] // BLOCK[1]), faces)
        self._kernels.launch(name, job, grid=grid, block=BLOCK, stream=stream)

    def close(self) -> None:
        while self._buffers:
            self._buffers.pop().close()
