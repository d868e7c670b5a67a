"""The real pycuda without a GPU: compiles `libcuda.c`, to be preloaded; stands for the device in `fake_tensorrt`."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fake_faults import Misuse

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Path(__file__).with_name("libcuda.c")
NOT_SUPPORTED = 801
#: What a process must leave: nothing alive of memory (on the device, page-locked), streams, events, modules.
CLEAN = {"alive": [0, 0, 0, 0, 0], "retained": 0, "misuse": "", "depth": 0, "leaks": []}


def why_not() -> str:
    """Why the real pycuda cannot be tested here; empty where it can."""
    if importlib.util.find_spec("pycuda") is None:
        return "pycuda is not installed: `.ci/tensorrt` builds it"
    if shutil.which("gcc") is None or not _include().is_dir():
        return "gcc and CUDA's cuda.h are needed to compile the stand-in for the driver"
    return ""


def _include() -> Path:
    nvcc = shutil.which("nvcc")
    folders = [Path("/usr/local/cuda/include"), *([Path(nvcc).resolve().parent.parent / "include"] if nvcc else [])]
    return next((folder for folder in folders if (folder / "cuda.h").exists()), Path("/nonexistent"))


def compile_driver(folder: Path) -> Path:
    """A libcuda.so.1 with every symbol that pycuda wants; what no test needs answers "not supported"."""
    spec = importlib.util.find_spec("pycuda")
    assert spec is not None
    assert spec.origin is not None
    module = next(Path(spec.origin).parent.glob("_driver*.so"))
    wanted = set(re.findall(r"\bU (cu[A-Z]\w*)", _run("nm", "-D", "--undefined-only", str(module))))
    assert len(wanted) > 100
    here = folder / "part.o"
    _run("gcc", "-O2", "-fPIC", "-c", f"-I{_include()}", "-o", str(here), str(SOURCE))
    defined = set(re.findall(r"\bT (\w+)", _run("nm", str(here))))
    rest = folder / "rest.c"
    rest.write_text("".join(f"int {name}(void) {{ return {NOT_SUPPORTED}; }}\n" for name in sorted(wanted - defined)))
    library = folder / "libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(here), str(rest)]
    _run(*command, "-lpthread", "-ldl")
    return library


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Device:
    """What `FakeTensorRt` needs of a device, over the preloaded driver. The network runs at once."""

    broken = ""

    def __init__(self) -> None:
        import pycuda.driver

        self.leaks: list[str] = []
        self.driver: Any = pycuda.driver
        self.native = ctypes.CDLL(None)
        self.native.fake_size.restype = ctypes.c_size_t
        self.native.fake_size.argtypes = [ctypes.c_size_t]
        self.native.fake_misuse.restype = ctypes.c_char_p
        for name in ("fake_alive", "fake_allocations", "fake_misuses", "fake_retained"):
            getattr(self.native, name).restype = ctypes.c_long

    def view(self, address: int, count: int) -> Any:
        if self.native.fake_size(address) < count * 4:
            raise Misuse(f"{count} numbers at {address:#x}, which does not hold them")
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))

    def enqueue(self, handle: int, work: Callable[[], None]) -> None:
        if self.native.fake_size(handle) == 0:
            raise Misuse("a stream that is not there")
        work()

    def assert_current(self, what: str) -> None:
        if self.native.fake_depth() == 0:
            raise Misuse(f"{what} without a current context")

    def fail(self, call: str, *, after: int = 0, code: int = 2, sticky: bool = False) -> None:
        """Let `call` fail once with that code: 2 is out of memory, 700 an illegal address."""
        self.native.fake_fail(call.encode(), ctypes.c_long(after), code, int(sticky))

    def state(self) -> dict[str, Any]:
        """What is alive, and what a real driver would have punished."""
        native = self.native
        alive = [native.fake_alive(kind) for kind in range(5)]
        return {
            "alive": alive,
            "retained": native.fake_retained(),
            "misuse": native.fake_misuse().decode() if native.fake_misuses() else "",
            "depth": native.fake_depth(),
            "leaks": self.leaks,
        }
