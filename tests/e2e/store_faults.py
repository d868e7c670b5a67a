"""Runs under io_shim.c: every disk call of a build's end fails, is cut short or is the last, in turn.

    LD_PRELOAD=io_shim.so python store_faults.py FOLDER fail|stop|record SHIM

Prints one JSON line: how many rounds, and what went wrong.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # the last place: `edgeface` is the installed one
from edgeface.errors import BuildError, EdgefaceError
from tests.e2e.store_workload import engine, engines_in, version_of, write, write_plainly

FAIL = {"io error": 1, "disk full": 2, "cut short": 3}
STOP = {"stop": 4, "stop torn": 5}
OLD, NEW, NEXT = 1, 2, 3


def judge(folder: Path, done: bool | None) -> str:
    """What is wrong with a folder after a build that succeeded, failed or was stopped (None); '' where nothing is."""
    try:
        found = version_of(folder)
    except EdgefaceError as error:
        return f"no engine loads: {error}"
    if found not in (OLD, NEW) or (done and found != NEW):
        return f"version {found} after a build that {'succeeded' if done else 'did not'}"
    if done is False and len([name for name in engines_in(folder) if name.endswith(".part")]):
        return f"a failed build left {engines_in(folder)}"
    write(folder, NEXT)
    left = engines_in(folder)
    wanted = sorted([engine(NEXT).manifest.file, "sface.int8.onnx.json"])
    return "" if left == wanted and version_of(folder) == NEXT else f"the next build left {left}"


def one_failure(shim: ctypes.CDLL, folder: Path, how: int, at: int) -> tuple[bool, str]:
    """(was the call number `at` ever made, what went wrong)."""
    shim.io_shim_arm(str(folder).encode(), how, at)
    try:
        write(folder, NEW)
        done = True
    except BuildError:
        done = False
    reached = shim.io_shim_calls() >= at
    shim.io_shim_arm(b"", 0, 0)
    return reached, judge(folder, done)


def one_stop(shim: ctypes.CDLL, folder: Path, how: int, at: int) -> tuple[bool, str]:
    """The same, where the process ends at that call."""
    child = os.fork()
    if child == 0:
        shim.io_shim_arm(str(folder).encode(), how, at)
        write(folder, NEW)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code == 9, judge(folder, True if code == 0 else None)


def main() -> None:
    base, what, library = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    shim = ctypes.CDLL(library)
    shim.io_shim_calls.restype = ctypes.c_long
    shim.io_shim_arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long]
    rounds, wrong = 0, []
    if what == "record":
        folder = base / "run"
        folder.mkdir()
        with (base / "log").open("wb", buffering=0) as log:
            shim.io_shim_record(log.fileno())
            shim.io_shim_arm(str(folder).encode(), 0, 0)
            for version in (OLD, NEW, NEXT):
                write(folder, version)
                log.write(b"a" + bytes(20))
            shim.io_shim_arm(b"", 0, 0)
            shim.io_shim_record(-1)
    else:
        for before in (write, write_plainly):
            for name, how in (FAIL if what == "fail" else STOP).items():
                reached, at = True, 0
                while reached:
                    at += 1
                    folder = base / "round"
                    folder.mkdir()
                    before(folder, OLD)
                    reached, verdict = (one_failure if what == "fail" else one_stop)(shim, folder, how, at)
                    shutil.rmtree(folder)
                    rounds += 1
                    if verdict:
                        wrong.append(f"{before.__name__}, {name} at disk call {at}: {verdict}")
    print(json.dumps({"rounds": rounds, "wrong": wrong}))


if __name__ == "__main__":
    main()
