"""A build that fails, is killed or loses its power at any disk call leaves the old engine or the new one, whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
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
from edgeface.home import write_atomically
from edgeface.manifest import manifest_path
from tests.e2e.store_workload import NAME, engine, engines_in, version_of, write, write_plainly

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.synchronize import Event

HERE = Path(__file__).parent


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
        [sys.executable, str(HERE / "store_faults.py"), str(folder), what, str(shim)],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize(("what", "least"), [("fail", 80), ("stop", 60)])
def test_every_disk_call_fails_or_is_the_last_in_turn(shim: Path, memory_folder: Path, what: str, least: int) -> None:
    result = run_under_shim(shim, memory_folder, what)
    assert result["wrong"] == []
    assert isinstance(result["rounds"], int)
    assert result["rounds"] >= least  # the shim saw the calls


@dataclass
class Disk:
    """What a power cut may leave: files hold what was synced or any part of what came after; of the changes to the
    folder since its last sync any may be lost.
    """

    data: list[list[bytes]] = field(default_factory=list)  # of each file: what it held after each write
    synced: list[int] = field(default_factory=list)  # of each file: the entry of `data` that is sure
    live: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    pending: list[tuple[str, int | None]] = field(default_factory=list)

    def call(self, kind: str, path: str, data: bytes) -> None:
        if kind == "w":
            if path not in self.live:
                self.data.append([b""])
                self.synced.append(0)
                self._point(path, len(self.data) - 1)
            file = self.live[path]
            self.data[file].append(self.data[file][-1] + data)
        elif kind == "r" and path not in self.live:
            pass  # a link, which the loader never follows
        elif kind == "r":
            file = self.live[path]
            self._point(data.decode(), file)
            self._point(path, None)
        elif kind == "u":
            self._point(path, None)
        elif path in self.live:
            self.synced[self.live[path]] = len(self.data[self.live[path]]) - 1
        else:
            self.durable, self.pending = dict(self.live), []

    def _point(self, name: str, file: int | None) -> None:
        self.pending.append((name, file))
        if file is None:
            del self.live[name]
        else:
            self.live[name] = file

    def after_a_cut(self, chance: random.Random) -> dict[str, bytes]:
        names: dict[str, int | None] = dict(self.durable)
        names.update(change for change in self.pending if chance.random() < 0.5)
        return {
            name: chance.choice(self.data[file][self.synced[file] :])
            for name, file in names.items()
            if file is not None
        }


def test_a_power_cut_after_any_disk_call(shim: Path, memory_folder: Path) -> None:
    run_under_shim(shim, memory_folder, "record")
    content, at, chance = (memory_folder / "log").read_bytes(), 0, random.Random(1)
    disk, written, cuts, folder = Disk(), 0, 0, memory_folder / "after"
    while at < len(content):
        kind, (length,) = chr(content[at]), struct.unpack_from("<I", content, at + 1)
        path = content[at + 5 : at + 5 + length].decode()
        _, size = struct.unpack_from("<qq", content, at + 5 + length)
        at += 21 + length
        data, at = content[at : at + size], at + size
        if kind == "a":
            written += 1
            continue
        disk.call(kind, path, data)
        for _ in range(4):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name, bytes_ in disk.after_a_cut(chance).items():
                (folder / Path(name).name).write_bytes(bytes_)
            allowed = {written, written + 1}
            if written or manifest_path(folder / NAME).exists():
                assert version_of(folder) in allowed, f"after {kind} {path}"
            cuts += 1
    assert written == 3
    assert cuts > 100


def test_what_earlier_versions_wrote_is_replaced_and_the_rest_is_left(tmp_path: Path) -> None:
    write_plainly(tmp_path, 1)
    assert version_of(tmp_path) == 1
    others = ["sface.fp32.onnx", "sface.int8.notes.onnx", "arcface.int8.0123456789ab.onnx", ".arcface.int8.x.part"]
    for name in others:
        (tmp_path / name).write_text("not this build's")
    litter = ["sface.int8.0123456789ab.onnx", "sface.mixed.0123456789ab.plan", ".sface.int8.onnx.json.ab12.part"]
    for name in litter:
        (tmp_path / name).write_text("a killed build's")
    write(tmp_path, 2)
    assert version_of(tmp_path) == 2
    assert engines_in(tmp_path) == sorted([*others, engine(2).manifest.file, f"{NAME}.json"])


def test_control_c_before_the_switch_takes_the_new_bytes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    def interrupted(path: Path, content: bytes) -> None:
        if path == manifest_path(tmp_path / NAME):
            raise KeyboardInterrupt
        write_atomically(path, content)

    monkeypatch.setattr("edgeface.engines.exchange.write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 2)
    assert engines_in(tmp_path) == sorted([engine(1).manifest.file, f"{NAME}.json"])
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 1)  # the same bytes: they are in use
    assert version_of(tmp_path) == 1


def test_an_unreadable_manifest_keeps_its_engine_until_it_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 1)
    manifest_path(tmp_path / NAME).write_text("{")
    (tmp_path / "sface.fp16.0123456789ab.onnx").write_text("an engine")
    (tmp_path / "sface.fp16.onnx.json").write_text("{")
    write(tmp_path, 2)
    assert engines_in(tmp_path) == sorted(
        [engine(2).manifest.file, f"{NAME}.json", "sface.fp16.0123456789ab.onnx", "sface.fp16.onnx.json"]
    )


def _rebuild(folder: Path, version: int, stop: Event) -> None:
    while not stop.is_set():
        write(folder, version)
        version += 1


def test_firmware_that_starts_while_engines_are_replaced_gets_one_of_them(memory_folder: Path) -> None:
    """Two builds write at once, and loading never fails: not between a manifest and its bytes, nor for a swept file."""
    write(memory_folder, 1)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    builds = [context.Process(target=_rebuild, args=(memory_folder, first, stop)) for first in (100, 100_000)]
    for one in builds:
        one.start()
    seen: set[int] = set()
    end = time.monotonic() + 60
    try:
        while len(seen) < 30 and time.monotonic() < end:
            seen.add(version_of(memory_folder))
    finally:
        stop.set()
        for one in builds:
            one.join()
    assert [one.exitcode for one in builds] == [0, 0]
    assert len(seen) == 30, "the builds ran while engines were loaded"
    assert len(engines_in(memory_folder)) == 2
