"""Compiles the CUDA kernels into one file for all GPUs, where nvcc is. Run by setup.py and by the tests.

Writes `_cuda.fatbin`, and `_cuda.json` which says what was built or why nothing was: `edgeface doctor` shows it. A
machine without nvcc, or with one that fails, gets a package without these kernels, never a failed installation.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("kernels.cu")
#: Machine code for the boards (Orin, Thor) and the newest servers' and desktops' GPUs; PTX serves all others.
WANTED = (87, 90, 110, 120)
OLDEST = 75  # the oldest that TensorRT 10 runs on: PTX of it, or of the oldest that nvcc still knows above it
TIMEOUT_S = 600


class NotBuilt(Exception):  # noqa: N818 - says why, and is written down
    """There are no kernels, for the reason given."""


def find_nvcc() -> str:
    """Path of nvcc: of CUDA_HOME, on PATH, or where CUDA and JetPack install it."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    for candidate in (home and f"{home}/bin/nvcc", shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise NotBuilt("nvcc was not found when edgeface was installed (looked at CUDA_HOME, PATH and /usr/local/cuda)")


def listed(nvcc: str, kind: str) -> list[int]:
    """Architectures that nvcc lists as ``sm_NN`` (kind ``code``) or ``compute_NN`` (kind ``arch``), lowest first.

    Variants with a letter, such as sm_90a, run on one GPU only and are left out.
    """
    text = run([nvcc, f"--list-gpu-{kind}"])
    return sorted({int(number) for number in re.findall(r"^\s*(?:sm|compute)_(\d+)\s*$", text, re.MULTILINE)})


def run(command: list[str]) -> str:
    """Standard output of a command that must work."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"{command[0]} could not be run: {error}") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[-600:]
        raise NotBuilt(f"{command[0]} failed with exit code {done.returncode}: {said}")
    return done.stdout


def compiler(nvcc: str) -> str:
    """Such as ``nvcc 13.0``; ``nvcc`` alone where it words its version in an unknown way."""
    found = re.search(r"release (\d+(?:\.\d+)*)", run([nvcc, "--version"]))
    return f"nvcc {found[1]}" if found else "nvcc"


def build(folder: Path) -> dict[str, Any]:
    """Compile into `folder`; gives the record. Raises NotBuilt."""
    nvcc = find_nvcc()
    name = compiler(nvcc)
    real = [number for number in listed(nvcc, "code") if number in WANTED]
    virtual = [number for number in listed(nvcc, "arch") if number >= OLDEST]
    if not virtual:
        raise NotBuilt(f"{name} ({nvcc}) lists no architecture from compute_{OLDEST} on")
    target = folder / "_cuda.fatbin"
    making = folder / "_cuda.fatbin.part"
    # Fused multiply-adds would round differently from the CPU's kernels.
    command = [nvcc, "-std=c++17", "-O3", "--fmad=false", "-fatbin", "-o", str(making),
               "-gencode", f"arch=compute_{virtual[0]},code=compute_{virtual[0]}"]  # fmt: skip
    for number in real:
        command += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
    try:
        run([*command, str(SOURCE)])
        content = making.read_bytes()
        making.replace(target)
    except OSError as error:
        raise NotBuilt(f"{name} ({nvcc}) left nothing to read: {error}") from error
    finally:
        making.unlink(missing_ok=True)
    targets = [*(f"sm_{number}" for number in real), f"PTX compute_{virtual[0]}"]
    return {"absent": "", "compiler": name, "targets": targets, "sha256": hashlib.sha256(content).hexdigest()}


def compile_kernels(folder: Path) -> str:
    """Build into `folder` or write down why not; a line for people to read. Never fails for want of a compiler."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_cuda.fatbin").unlink(missing_ok=True)  # one of older sources must not stay
    try:
        if os.environ.get("EDGEFACE_CUDA", "").lower() in ("0", "off", "no"):
            raise NotBuilt("left out when edgeface was installed, by EDGEFACE_CUDA=0")
        record = build(folder)
        line = f"CUDA kernels: built by {record['compiler']} for {', '.join(record['targets'])}"
    except NotBuilt as reason:
        record = {"absent": str(reason), "compiler": "", "targets": [], "sha256": ""}
        line = f"CUDA kernels: NOT BUILT, frames will be prepared on the CPU: {reason}"
    (folder / "_cuda.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return line


if __name__ == "__main__":
    print(compile_kernels(Path(sys.argv[1])))
