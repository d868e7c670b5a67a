"""The machine that plans are compiled on: TensorRT, GPU and board; and whether plans can run on it."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeface.errors import EdgefaceError
from edgeface.runtime.board import read_board
from edgeface.runtime.cuda import gpu_facts, import_pycuda
from edgeface.runtime.tensorrt import import_tensorrt
from edgeface.runtime.tensorrt_checks import UNKNOWN_DEVICE

if TYPE_CHECKING:
    from edgeface.runtime.board import Board
    from edgeface.runtime.cuda import GpuFacts

#: Desktop generations that TensorRT-RTX compiles for on a machine without a driver: Ampere, Ada, Blackwell.
RTX_TARGETS = ("SM80", "SM86", "SM89", "SM120")


@dataclass(frozen=True)
class Machine:
    """What plans are compiled with and for.

    Attributes:
        target: ``tensorrt`` or ``tensorrt-rtx``. trt: the module that compiles.
        gpu: of this machine; None where it cannot be asked. board: the Jetson, or None.
        driver: newest CUDA version of the driver as the driver says it, such as 12060; 0 without one.
        why_not: why no plan can run here; empty where plans can.
    """

    target: str
    trt: Any
    gpu: GpuFacts | None
    board: Board | None
    driver: int
    why_not: str

    @property
    def version(self) -> str:
        """Of TensorRT."""
        return str(self.trt.__version__)

    @property
    def targets(self) -> tuple[str, ...]:
        """The generations that are compiled for where there is no GPU here to compile for."""
        return RTX_TARGETS if self.target == "tensorrt-rtx" and not self.driver else ()

    def facts(self) -> dict[str, Any]:
        """What `load_engine` compares before TensorRT sees a plan; the keys stand in `docs/formats/engine.md`."""
        gpu, board = self.gpu, self.board
        device = "+".join(self.targets) or (board.slug if board else gpu.name if gpu else UNKNOWN_DEVICE)
        made: dict[str, Any] = {"tensorrt": self.version, "device": device}
        if gpu is not None:
            made |= {"compute_capability": gpu.compute_capability, "gpu": gpu.name, "driver": gpu.driver}
        elif self.driver:
            made["driver"] = f"{self.driver // 1000}.{self.driver % 1000 // 10}"
        if board is not None:
            made["jetpack"] = board.jetpack or _release()
        return made

    def slug(self) -> str:
        """Version and device for the name of a file."""
        return re.sub(r"[^\w.+-]", "-", f"{self.target}-{self.version}-{self.facts()['device']}")


def find_machine(target: str) -> Machine:
    """Look at this machine. Raises MissingDependencyError: TensorRT is not installed."""
    trt = import_tensorrt(target)
    gpu, why_not = None, ""
    try:
        gpu = gpu_facts(import_pycuda())
    except EdgefaceError as error:
        why_not = str(error)
    return Machine(target, trt, gpu, read_board(), driver_version(), why_not)


def driver_version() -> int:
    """CUDA version of the driver; 0 without one."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        version = ctypes.c_int()
        ready = cuda.cuInit(0) == 0 and cuda.cuDriverGetVersion(ctypes.byref(version)) == 0
    except (OSError, AttributeError):
        return 0
    return version.value if ready else 0


def _release() -> str | None:
    """The line that names the release of Jetson Linux, for a JetPack that `read_board` does not know."""
    try:
        return Path("/etc/nv_tegra_release").read_text().strip()[:120]
    except OSError:
        return None
