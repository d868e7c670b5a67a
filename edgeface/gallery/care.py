"""Looking after a gallery file: check, repair, backup, figures."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeface.errors import GalleryBusyError, GalleryCorruptError, GalleryError
from edgeface.gallery import schema
from edgeface.gallery.database import Database, connect, sync_folder, translate, unlink_family
from edgeface.gallery.snapshot import snapshot_path
from edgeface.gallery.vault import OVERHEAD_BYTES
from edgeface.gallery.vectors import Codec, checksum

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class CheckReport:
    """What `check` found and did.

    Attributes:
        people, templates: how many the file holds now.
        problems: one line each; empty where all is well.
        enrol_again: names of people who lost templates or all of their record.
        repaired: what was done, one line each; empty unless asked for.
    """

    people: int = 0
    templates: int = 0
    problems: list[str] = field(default_factory=list)
    enrol_again: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)


def check(path: Path, *, repair: bool = False, busy_timeout_ms: int = 5000) -> CheckReport:
    """Read every row of a gallery file and hold it against its checksum.

    With `repair`, damaged templates are removed; where pages of the file itself are damaged, all that can be read is
    copied into a new file that takes its place, and the damaged one is kept beside it as ``NAME.damaged-SECONDS``.

    Raises:
        GalleryFormatError: not a gallery, or of a newer edgeface: nothing was touched.
        GalleryBusyError: a repair needs the write lock. GalleryError: nothing could be read at all.
    """
    report = CheckReport()
    try:
        database = Database(path, model=None, busy_timeout_ms=busy_timeout_ms)
    except GalleryCorruptError as error:
        report.problems.append(str(error))
        return _salvaged(path, report) if repair else report
    with contextlib.closing(database):
        mode = os.stat(path).st_mode & 0o777
        if mode & 0o077:
            report.problems.append(f"mode {mode:04o}: others than the owner can reach it; expected 0600")
            if repair:
                path.chmod(0o600)
                report.repaired.append("mode set to 0600")
        pages = _check_pages(database)
        report.problems += pages
        damaged: list[tuple[int, str]] = []
        if not pages:
            damaged = _check_rows(database, report)
        if repair and damaged:
            with database.writing() as connection:
                connection.executemany("DELETE FROM templates WHERE template_id = ?", [(one,) for one, _ in damaged])
            report.repaired.append(f"{len(damaged)} damaged templates removed")
            report.templates -= len(damaged)
    return _salvaged(path, report) if repair and pages else report


def _check_pages(database: Database) -> list[str]:
    try:
        with database.reading() as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
            found += [
                f"row {row[1]} of {row[0]} points to nothing" for row in connection.execute("PRAGMA foreign_key_check")
            ]
            wanted = schema.object_names()
            there = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master")}
            found += [f"{name} is missing from the schema" for name in sorted(wanted - there)]
    except GalleryBusyError:
        raise
    except GalleryError as error:
        found = [str(error)]
    return found


def _check_rows(database: Database, report: CheckReport) -> list[tuple[int, str]]:
    """Ids and owners of templates whose checksum or size is wrong."""
    damaged: list[tuple[int, str]] = []
    with database.reading() as connection:
        size = _stored_size(connection)
        report.people = int(connection.execute("SELECT count(*) FROM people").fetchone()[0])
        rows = connection.execute(
            "SELECT t.template_id, t.person_id, t.data, t.checksum, p.name FROM templates t JOIN people p "
            "USING (person_id)"
        )
        for template_id, person_id, data, stored, name in rows:
            report.templates += 1
            if len(data) != size or checksum(template_id, person_id, data) != stored:
                damaged.append((template_id, name))
    for template_id, name in damaged:
        report.problems.append(f"template {template_id} is damaged")
        if name not in report.enrol_again:
            report.enrol_again.append(name)
    return damaged


def _stored_size(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT dimension, encoding, scale FROM models").fetchone()
    if row is None:
        raise GalleryCorruptError("the row that names the model is missing; restore a backup")
    sealed = connection.execute("SELECT 1 FROM settings WHERE key = 'key_proof'").fetchone() is not None
    return Codec(int(row[0]), row[1], float(row[2])).size + (OVERHEAD_BYTES if sealed else 0)


def _salvaged(path: Path, report: CheckReport) -> CheckReport:
    """Copy what can be read, row by row, into a new file, and put that in the place of the damaged one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.repair")
    kept = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    unlink_family(fresh)
    try:
        with contextlib.closing(connect(path)) as source:
            try:
                model = source.execute("SELECT model_id, dimension, encoding, scale FROM models").fetchone()
                settings = source.execute("SELECT key, value FROM settings").fetchall()
                size = _stored_size(source)
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
        report.repaired.append(
            f"{len(people)} people and {len(sound)} templates copied to a new file; {lost} people and "
            f"{lost_templates + len(templates) - len(sound)} templates could not be read; the damaged file is {kept}"
        )
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        os.rename(path, kept)
        os.rename(fresh, path)
        sync_folder(path.parent)
    except sqlite3.Error as error:
        raise translate(error, path, 5000) from error
    except OSError as error:
        raise GalleryError(f"{path}: cannot write the repaired file: {error.strerror}") from error
    finally:
        unlink_family(fresh)
    snapshot_path(path).unlink(missing_ok=True)
    return report


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
