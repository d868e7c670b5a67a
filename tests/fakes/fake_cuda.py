"""A strict stand-in for `pycuda.driver`: memory in numpy, streams that run only when waited for, faults on demand.

It knows the names that edgeface uses and no others. Whatever the real pycuda would punish with a leak, an abort or
silent nonsense raises `Misuse` here: a call without the context, page-locked memory expected and pageable given, use
after free, a free outside the context.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from fake_faults import Error, Misuse, native
from fake_module import module_names

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeCuda:
    """One machine with one GPU. `module` is what stands for `pycuda.driver`.

    Attributes:
        calls: how often each call was made.
        leaks: what was freed in a way that would leak.
        held_elsewhere: the CUDA runtime inside TensorRT holds the primary context, too: a release does not end it, and
            what broke it stays.
        live: bytes that the device can address, by address: that of the numpy array which stands for them.
    """

    def __init__(self, *, name: str = "Orin", capability: tuple[int, int] = (8, 7), integrated: bool = True) -> None:
        self.name, self.capability, self.integrated = name, capability, integrated
        self.calls: Counter[str] = Counter()
        self.leaks: list[str] = []
        self.live: dict[int, Any] = {}
        self.host: dict[int, Any] = {}
        self.streams: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.retained = 0
        self.modules = 0
        self.graphs: list[Any] = []
        self.broken: str | None = None
        self.held_elsewhere = False
        self._faults: dict[str, tuple[int, str, bool]] = {}
        self._stacks = threading.local()
        self._next = 0x1000
        self._ever: list[Any] = []  # keeps every allocation, so that no address is given twice
        self._lock = threading.RLock()
        self.module = self._module()

    # Faults ---------------------------------------------------------------------------------------------------------
    def fail(self, call: str, *, after: int = 0, why: str = "out of memory", sticky: bool = False) -> None:
        """Let `call` fail once, after so many that work; a sticky failure breaks the context for good."""
        self._faults[call] = (self.calls[call] + after + 1, why, sticky)

    def forgive(self) -> None:
        """Forget failures that were asked for and have not happened."""
        self._faults.clear()

    def enter(self, call: str, *, context: bool = True) -> None:
        """Count a call, and fail it where that was asked for."""
        with self._lock:
            self.calls[call] += 1
            if context and self.current() is None:
                raise Misuse(f"{call} without a current context")
            if self.broken is not None and call not in ("cuCtxPushCurrent", "cuCtxPopCurrent"):
                raise Error(f"{call} failed: {self.broken}")
            number, why, sticky = self._faults.get(call, (0, "", False))
            if number == self.calls[call]:
                del self._faults[call]
                if sticky:
                    self.broken = why
                raise Error(f"{call} failed: {why}")

    # Contexts -------------------------------------------------------------------------------------------------------
    def stack(self) -> list[Any]:
        if not hasattr(self._stacks, "value"):
            self._stacks.value = []
        stack: list[Any] = self._stacks.value
        return stack

    def current(self) -> Any:
        stack = self.stack()
        return stack[-1] if stack else None

    def address(self, size: int) -> int:
        with self._lock:
            self._next += (size + 0x1FFF) // 0x1000 * 0x1000
            return self._next

    def allocate(self, size: int) -> Any:
        """Bytes that nobody has written: as numbers, not a number."""
        with self._lock:
            self._ever.append(np.full(size, 0xFF, np.uint8))
            return self._ever[-1]

    # What the device does -------------------------------------------------------------------------------------------
    def view(self, address: int, count: int) -> Any:
        """`count` float32 numbers at a device address, or `Misuse`."""
        return self.span(address, count * 4).view(np.float32)

    def span(self, address: int, size: int) -> Any:
        """`size` bytes at a device address, which may lie inside an allocation, or `Misuse`."""
        with self._lock:
            found = [(start, block) for start, block in self.live.items() if start <= address < start + len(block)]
        if not found:
            raise Misuse(f"device address {address:#x} was freed or never allocated")
        start, block = found[0]
        if start + len(block) < address + size:
            raise Misuse(f"{size} bytes at {address:#x}, where {start + len(block) - address} are left")
        return block[address - start : address - start + size]

    def enqueue(self, handle: int, work: Callable[[], None]) -> bool:
        """Queue what the stream shall do; whether it only records it for a graph."""
        stream = self.streams.get(handle)
        if stream is None:
            raise Misuse(f"stream {handle} was destroyed or never made")
        recorded = stream.recording is not None
        (stream.recording if recorded else stream.queue).append(work)
        return recorded

    def assert_current(self, what: str) -> None:
        if self.current() is None:
            raise Misuse(f"{what} without a current context")

    def memory_in_use(self) -> int:
        return len(self.live) + len(self.host)

    def _module(self) -> SimpleNamespace:
        world = self

        class Context:
            def __init__(self) -> None:
                self.valid = True

            @native
            def push(self) -> None:
                world.enter("cuCtxPushCurrent", context=False)
                if not self.valid:
                    raise Misuse("push of a detached context")
                world.stack().append(self)

            @staticmethod
            def pop() -> None:
                world.enter("cuCtxPopCurrent", context=False)
                if not world.stack():
                    raise Misuse("pop from an empty stack of contexts")
                world.stack().pop()

            @staticmethod
            def synchronize() -> None:
                world.enter("cuCtxSynchronize")

            def detach(self) -> None:
                if not self.valid:
                    raise Misuse("detached twice")
                if world.current() is not self:
                    world.leaks.append("context detached where it was not current")
                if world.live or world.host or list(world.streams) or world.modules:
                    raise Misuse(
                        f"context released with {len(world.live)} + {len(world.host)} allocations and "
                        f"{world.modules} modules in use"
                    )
                self.valid = False
                world.retained -= 1
                if not world.held_elsewhere:
                    world.broken = None
                world.stack().clear()

        class Device:
            def __init__(self, number: int) -> None:
                assert number == 0

            @staticmethod
            def count() -> int:
                return 1

            def name(self) -> str:
                return world.name

            def compute_capability(self) -> tuple[int, int]:
                return world.capability

            def total_memory(self) -> int:
                return 8 << 30

            def get_attribute(self, attr: str) -> int:
                assert attr == "INTEGRATED"
                return int(world.integrated)

            def retain_primary_context(self) -> Context:
                world.enter("cuDevicePrimaryCtxRetain", context=False)
                world.retained += 1
                return Context()

        class Stream:
            @native
            def __init__(self, flags: int = 0) -> None:
                world.enter("cuStreamCreate")
                assert flags == 1, "a blocking stream waits for the legacy default stream"
                self.handle = world.address(0)
                self.queue: list[Callable[[], None]] = []
                self.recording: list[Callable[[], None]] | None = None
                world.streams[self.handle] = self

            @native
            def synchronize(self) -> None:
                world.enter("cuStreamSynchronize")
                if self.recording is not None:
                    raise Misuse("waiting for a stream that records")
                while self.queue:
                    self.queue.pop(0)()

            def __del__(self) -> None:
                if self.__dict__.get("queue") and not world.broken:
                    world.leaks.append("stream destroyed with work on it")
                if "handle" in self.__dict__ and world.current() is None:
                    world.leaks.append("stream destroyed outside its context")

        class DeviceAllocation:
            def __init__(self, size: int) -> None:
                self.freed = False
                block = world.allocate(size)
                self._address = int(block.ctypes.data)
                world.live[self._address] = block

            def __int__(self) -> int:
                return self._address

            def free(self) -> None:
                if self.freed:
                    raise Misuse("device memory freed twice")
                world.calls["cuMemFree"] += 1
                world.assert_current("cuMemFree")
                self.freed = True
                del world.live[self._address]

            def __del__(self) -> None:
                if not self.freed:
                    world.leaks.append("device memory never freed")

        class PagelockedHostAllocation:
            def __init__(self, count: int, dtype: Any, mapped: bool) -> None:
                self.block, self.mapped, self.freed = world.allocate(count * np.dtype(dtype).itemsize), mapped, False
                self._address = int(self.block.ctypes.data)
                self.__array_interface__ = self.block.view(dtype).__array_interface__
                world.host[self._address] = self.block

            @native
            def get_device_pointer(self) -> int:
                world.enter("cuMemHostGetDevicePointer")
                if not self.mapped:
                    raise Misuse("device pointer of memory that was not mapped")
                world.live[self._address] = self.block
                return self._address

            def free(self) -> None:
                if self.freed:
                    raise Misuse("page-locked memory freed twice")
                world.calls["cuMemFreeHost"] += 1
                world.assert_current("cuMemFreeHost")
                self.freed = True
                del world.host[self._address]
                world.live.pop(self._address, None)

            def __del__(self) -> None:
                if not self.freed:
                    world.leaks.append("page-locked memory never freed")

        @native
        def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
            world.enter("cuMemHostAlloc")
            return np.asarray(PagelockedHostAllocation(shape, dtype, bool(mem_flags & 2)))

        @native
        def mem_alloc(size: int) -> DeviceAllocation:
            world.enter("cuMemAlloc")
            return DeviceAllocation(size)

        def base_of(array: Any) -> Any:
            while isinstance(array, np.ndarray):
                array = array.base
            if not isinstance(array, PagelockedHostAllocation):
                raise Misuse("asynchronous copy with pageable host memory")
            return array

        @native
        def copy(call: str, host: Any, address: int, stream: Any, to_device: bool) -> None:
            world.enter(call)
            allocation = base_of(host)
            size = host.nbytes
            world.span(address, size)

            def work() -> None:
                if allocation.freed:
                    raise Misuse("page-locked memory was freed before its copy ran")
                device = world.span(address, size)
                if to_device:
                    device[:] = host.view(np.uint8)
                else:
                    host.view(np.uint8)[:] = device

            world.enqueue(stream.handle, work)

        @native
        def memcpy_htod_async(dest: int, src: Any, stream: Any = None) -> None:
            copy("cuMemcpyHtoDAsync", src, dest, stream, True)

        @native
        def memcpy_dtoh_async(dest: Any, src: int, stream: Any = None) -> None:
            copy("cuMemcpyDtoHAsync", dest, src, stream, False)

        @native
        def memcpy_dtod_async(dest: int, src: int, size: int, stream: Any = None) -> None:
            world.enter("cuMemcpyDtoDAsync")
            to, source = world.span(dest, size), world.span(src, size)
            world.enqueue(stream.handle, lambda: np.copyto(to, source))

        return SimpleNamespace(
            Error=Error,
            Context=Context,
            Device=Device,
            Stream=Stream,
            DeviceAllocation=DeviceAllocation,
            PagelockedHostAllocation=PagelockedHostAllocation,
            device_attribute=SimpleNamespace(INTEGRATED="INTEGRATED"),
            host_alloc_flags=SimpleNamespace(DEVICEMAP=2),
            get_driver_version=lambda: 12060,
            init=lambda: None,
            mem_alloc=mem_alloc,
            memcpy_dtod_async=memcpy_dtod_async,
            memcpy_dtoh_async=memcpy_dtoh_async,
            memcpy_htod_async=memcpy_htod_async,
            pagelocked_empty=pagelocked_empty,
            **module_names(world),
        )
