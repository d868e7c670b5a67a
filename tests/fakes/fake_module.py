"""The part of the stand-in for `pycuda.driver` that loads and launches kernels: those that g++ compiled."""

from __future__ import annotations

from typing import Any

import host_kernels
import numpy as np
from fake_faults import Misuse, native

Size3 = tuple[int, int, int]


def pointers(job: Any) -> list[tuple[str, int]]:
    """Every device address in a record, with its name."""
    names = job.dtype.names
    inner = [each for name in names if job.dtype[name].names for each in pointers(job[name])]
    return inner + [(name, int(job[name])) for name in names if job.dtype[name] == np.uint64]


def module_names(world: Any) -> dict[str, Any]:
    """`Module`, `Function` and `module_from_buffer` of the machine `world`."""

    class Function:
        def __init__(self, name: str) -> None:
            self._name = name
            self._job: Any = None

        def prepare(self, arg_types: tuple[Any, ...]) -> Function:
            (self._job,) = arg_types
            if self._job.itemsize != host_kernels.load().host_kernel(self._name.encode()):
                raise Misuse(f"{self._name} takes another struct")
            return self

        @native
        def prepared_async_call(self, grid: Size3, block: Size3, stream: Any, *args: Any) -> None:
            world.enter("cuLaunchKernel")
            (content,) = args
            if self._job is None or len(content) != self._job.itemsize:
                raise Misuse(f"{self._name} was given {len(content)} bytes, or not prepared")
            if not all(1 <= side <= 65535 for side in (*grid, *block)) or block[0] * block[1] * block[2] > 1024:
                raise Misuse(f"{self._name}: a grid of {grid}, blocks of {block}")
            job = np.frombuffer(content, self._job)[0]

            def work() -> None:
                for name, address in pointers(job):
                    try:
                        world.span(address, 1)
                    except Misuse as error:
                        raise Misuse(f"{self._name}: {name}: {error}") from None
                host_kernels.launch(self._name, content, grid, block)

            world.enqueue(stream.handle, work)

    class Module:
        def __init__(self) -> None:
            world.modules += 1

        @native
        def get_function(self, name: str) -> Function:
            world.enter("cuModuleGetFunction")
            if host_kernels.load().host_kernel(name.encode()) == 0:
                raise Misuse(f"there is no kernel {name}")
            return Function(name)

        def __del__(self) -> None:
            world.modules -= 1
            if world.current() is None:
                world.leaks.append("module unloaded outside its context")

    @native
    def module_from_buffer(buffer: bytes) -> Module:
        world.enter("cuModuleLoadDataEx")
        if not buffer.startswith(host_kernels.FATBIN_MAGIC):
            raise Misuse("this is no fat binary")
        return Module()

    return {"Function": Function, "Module": Module, "module_from_buffer": module_from_buffer}
