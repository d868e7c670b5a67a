"""The CUDA kernels of `cpp_ext/cuda`: what the installation built, and launching them in a context."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import EngineError, MissingDependencyError
from edgeface.runtime.cuda import explain

if TYPE_CHECKING:
    from edgeface.runtime.cuda import Gpu, Stream

FATBIN = Path(__file__).resolve().parents[1] / "_cuda.fatbin"
#: What `cpp_ext/cuda/fatbin.py` noted about the build.
RECORD = FATBIN.with_suffix(".json")

# The structs of cpp_ext/cuda/jobs.hpp; tests/driver/test_kernels_host.py holds them against it.
CAMERA = np.dtype(
    [("luma", "i2"), ("v_to_red", "i2"), ("u_to_green", "i2"), ("v_to_green", "i2"), ("u_to_blue", "i2"),
     ("black", "u1")],
    align=True,
)  # fmt: skip
PICTURE = np.dtype(
    [("data", "u8"), ("stride", "i8"), ("height", "i4"), ("width", "i4"), ("camera", CAMERA)], align=True
)
CHANNELS = np.dtype([("factor", "f4", 3), ("summand", "f4", 3), ("rgb", "i4")], align=True)
LETTERBOX = np.dtype(
    [("picture", PICTURE), ("out", "u8"), ("first_y", "u8"), ("first_x", "u8"), ("weights_y", "u8"),
     ("weights_x", "u8"), ("taps_y", "i4"), ("taps_x", "i4"), ("height", "i4"), ("width", "i4"), ("top", "i4"),
     ("left", "i4"), ("rows", "i4"), ("columns", "i4"), ("channels", CHANNELS), ("pad", "f4", 3)],
    align=True,
)  # fmt: skip
ALIGN = np.dtype(
    [("picture", PICTURE), ("out", "u8"), ("matrices", "u8"), ("positions", "u8"), ("height", "i4"), ("width", "i4"),
     ("channels", CHANNELS)],
    align=True,
)  # fmt: skip

#: Every kernel with the struct that it is given.
KERNELS = {
    "edgeface_letterbox_bgr": LETTERBOX,
    "edgeface_letterbox_nv12": LETTERBOX,
    "edgeface_align_positions": ALIGN,
    "edgeface_align_bgr": ALIGN,
    "edgeface_align_nv12": ALIGN,
}

Size3 = tuple[int, int, int]


@dataclass(frozen=True)
class KernelFacts:
    """What the installation has.

    Attributes:
        built: the kernels are there, as they were compiled.
        says: compiler and architectures, or why there are none.
    """

    built: bool
    says: str


def kernel_facts() -> KernelFacts:
    """Whether this installation has the CUDA kernels; looks at two files, needs no GPU."""
    try:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        absent, compiler, targets, wanted = (record[key] for key in ("absent", "compiler", "targets", "sha256"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return KernelFacts(False, f"the build left no note about them ({RECORD}: {error})")
    if absent:
        return KernelFacts(False, str(absent))
    try:
        found = hashlib.sha256(FATBIN.read_bytes()).hexdigest()
    except OSError as error:
        return KernelFacts(False, f"{FATBIN} cannot be read: {error}")
    if found != wanted:
        return KernelFacts(False, f"{FATBIN} is not the file that the build made; install edgeface again")
    return KernelFacts(True, f"{compiler}: {', '.join(map(str, targets))}")


class Kernels:
    """The kernels, loaded into the context of a GPU. Made and closed with the context current.

    Raises:
        MissingDependencyError: this installation has none.
        EngineError: the driver refuses them.
    """

    def __init__(self, gpu: Gpu) -> None:
        facts = kernel_facts()
        if not facts.built:
            raise MissingDependencyError(
                f"there are no CUDA kernels: {facts.says}; install edgeface again where nvcc is (docs/kernels.md)"
            )
        self._functions: dict[str, Any] = {}
        self._module: Any = None
        try:
            self._module = gpu.driver.module_from_buffer(FATBIN.read_bytes())
            for name, job in KERNELS.items():
                self._functions[name] = self._module.get_function(name).prepare((job,))
        except gpu.driver.Error as error:
            self.close()  # now, in its context: the exception would keep it alive
            raise EngineError(
                f"the driver of {gpu.facts.name} (compute capability {gpu.facts.compute_capability}, CUDA "
                f"{gpu.facts.driver}) refuses the CUDA kernels ({facts.says}): {explain(error)}"
            ) from error

    def launch(self, name: str, job: Any, *, grid: Size3, block: Size3, stream: Stream) -> None:
        """Queue one kernel; `job` is a numpy record of its struct."""
        self._functions[name].prepared_async_call(grid, block, stream.raw, job.tobytes())

    def close(self) -> None:
        self._functions.clear()
        self._module = None  # pycuda unloads it with its last reference
