"""What `edgeface doctor` looks at on the machine: board, memory, disk, packages, GPU."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeface.errors import EdgefaceError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeface.runtime.board import Board

SETUP = "jetson/setup.sh"

State = Literal["good", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: of what was looked at.
        state: good, warning (works, but not as it should) or fault (does not work).
        says: what was found.
        mend: the command that mends it; empty where all is well.
    """

    name: str
    state: State
    says: str
    mend: str = ""


def machine(root: Path, board: Board | None) -> Iterator[Finding]:
    """Processor, Python, board, JetPack, power mode, clocks."""
    said = f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors, Python {platform.python_version()}"
    yield Finding("machine", "good", said)
    if board is None:
        yield Finding("board", "good", "not a Jetson: models run on the CPU, or on an NVIDIA GPU with TensorRT")
        return
    yield Finding("board", "good", board.model)
    if not board.jetpack:
        yield Finding(
            "jetpack", "warning", f"not known (L4T {board.l4t or 'not found'})", "sudo apt install nvidia-jetpack"
        )
    elif int(board.jetpack.split(".")[0]) < 6:
        yield Finding("jetpack", "fault", f"{board.jetpack}: edgeface needs JetPack 6.1 or newer (Python 3.10)",
                      "flash the board with JetPack 6.2 or newer")  # fmt: skip
    else:
        yield Finding("jetpack", "good", f"{board.jetpack} (L4T {board.l4t or 'not found'})")
    if board.power_mode:
        yield Finding("power", "good", f"nvpmodel mode {board.power_mode}{_clocks(root)}; `sudo nvpmodel -q` names it")
    else:
        yield Finding(
            "power", "warning", "the power mode cannot be read", "sudo systemctl restart nvpmodel; sudo nvpmodel -q"
        )


def _clocks(root: Path) -> str:
    """The GPU's present and highest clock, where the kernel tells."""
    for folder in sorted((root / "sys/class/devfreq").glob("*gpu*")):
        try:
            now, most = (int((folder / name).read_text()) // 1_000_000 for name in ("cur_freq", "max_freq"))
        except (OSError, ValueError):
            continue
        return f", GPU at {now} of {most} MHz"
    return ""


def memory(root: Path) -> Iterator[Finding]:
    """Free memory: both networks, their buffers and OpenCV take about 300 MB, a build of engines about 1 GB."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    if found is None:
        yield Finding("memory", "warning", "free memory cannot be read", f"cat {root / 'proc/meminfo'}")
        return
    free_mb = int(found[1]) >> 10
    state: State = "fault" if free_mb < 300 else "warning" if free_mb < 1024 else "good"
    mend = "" if state == "good" else "ps aux --sort=-rss | head  # and stop what is not needed, such as the desktop"
    yield Finding("memory", state, f"{free_mb} MB free", mend)


def disk(folder: Path) -> Iterator[Finding]:
    """Room for models, engines and a gallery's journal."""
    there = folder
    while not there.exists():
        there = there.parent
    free_mb = shutil.disk_usage(there).free >> 20
    state: State = "fault" if free_mb < 100 else "warning" if free_mb < 1024 else "good"
    mend = "" if state == "good" else f"du -xh {there} | sort -h | tail  # and delete what is not needed"
    yield Finding("disk", state, f"{free_mb} MB free for {folder}", mend)


def packages(board: Board | None) -> Iterator[Finding]:
    """What Python must find: the native kernels, OpenCV, onnxruntime."""
    from edgeface import kernels

    if kernels.IMPLEMENTATION == "native":
        yield Finding("kernels", "good", "native")
    else:
        yield Finding(
            "kernels", "warning", "the slow reference in Python, by EDGEFACE_KERNELS", "unset EDGEFACE_KERNELS"
        )
    yield from _opencv(board)
    try:
        import onnxruntime

        yield Finding("onnxruntime", "good", str(onnxruntime.__version__))
    except ImportError as error:
        # On a board engines run without it; building them, and the comparison with TensorRT, need it.
        state: State = "fault" if board is None else "warning"
        yield Finding(
            "onnxruntime", state, f"cannot be imported: {error}", f"{sys.executable} -m pip install onnxruntime"
        )


def opencv_mend(board: Board | None) -> str:
    """The command that brings OpenCV."""
    return SETUP if board is not None else f"{sys.executable} -m pip install opencv-python"


def _opencv(board: Board | None) -> Iterator[Finding]:
    try:
        import cv2
    except ImportError as error:
        yield Finding("opencv", "fault", f"cannot be imported: {error}", opencv_mend(board))
        return
    gstreamer = re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None
    said = f"{cv2.__version__}, {'with' if gstreamer else 'without'} GStreamer, from {Path(cv2.__file__).parent}"
    if board is not None and not gstreamer:
        yield Finding("opencv", "warning", f"{said}: CSI cameras need JetPack's own build",
                      f"{sys.executable} -m pip uninstall -y opencv-python opencv-python-headless")  # fmt: skip
    else:
        yield Finding("opencv", "good", said)


def gpu(*, wanted: bool) -> Iterator[Finding]:
    """Driver, GPU, pycuda and TensorRT; a fault only where something here is meant to run on them."""
    from edgeface.runtime.cuda import gpu_facts, import_pycuda
    from edgeface.runtime.tensorrt import import_tensorrt

    lacking: State = "fault" if wanted else "good"
    mend = SETUP if wanted else ""
    try:
        facts = gpu_facts(import_pycuda())
        said = f"{facts.name}, compute capability {facts.compute_capability}, {facts.memory_mb} MB"
        yield Finding("gpu", "good", f"{said}, driver for CUDA {facts.driver}")
    except MissingDependencyError as error:
        yield Finding("gpu", lacking, str(error) if wanted else f"none in use: {error}", mend)
    except EdgefaceError as error:
        yield Finding("gpu", "fault", str(error), "sudo reboot")
    try:
        version = import_tensorrt("tensorrt").__version__
        yield Finding("tensorrt", "good", str(version))
    except MissingDependencyError as error:
        yield Finding("tensorrt", lacking, str(error) if wanted else f"none in use: {error}", mend)
    yield _cuda_kernels(wanted=wanted)


def _cuda_kernels(*, wanted: bool) -> Finding:
    """Whether frames can be prepared on the GPU; without these kernels the CPU does it, with the same numbers."""
    from edgeface.runtime.cuda_kernels import kernel_facts

    facts = kernel_facts()
    if facts.built or not wanted:
        return Finding("cuda kernels", "good", facts.says if facts.built else f"none in use: {facts.says}")
    mend = f"{sys.executable} -m pip install --force-reinstall --no-deps .  # in edgeface's folder, with nvcc on PATH"
    return Finding("cuda kernels", "warning", f"none, frames are prepared on the CPU: {facts.says}", mend)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
