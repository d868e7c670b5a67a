"""No acknowledged face is lost, no half face is visible, the file always opens: whatever call the end comes
at.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # the last place: `edgeface` is the installed one
from tests.e2e.gallery_workload import STEPS, Step, inspect, open_gallery

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

HERE = Path(__file__).parent
#: More rounds for a long soak: EDGEFACE_CRASH_ROUNDS=10000 pytest tests/e2e/test_gallery_crash.py
ROUNDS = int(os.environ.get("EDGEFACE_CRASH_ROUNDS", "100"))


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder in memory where there is one: these tests decide themselves what reached the disk."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the shim that makes disk calls fail")
    library = tmp_path_factory.mktemp("shim") / "io_shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "io_shim.c", "-ldl"], check=True)
    return library


def run_under_shim(shim: Path, folder: Path, what: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, str(HERE / "gallery_faults.py"), str(folder), what, str(shim)],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize(("what", "least"), [("fail", 200), ("stop", 150)])
def test_every_disk_call_fails_or_is_the_last_in_turn(shim: Path, memory_folder: Path, what: str, least: int) -> None:
    result = run_under_shim(shim, memory_folder, what)
    assert result["wrong"] == []
    assert isinstance(result["rounds"], int)
    assert result["rounds"] >= least  # the shim saw the calls


@dataclass
class Disk:
    """What a power cut would leave: synced content, and calls since then that may or may not have arrived."""

    synced: dict[str, bytes | None] = field(default_factory=dict)
    pending: dict[str, list[tuple[str, int, bytes]]] = field(default_factory=dict)

    def call(self, kind: str, path: str, at: int, data: bytes) -> None:
        if kind == "s":
            self.synced[path] = self.content(path, [True] * len(self.pending.get(path, [])))
            self.pending[path] = []
            for name, calls in self.pending.items():  # a folder's sync makes the removals in it durable
                if os.path.dirname(name) == path and any(one[0] == "u" for one in calls):
                    last = max(number for number, one in enumerate(calls) if one[0] == "u")
                    self.synced[name], self.pending[name] = None, calls[last + 1 :]
        else:
            self.pending.setdefault(path, []).append((kind, at, data))

    def content(self, path: str, arrived: list[bool], torn: random.Random | None = None) -> bytes | None:
        stored = self.synced.get(path)
        content = None if stored is None else bytearray(stored)
        for (kind, at, data), here in zip(self.pending.get(path, []), arrived, strict=True):
            if not here:
                continue
            if kind == "u":
                content = None
                continue
            content = bytearray() if content is None else content
            if kind == "t":
                content = content[:at].ljust(at, b"\0")
                continue
            if torn is not None and torn.random() < 0.3:
                data = data[: torn.randrange(len(data) // 512 + 1) * 512]  # a write is torn between sectors
            content = content.ljust(at, b"\0")
            content[at : at + len(data)] = data
        return None if content is None else bytes(content)


def read_log(log: Path) -> Iterator[tuple[str, str, int, bytes]]:
    content, at = log.read_bytes(), 0
    while at < len(content):
        kind, (length,) = chr(content[at]), struct.unpack_from("<I", content, at + 1)
        path = content[at + 5 : at + 5 + length].decode()
        offset, size = struct.unpack_from("<qq", content, at + 5 + length)
        at += 21 + length
        yield kind, path, offset, content[at : at + size]
        at += size


def test_a_power_cut_after_any_disk_call(shim: Path, memory_folder: Path) -> None:
    """Replays a recorded run up to each call; of the calls not yet synced, chance decides which arrived, and
    how far.
    """
    run_under_shim(shim, memory_folder, "record")
    chance, disk = random.Random(1), Disk()
    begun = acknowledged = cuts = 0
    folder = memory_folder / "after"
    for kind, path, at, data in read_log(memory_folder / "log"):
        if kind in "ab":
            acknowledged, begun = acknowledged + (kind == "a"), begun + (kind == "b")
            continue
        disk.call(kind, path, at, data)
        for draw in range(3):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name in {*disk.synced, *disk.pending}:
                count = len(disk.pending.get(name, []))
                arrived = [draw > 0 and chance.random() < 0.5 for _ in range(count)]  # first: nothing arrived
                content = disk.content(name, arrived, chance)
                if content is not None and Path(name).suffix != "":
                    (folder / Path(name).name).write_bytes(content)
            state: dict[str, int] = {}
            for step in STEPS[:acknowledged]:
                state = step.apply(state)
            allowed = [state] if begun == acknowledged else [state, STEPS[acknowledged].apply(state)]
            assert inspect(folder / "kiosk.gallery") in allowed
            cuts += 1
    assert acknowledged == len(STEPS)
    assert cuts > 200


def _write_until_killed(path: Path, pipe: Connection, seed: int) -> None:
    chance = random.Random(seed)
    with open_gallery(path) as gallery:
        names = [person.name for person in gallery.people()]
        number = 0
        while True:
            number += 1
            kind = chance.choice(["add", "add", "add", "remove", "rename"]) if names else "add"
            if kind == "add" or (kind == "rename" and names[0].endswith("-new")):
                step = Step("add", f"{seed}.{number}", chance.randint(1, 4))
                names.append(step.name)
            else:
                step = Step(kind, names.pop(0))
            pipe.send((False, step))
            step.run(gallery)
            pipe.send((True, step))
            if kind == "rename" and step.kind == "rename":
                names.append(f"{step.name}-new")


def test_a_process_killed_at_any_moment_loses_nothing_acknowledged(memory_folder: Path) -> None:
    chance = random.Random(2)
    context = multiprocessing.get_context("fork")
    path = memory_folder / "kiosk.gallery"
    state: dict[str, int] = {}
    acknowledged = 0
    for number in range(ROUNDS):
        if number % 10 == 0:  # afresh: the creation of the file is part of what is killed
            for one in memory_folder.iterdir():
                one.unlink()
            state = {}
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_write_until_killed, args=(path, send, number))
        child.start()
        send.close()
        time.sleep(chance.uniform(0, 0.03) if number % 10 else chance.uniform(0, 0.008))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        under_way: Step | None = None
        while True:
            try:
                done, step = receive.recv()
            except (EOFError, OSError):
                break
            under_way = None if done else step
            if done:
                state = step.apply(state)
                acknowledged += 1
        receive.close()
        found = inspect(path)
        allowed = [state] if under_way is None else [state, under_way.apply(state)]
        assert found in allowed, f"round {number}"
        state = found
    assert acknowledged > ROUNDS // 4  # the children did write, on a busy machine too
