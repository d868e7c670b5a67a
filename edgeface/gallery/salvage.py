"""Rescue of a gallery file with damaged pages: all that can be read goes into a new file that takes its place."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeface.errors import GalleryBusyError, GalleryCorruptError, GalleryError
from edgeface.gallery.database import Database, connect, sync_folder, translate, unlink_family
from edgeface.gallery.snapshot import snapshot_path
from edgeface.gallery.vault import OVERHEAD_BYTES
from edgeface.gallery.vectors import Codec, checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Files beside a gallery that SQLite would play into whatever file has the gallery's name.
_LOGS = ("-wal", "-journal")


@dataclass
class CheckReport:
    """What `check` found and did.

    Attributes:
        model_id: of the templates; empty where it cannot be read.
        people, templates: how many the file holds now.
        problems: one line each; empty where all is well.
        enrol_again: names of people who lost templates or all of their record.
        repaired: what was done, one line each; empty unless asked for.
    """

    model_id: str = ""
    people: int = 0
    templates: int = 0
    problems: list[str] = field(default_factory=list)
    enrol_again: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)


def salvage(path: Path, report: CheckReport) -> CheckReport:
    """Copy what can be read, row by row, into a new file, and put that in the place of the damaged one.

    The damaged file and its log are kept as ``NAME.damaged-SECONDS``; at every moment there is a file at `path`.

    Raises:
        GalleryBusyError: somebody has the file open. GalleryError: nothing could be read, or written; nothing changed.
    """
    fresh: Path | None = None
    replaced = False
    kept = _second_name(path)
    try:
        with _alone(path, kept) as source:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".repair")
            os.close(handle)
            fresh = Path(name)
            lost, lost_templates = _copied(source, path, fresh, report)
            _sync_file(fresh)
            with contextlib.suppress(sqlite3.Error):  # so that the damaged file misses nothing without its log either
                source.execute("PRAGMA wal_checkpoint(PASSIVE)")
            for suffix in _LOGS:  # their second names stay with the damaged file
                if _beside(path, suffix).exists():
                    os.replace(_beside(path, suffix), _beside(kept, suffix + "-kept"))
            _beside(path, "-shm").unlink(missing_ok=True)
            os.replace(fresh, path)
            replaced = True
        for suffix in _LOGS:  # SQLite has folded in and deleted its own name of the log
            if _beside(kept, suffix + "-kept").exists():
                os.replace(_beside(kept, suffix + "-kept"), _beside(kept, suffix))
        sync_folder(path.parent)
    except sqlite3.Error as error:
        raise translate(error, path, 5000) from error
    except OSError as error:
        raise GalleryError(f"{path}: cannot write the repaired file: {error.strerror}") from error
    finally:
        if fresh is not None:
            unlink_family(fresh)
        if not replaced:
            for suffix in _LOGS:
                moved = _beside(kept, suffix + "-kept")
                if moved.exists():
                    os.replace(moved, _beside(path, suffix))
            unlink_family(kept)
    report.repaired.append(
        f"{report.people} people and {report.templates} templates copied to a new file; {lost} people and "
        f"{lost_templates} templates could not be read; the damaged file is {kept}"
    )
    snapshot_path(path).unlink(missing_ok=True)
    return report


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _second_name(path: Path) -> Path:
    """Give the damaged file and its logs a second name each, so that they stay when `path` is replaced."""
    second = int(time.time())
    while True:
        kept = _beside(path, f".damaged-{second}")
        try:
            os.link(path, kept)
        except FileExistsError:
            second += 1
            continue
        except OSError as error:
            raise GalleryError(f"{path}: cannot keep the damaged file as {kept}: {error.strerror}") from error
        break
    try:
        for suffix in _LOGS:
            with contextlib.suppress(FileNotFoundError):
                os.link(_beside(path, suffix), _beside(kept, suffix))
        sync_folder(path.parent)
    except OSError as error:
        unlink_family(kept)
        raise GalleryError(f"{path}: cannot keep its log beside {kept}: {error.strerror}") from error
    return kept


@contextlib.contextmanager
def _alone(path: Path, kept: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the damaged file that nobody can read or write beside.

    Through the second name: SQLite deletes the log at its own name when it closes, and by then a log at `path` may be
    the new file's. Locks belong to the file, whatever it is called.
    """
    with contextlib.closing(connect(kept)) as source:
        try:
            source.execute("PRAGMA locking_mode = EXCLUSIVE")  # in WAL mode: refused while others have it open
            source.execute("BEGIN EXCLUSIVE")
            source.execute("COMMIT")  # the lock stays
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise GalleryBusyError(
                    f"{path}: its pages are damaged and somebody has it open; close it everywhere, then run "
                    f"`edgeface gallery check --gallery {path} --repair` again"
                ) from error
            raise GalleryCorruptError(f"{path}: its first page cannot be read ({error}); restore a backup") from error
        for suffix in ("", *_LOGS):
            one, other = _beside(path, suffix), _beside(kept, suffix)
            if one.exists() and not (other.exists() and one.samefile(other)) and suffix != "-journal":
                raise GalleryBusyError(f"{path}: somebody used it while it was being repaired; close it and try again")
        yield source


def _copied(source: sqlite3.Connection, path: Path, fresh: Path, report: CheckReport) -> tuple[int, int]:
    """Write all sound rows to `fresh`, say so in the report; returns how many people and templates were lost."""
    try:
        model = source.execute("SELECT model_id, dimension, encoding, scale FROM models").fetchone()
        settings = source.execute("SELECT key, value FROM settings").fetchall()
        size = stored_size(source)
    except sqlite3.Error as error:
        raise GalleryCorruptError(
            f"{path}: not even the model's name can be read ({error}); restore a backup"
        ) from error
    people, lost = _rows(source, "people", "person_id")
    templates, lost_templates = _rows(source, "templates", "template_id")
    sealed = any(key == "key_proof" for key, _ in settings)
    keys = _rows(source, "person_keys", "person_id", "people")[0] if sealed else []
    target = Database(fresh, model=tuple(model), busy_timeout_ms=5000)
    with contextlib.closing(target), target.writing() as connection:
        connection.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", settings)
        connection.executemany("INSERT INTO people VALUES (?, ?, ?, ?, ?)", people)
        names = {row[0]: row[1] for row in people}
        connection.executemany("INSERT INTO person_keys VALUES (?, ?)", [row for row in keys if row[0] in names])
        sound = [
            row for row in templates
            if row[1] in names and len(row[3]) == size and checksum(row[0], row[1], row[3]) == row[4]
        ]  # fmt: skip
        connection.executemany("INSERT INTO templates VALUES (?, ?, ?, ?, ?, ?, ?, ?)", sound)
    owners = {row[1] for row in sound}
    report.people, report.templates = len(people), len(sound)
    report.enrol_again = [name for one, name in names.items() if one not in owners]
    return lost, lost_templates + len(templates) - len(sound)


def stored_size(connection: sqlite3.Connection) -> int:
    """Bytes of a template in this file. Raises GalleryCorruptError."""
    row = connection.execute("SELECT dimension, encoding, scale FROM models").fetchone()
    if row is None:
        raise GalleryCorruptError("the row that names the model is missing; restore a backup")
    sealed = connection.execute("SELECT 1 FROM settings WHERE key = 'key_proof'").fetchone() is not None
    return Codec(int(row[0]), row[1], float(row[2])).size + (OVERHEAD_BYTES if sealed else 0)


def _rows(source: sqlite3.Connection, table: str, key: str, numbered: str = "") -> tuple[list[tuple[Any, ...]], int]:
    """Every row that can be read by its id, and how many ids that were given cannot be told to be free or lost."""
    try:
        last = source.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (numbered or table,)).fetchone()
    except sqlite3.Error:
        last = None
    rows, lost = [], 0
    for one in range(1, (int(last[0]) if last else 1_000_000) + 1):
        try:
            row = source.execute(f"SELECT * FROM {table} WHERE {key} = ?", (one,)).fetchone()
        except (sqlite3.Error, UnicodeDecodeError):
            lost += 1
            continue
        if row is not None:
            rows.append(row)
    return rows, lost
