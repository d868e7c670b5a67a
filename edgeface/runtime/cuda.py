"""The GPU's primary context, streams and buffers, through pycuda: the only module that imports it.

What pycuda's objects demand, and this module keeps (read from pycuda 2026.1's source, `src/cpp/cuda.hpp`):
an allocation or stream is freed only while the very context object that made it is current in the freeing thread,
otherwise it leaks with a line on standard error; and a context detached from a thread in which it is not current
stays retained for good.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from edgeface.errors import EngineError, InferenceError, MissingDependencyError

if TYPE_CHECKING:
    from types import TracebackType

    import numpy.typing as npt

T = TypeVar("T")

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: work of others on the legacy default stream does not serialise ours


@dataclass(frozen=True)
class GpuFacts:
    """What the driver says about the GPU.

    Attributes:
        name: such as ``Orin``.
        compute_capability: such as ``8.7``.
        integrated: it shares its memory with the processor, as on every Jetson.
        memory_mb: of the device.
        driver: newest CUDA version that the driver supports, such as ``12.6``.
    """

    name: str
    compute_capability: str
    integrated: bool
    memory_mb: int
    driver: str


def import_pycuda() -> Any:
    """The module `pycuda.driver`, initialised.

    Raises:
        MissingDependencyError: pycuda is not installed, or there is no NVIDIA driver or no GPU.
    """
    try:
        driver = importlib.import_module("pycuda.driver")
    except ImportError as error:
        cause = (
            "pycuda is not installed; on a Jetson run `jetson/setup.sh`, elsewhere `pip install pycuda`"
            if isinstance(error, ModuleNotFoundError)
            else "pycuda does not find the NVIDIA driver (libcuda.so.1); TensorRT engines need an NVIDIA GPU"
        )
        raise MissingDependencyError(f"{cause} ({error})") from error
    try:
        driver.init()
        count = driver.Device.count()
    except driver.Error as error:
        raise MissingDependencyError(f"the NVIDIA driver finds no GPU that works: {error}") from error
    if count < 1:
        raise MissingDependencyError("the NVIDIA driver finds no GPU; is CUDA_VISIBLE_DEVICES set to hide it?")
    return driver


def gpu_facts(driver: Any) -> GpuFacts:
    """Facts of GPU 0; needs no context."""
    device = driver.Device(0)
    major, minor = device.compute_capability()
    version = int(driver.get_driver_version())  # 12060 is CUDA 12.6
    return GpuFacts(
        name=str(device.name()),
        compute_capability=f"{major}.{minor}",
        integrated=bool(device.get_attribute(driver.device_attribute.INTEGRATED)),
        memory_mb=int(device.total_memory()) >> 20,
        driver=f"{version // 1000}.{version % 1000 // 10}",
    )


class Gpu:
    """The primary context of GPU 0. ``with gpu:`` makes it current in the calling thread, and may be nested.

    Engines share one: `acquire_gpu` and `release_gpu` count them. CUDA_VISIBLE_DEVICES chooses which GPU is number 0.

    Attributes:
        driver: the module `pycuda.driver`.
        facts: of the device.
        lost: why the context can no longer be used (an error that CUDA repeats on every call), or None.
    """

    def __init__(self) -> None:
        self.driver = import_pycuda()
        self.facts = gpu_facts(self.driver)
        self.lost: str | None = None
        self.users = 0
        self.forked = False
        self._owned: dict[Any, Any] = {}
        try:
            self._context: Any = self.driver.Device(0).retain_primary_context()
        except self.driver.Error as error:
            raise EngineError(f"cannot open the GPU {self.facts.name}: {explain(error)}") from error

    def refuse_after_fork(self) -> None:
        """Raises EngineError in a process that was forked after the GPU was opened."""
        if self.forked:
            raise EngineError(
                "this process was forked from one that used the GPU, and CUDA does not survive fork; start worker "
                "processes with the 'spawn' method, or open the engines after forking"
            )

    def __enter__(self) -> Gpu:
        self.refuse_after_fork()
        self._context.push()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._context.pop()
        except self.driver.Error as failure:
            # The driver may report an earlier error here. Pycuda ends the process when a thread ends with a context
            # on its stack, so the context must come off all the same; the error counts as a lost context.
            self.lost = self.lost or explain(failure)
            self._context.pop()

    def still_works(self) -> bool:
        """Whether CUDA answers after an error. An error that it repeats on every call marks the context lost."""
        if self.lost is None:
            try:
                with self:
                    self.driver.Context.synchronize()
            except self.driver.Error as error:
                self.lost = explain(error)
        return self.lost is None

    def shared(self, make: Callable[[Gpu], T]) -> T:
        """What `make` gives for this context: made once, with the context current, and closed before its release."""
        with _lock:
            if make not in self._owned:
                self._owned[make] = make(self)
            made: T = self._owned[make]
            return made

    def detach(self) -> None:
        """Release the primary context. Done once, by `release_gpu`."""
        try:
            # cuDevicePrimaryCtxRelease leaves the released context on the calling thread's stack of contexts, where
            # it would be current for whatever this thread does next. So the thread that releases ends with it.
            in_short_thread(self._push_and_detach)
        except RuntimeError:  # no thread can be started any more: the interpreter is exiting
            self._push_and_detach()

    def _push_and_detach(self) -> None:
        with contextlib.suppress(self.driver.Error):  # a lost context may refuse; releasing it is wanted even so
            self._context.push()
        while self._owned:
            with contextlib.suppress(self.driver.Error):
                self._owned.popitem()[1].close()
        self._context.detach()


def in_short_thread(work: Callable[[], T]) -> T:
    """Do `work` in a thread of its own and give what it gave."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            failures.append(error)

    thread = threading.Thread(target=run, name="edgeface-cuda", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def explain(error: BaseException) -> str:
    """The CUDA call and its failure: pycuda words them as ``cuMemAlloc failed: out of memory``."""
    call, failed, why = str(error).partition(" failed: ")
    return f"CUDA call {call} failed: {why}" if failed else f"CUDA failed: {error}"


_lock = threading.RLock()  # the garbage collector may close an engine while this thread holds it
_shared: Gpu | None = None


def acquire_gpu() -> Gpu:
    """The process's `Gpu`, opened for the first engine.

    Raises:
        MissingDependencyError: no pycuda, driver or GPU.
        EngineError: the context is lost and engines on it are still open, or the process was forked.
    """
    global _shared
    with _lock:
        if _shared is None:
            _shared = Gpu()
        _shared.refuse_after_fork()
        if _shared.lost is not None:
            raise EngineError(
                f"the GPU's context was lost ({_shared.lost}) and {_shared.users} engine(s) on it are still open; "
                "close them all, then load engines again"
            )
        _shared.users += 1
        return _shared


def release_gpu(gpu: Gpu) -> None:
    """Give back what `acquire_gpu` gave; the last one releases the primary context."""
    global _shared
    with _lock:
        gpu.users -= 1
        if gpu.users > 0:
            return
        if _shared is gpu:
            _shared = None
        if not gpu.forked:
            gpu.detach()


def _after_fork_in_child() -> None:
    if _shared is not None:
        _shared.forked = True


os.register_at_fork(after_in_child=_after_fork_in_child)


class Stream:
    """A CUDA stream. Made and closed with the GPU's context current."""

    def __init__(self, gpu: Gpu) -> None:
        self._stream: Any = gpu.driver.Stream(NON_BLOCKING)
        self.handle = int(self._stream.handle)

    @property
    def raw(self) -> Any:
        return self._stream

    def synchronize(self) -> None:
        """Wait for all that was queued; other Python threads run meanwhile."""
        self._stream.synchronize()

    def close(self) -> None:
        self._stream = None  # pycuda destroys it with its last reference


class CopiedBuffer:
    """Page-locked host memory and device memory of the same size, with copies between them.

    Attributes:
        host: (N,), page-locked, so that copies run beside the processor.
        address: of the device memory.
    """

    kind = "copied"

    def __init__(self, gpu: Gpu, count: int, dtype: npt.DTypeLike = np.float32) -> None:
        self._driver = gpu.driver
        self.host: npt.NDArray[Any] = gpu.driver.pagelocked_empty(count, dtype)
        try:
            self._device: Any = gpu.driver.mem_alloc(self.host.nbytes)
        except BaseException:
            self._free_host()
            raise
        self.address = int(self._device)

    def upload(self, count: int, stream: Stream) -> None:
        """Queue the copy of the first `count` numbers to the device."""
        self._driver.memcpy_htod_async(self.address, self.host[:count], stream.raw)

    def download(self, count: int, stream: Stream) -> None:
        """Queue the copy of the first `count` numbers from the device."""
        self._driver.memcpy_dtoh_async(self.host[:count], self.address, stream.raw)

    def _free_host(self) -> None:
        # numpy keeps the allocation as the array's base; nobody outside this class holds the array.
        allocation: Any = self.host.base
        self.host = np.empty(0, np.float32)
        allocation.free()

    def close(self) -> None:
        self._device.free()
        self._free_host()


class MappedBuffer:
    """Page-locked host memory that the GPU addresses itself: no copies. For GPUs that share the processor's memory."""

    kind = "mapped"

    def __init__(self, gpu: Gpu, count: int, dtype: npt.DTypeLike = np.float32) -> None:
        driver = gpu.driver
        self.host: npt.NDArray[Any] = driver.pagelocked_empty(
            count, dtype, mem_flags=driver.host_alloc_flags.DEVICEMAP
        )
        allocation: Any = self.host.base
        try:
            self.address = int(allocation.get_device_pointer())
        except BaseException:
            self.close()
            raise

    def upload(self, count: int, stream: Stream) -> None:
        """Nothing to do: the GPU reads `host`."""

    def download(self, count: int, stream: Stream) -> None:
        """Nothing to do: the GPU writes `host`, and it is there once the stream is synchronised."""

    def close(self) -> None:
        allocation: Any = self.host.base
        self.host = np.empty(0, np.float32)
        allocation.free()


Buffer = CopiedBuffer | MappedBuffer
BUFFERS: dict[str, type[CopiedBuffer] | type[MappedBuffer]] = {"copied": CopiedBuffer, "mapped": MappedBuffer}


def inference_error(gpu: Gpu, what: str, error: BaseException) -> InferenceError:
    """The library's error for a failure of CUDA, after finding out whether the context survived it."""
    if gpu.still_works():
        return InferenceError(f"{what}: {explain(error)}; this run is lost, the engine goes on")
    return InferenceError(
        f"{what}: {explain(error)}; the GPU's context is lost with it. Close every engine and load them again "
        "(`FaceRecognizer.reload()` does); where CUDA refuses even that, start the process again"
    )
