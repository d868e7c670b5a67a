"""The CUDA kernels compiled by g++ (`host_kernels.cpp`), so that tests run on the CPU what the GPU would."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("host_kernels.cpp")
KERNELS = Path(__file__).parents[2] / "cpp_ext" / "cuda"
FATBIN_MAGIC = bytes.fromhex("50ed55ba")


@functools.cache
def compile_kernels() -> Path:
    """The library, compiled once for each state of its sources; needs g++, as the package itself."""
    sources = [SOURCE, *sorted(KERNELS.glob("*.cu")), *sorted(KERNELS.glob("*.hpp")), *KERNELS.parent.glob("*.hpp")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"edgeface-host-kernels-{os.getuid()}-{digest}.so"
    if not library.exists():
        making = library.with_suffix(f".{os.getpid()}")
        flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run(["g++", *flags, f"-I{KERNELS}", "-o", str(making), str(SOURCE)], check=True)
        making.replace(library)
    return library


@functools.cache
def load() -> Any:
    """The library for ctypes."""
    native = ctypes.CDLL(str(compile_kernels()))
    native.host_kernel.restype = native.host_layout.restype = ctypes.c_size_t
    return native


def files(folder: Path) -> dict[str, Path]:
    """Where `edgeface.runtime.cuda_kernels` shall look for the build, by the names that it has for them."""
    return {"FATBIN": folder / "_cuda.fatbin", "RECORD": folder / "_cuda.json"}


def build(folder: Path) -> None:
    """Write what the build leaves; the fat binary is one that only the stand-ins can read."""
    content = FATBIN_MAGIC + b" and what nvcc would put after it"
    files(folder)["FATBIN"].write_bytes(content)
    record = {"absent": "", "compiler": "g++", "targets": ["host"], "sha256": hashlib.sha256(content).hexdigest()}
    files(folder)["RECORD"].write_text(json.dumps(record))


def launch(name: str, job: bytes, grid: tuple[int, int, int], block: tuple[int, int, int]) -> None:
    """Run a kernel now; pointers in `job` are those of this process."""
    three = ctypes.c_uint * 3
    load().host_launch(name.encode(), job, three(*grid), three(*block))


def layout(of_align: bool) -> list[int]:
    """Offsets of a job's members, in the order of the struct."""
    offsets = (ctypes.c_size_t * 64)()
    count = load().host_layout(int(of_align), offsets)
    return list(offsets[:count])
