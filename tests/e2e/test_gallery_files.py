"""Files in the wrong state, locks held too long, and many writers at once."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface.errors import GalleryBusyError, GalleryCorruptError, GalleryError, GalleryFormatError, InputError
from edgeface.gallery import Gallery, schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt


def unit_rows(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, 64))
    unit: npt.NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def opened(path: Path | str, **options: Any) -> Gallery:
    return Gallery.open(path, model_id="m", dimension=64, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "kiosk.gallery"
    with opened(path) as gallery:
        for number in range(30):
            gallery.add(f"person {number}", unit_rows(2, number))
    return path


def test_a_file_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(GalleryFormatError, match="another program"):
        opened(path)
    assert path.read_bytes() == before
    text = tmp_path / "text"
    text.write_text("hello " * 1000)
    with pytest.raises(GalleryFormatError, match="not a gallery"):
        opened(text)
    with pytest.raises(GalleryFormatError, match="folder"):
        opened(tmp_path)
    with pytest.raises(GalleryError, match="cannot"):
        opened(tmp_path / "no" / "folder")
    with pytest.raises(InputError, match="memory"):
        Gallery.open(":memory:", model_id="m", dimension=64)


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    with pytest.raises(GalleryFormatError, match=f"version {schema.VERSION + 1}.*update edgeface"):
        opened(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION + 1


def test_an_existing_file_is_needed_where_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="No such file"):
        Gallery.open(tmp_path / "absent", model_id=None)
    (tmp_path / "empty").touch()
    with pytest.raises(GalleryFormatError, match="empty file"):
        Gallery.open(tmp_path / "empty", model_id=None)
    assert not (tmp_path / "absent").exists()


def test_damage_anywhere_is_an_error_of_ours_or_harmless(path: Path, tmp_path: Path) -> None:
    """Overwrites a stretch at many places: answers stay right, or an error names the damage; nothing else
    escapes.
    """
    whole, broken = path.read_bytes(), tmp_path / "broken.gallery"
    truth = {f"person {number}": unit_rows(2, number) for number in range(30)}
    refused = 0
    for at in range(0, len(whole), 997):
        broken.write_bytes(whole[:at] + b"\xa5" * 64 + whole[at + 64 :])
        try:
            with opened(broken) as gallery:
                for person in gallery.people():
                    if person.name in truth:
                        match = gallery.search(truth[person.name], k=1)[0]
                        assert match.similarities[0] < 1.01
        except GalleryError:
            refused += 1
        for extra in ("-wal", "-shm"):
            broken.with_name(broken.name + extra).unlink(missing_ok=True)
    assert refused > 0


def test_a_changed_template_is_found_when_it_is_loaded(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER template_changed")
        data = connection.execute("SELECT data FROM templates WHERE template_id = 7").fetchone()[0]
        changed = bytes([data[0] ^ 1]) + data[1:]
        connection.execute("UPDATE templates SET data = ? WHERE template_id = 7", (changed,))
        connection.commit()
    with pytest.raises(GalleryCorruptError, match="template 7 of person 4"):
        opened(path)


def test_templates_that_changed_places_are_found(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER template_changed")
        connection.execute("UPDATE templates SET person_id = 9 WHERE template_id = 1")
        connection.commit()
    with pytest.raises(GalleryCorruptError, match="template 1"):
        opened(path)


def test_a_vanished_or_replaced_file_is_an_error_and_not_a_lost_face(path: Path) -> None:
    with opened(path) as gallery:
        moved = path.with_name("moved")
        path.rename(moved)
        for call in (lambda: gallery.add("eve", unit_rows(1, 99)), lambda: gallery.search(unit_rows(1))):
            with pytest.raises(GalleryError, match="vanished"):
                call()
        shutil.copy(moved, path)
        with pytest.raises(GalleryError, match="took its place"):
            gallery.add("eve", unit_rows(1, 99))


def _as_nobody(call: Callable[[], object]) -> str:
    """What `call` raises in a child process without root's rights."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            call()
            os.write(write, b"no error")
        except GalleryError as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as pipe:
        return pipe.read().decode()


def test_a_read_only_file_or_folder_and_a_wrong_owner_are_named(path: Path) -> None:
    for folder in (path.parent, *path.parents):  # the child must reach the file to be refused by the file itself
        if folder.stat().st_uid == os.geteuid() and folder.name:
            folder.chmod(folder.stat().st_mode | 0o011)
    if os.geteuid() == 0:
        assert "owner uid 0, mode 0600" in _as_nobody(lambda: opened(path))
    path.chmod(0o444)
    assert "no permission to read and write" in _as_nobody(lambda: opened(path))
    path.chmod(0o666)
    path.parent.chmod(0o555)
    told = _as_nobody(lambda: opened(path))
    assert told.startswith("GalleryError")
    assert "permissions" in told or "read-only" in told
    path.parent.chmod(0o755)


def _hold_lock(path: str, held: Any, release: Any) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        held.set()
        release.wait(30)
        connection.execute("ROLLBACK")


def test_a_lock_held_too_long_names_its_holder_and_searching_goes_on(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    child = context.Process(target=_hold_lock, args=(str(path), held, release))
    with opened(path, busy_timeout_ms=200) as gallery:
        child.start()
        assert held.wait(30)
        start = time.perf_counter()
        with pytest.raises(GalleryBusyError, match=rf"within 200 ms; held by process {child.pid} "):
            gallery.add("eve", unit_rows(1, 99))
        assert 0.15 < time.perf_counter() - start < 5
        assert gallery.search(unit_rows(1, 3), k=1)[0].names == ("person 3",)
        release.set()
        child.join(30)
        gallery.add("eve", unit_rows(1, 99))


def test_two_objects_of_one_process_wait_for_each_other(path: Path) -> None:
    with opened(path, busy_timeout_ms=100) as one, opened(path, busy_timeout_ms=100) as two:
        with (
            one._store.database.writing(),
            pytest.raises(GalleryBusyError, match="this process, through another Gallery"),
        ):
            two.add("eve", unit_rows(1, 99))
        two.add("eve", unit_rows(1, 99))


def _hammer(path: str, seconds: float, worker: int, failures: Any) -> None:
    try:
        with opened(path, busy_timeout_ms=30_000) as gallery:
            counts = [0, 0]
            end = time.monotonic() + seconds

            def write(part: int) -> None:
                while time.monotonic() < end or counts[part] < 4:  # on a busy machine a writer may wait long
                    name = f"w{worker}.{part}.{counts[part]}"
                    gallery.add(name, unit_rows(1, hash(name) & 0xFFFFFFF))
                    if counts[part] % 3 == 2:
                        gallery.remove(f"w{worker}.{part}.{counts[part] - 1}")
                    counts[part] += 1

            threads = [threading.Thread(target=write, args=(part,)) for part in (0, 1)]
            for thread in threads:
                thread.start()
            while time.monotonic() < end:
                number = worker * 7 % 30
                assert gallery.search(unit_rows(1, number), k=1)[0].names == (f"person {number}",)
            for thread in threads:
                thread.join()
            failures.put((worker, counts, None))
    except BaseException as error:  # noqa: BLE001 - carried to the parent process
        failures.put((worker, [], repr(error)))


def hammer(path: Path, seconds: float) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    children = [context.Process(target=_hammer, args=(str(path), seconds, worker, results)) for worker in range(3)]
    for child in children:
        child.start()
    expected = {f"person {number}" for number in range(30)}
    for _ in children:
        worker, counts, failure = results.get(timeout=seconds + 90)
        assert failure is None
        for part, count in enumerate(counts):
            assert count > 3
            removed = {i - 1 for i in range(count) if i % 3 == 2}
            expected |= {f"w{worker}.{part}.{i}" for i in range(count) if i not in removed}
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    with opened(path) as gallery:
        assert {person.name for person in gallery.people()} == expected


def test_threads_of_three_processes_hammer_one_file(path: Path) -> None:
    hammer(path, 4)


@pytest.mark.slow
def test_threads_of_three_processes_hammer_one_file_for_a_minute(path: Path) -> None:
    hammer(path, 60)
