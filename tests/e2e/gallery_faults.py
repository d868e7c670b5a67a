"""Runs under io_shim.c: every disk call of a workload fails, is cut short or is the last, in turn.

    LD_PRELOAD=io_shim.so python gallery_faults.py FOLDER fail|stop|record SHIM

Prints one JSON line: how many rounds, and what went wrong.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).parents[2]))  # the last place: `edgeface` is the installed one
from edgeface.errors import GalleryError
from tests.e2e.gallery_workload import STEPS, inspect, open_gallery

if TYPE_CHECKING:
    from edgeface.gallery import Gallery

FAIL = {"io error": 1, "disk full": 2, "cut short": 3}
STOP = {"stop": 4, "stop torn": 5}


def judge(path: Path, outcomes: list[bool | None]) -> str:
    """Hold the file against what was acknowledged (True), refused (False) or under way (None); '' when it is
    sound.
    """
    try:
        found = inspect(path)
    except (GalleryError, AssertionError) as error:
        return f"cannot be used afterwards: {error!r}"
    allowed: list[dict[str, int]] = [{}]
    for step, outcome in zip(STEPS, outcomes, strict=False):
        after = [step.apply(one) for one in allowed]
        allowed = after if outcome else allowed + after  # a refused change may be there whole or not at all
    return "" if found in allowed else f"found {found}, acknowledged {outcomes}"


def one_failure(shim: ctypes.CDLL, folder: Path, how: int, at: int) -> tuple[bool, str]:
    """(was the call number `at` ever made, what went wrong)."""
    path = folder / "kiosk.gallery"
    outcomes: list[bool | None] = []
    shim.io_shim_arm(str(folder).encode(), how, at)
    gallery: Gallery | None = None
    for step in STEPS:
        try:
            if gallery is None:
                gallery = open_gallery(path)
            step.run(gallery)
            outcomes.append(True)
        except GalleryError:
            outcomes.append(False)
    if gallery is not None:
        gallery.close()
    reached = shim.io_shim_calls() >= at
    shim.io_shim_arm(b"", 0, 0)
    if outcomes.count(False) > 3:  # the fault itself, and the rename and removal that needed a failed addition
        return reached, f"one fault stopped {outcomes.count(False)} changes"
    return reached, judge(path, outcomes)


def one_stop(shim: ctypes.CDLL, folder: Path, how: int, at: int) -> tuple[bool, str]:
    """The same, where the process ends at that call."""
    path = folder / "kiosk.gallery"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        shim.io_shim_arm(str(folder).encode(), how, at)
        with open_gallery(path) as gallery:
            for step in STEPS:
                os.write(write, b"b")
                step.run(gallery)
                os.write(write, b"a")
        os._exit(0)
    os.close(write)
    told = b""
    while part := os.read(read, 100):
        told += part
    os.close(read)
    _, status = os.waitpid(child, 0)
    outcomes: list[bool | None] = [True] * told.count(b"a")
    if told.endswith(b"b"):
        outcomes.append(None)
    return os.waitstatus_to_exitcode(status) == 9, judge(path, outcomes)


def record(shim: ctypes.CDLL, folder: Path, log: Path) -> None:
    """Run the workload once, twice opened, and write every disk call and every acknowledgement to `log`."""
    with log.open("wb", buffering=0) as file:
        shim.io_shim_record(file.fileno())
        shim.io_shim_arm(str(folder).encode(), 0, 0)
        for part in (STEPS[:4], STEPS[4:]):
            with open_gallery(folder / "kiosk.gallery") as gallery:
                for step in part:
                    file.write(b"b" + struct.pack("<Iqq", 0, 0, 0))
                    step.run(gallery)
                    file.write(b"a" + struct.pack("<Iqq", 0, 0, 0))
        shim.io_shim_arm(b"", 0, 0)
        shim.io_shim_record(-1)


def main() -> None:
    base, what, library = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    shim = ctypes.CDLL(library)
    shim.io_shim_calls.restype = ctypes.c_long
    shim.io_shim_arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long]
    rounds, wrong = 0, []
    if what == "record":
        (base / "run").mkdir()
        record(shim, base / "run", base / "log")
    else:
        for name, how in (FAIL if what == "fail" else STOP).items():
            reached, at = True, 0
            while reached:
                at += 1
                folder = base / f"round-{how}-{at}"
                folder.mkdir()
                reached, verdict = (one_failure if what == "fail" else one_stop)(shim, folder, how, at)
                shutil.rmtree(folder)
                rounds += 1
                if verdict:
                    wrong.append(f"{name} at disk call {at}: {verdict}")
    print(json.dumps({"rounds": rounds, "wrong": wrong}))


if __name__ == "__main__":
    main()
