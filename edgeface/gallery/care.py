"""Looking after a gallery file: check, repair, backup, figures."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from edgeface.errors import GalleryBusyError, GalleryCorruptError, GalleryError
from edgeface.gallery import schema
from edgeface.gallery.database import Database, sync_folder, translate
from edgeface.gallery.snapshot import snapshot_path
from edgeface.gallery.vectors import Codec, checksum

if TYPE_CHECKING:
    from pathlib import Path

    from edgeface.gallery.store import Store


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
        codec = _codec(connection)
        report.people = int(connection.execute("SELECT count(*) FROM people").fetchone()[0])
        rows = connection.execute(
            "SELECT t.template_id, t.person_id, t.data, t.checksum, p.name FROM templates t JOIN people p "
            "USING (person_id)"
        )
        for template_id, person_id, data, stored, name in rows:
            report.templates += 1
            if len(data) != codec.size or checksum(template_id, person_id, data) != stored:
                damaged.append((template_id, name))
    for template_id, name in damaged:
        report.problems.append(f"template {template_id} is damaged")
        if name not in report.enrol_again:
            report.enrol_again.append(name)
    return damaged


def _codec(connection: sqlite3.Connection) -> Codec:
    row = connection.execute("SELECT dimension, encoding, scale FROM models").fetchone()
    if row is None:
        raise GalleryCorruptError("the row that names the model is missing; restore a backup")
    return Codec(int(row[0]), row[1], float(row[2]))


def _salvaged(path: Path, report: CheckReport) -> CheckReport:
    """Copy what can be read, row by row, into a new file, and put that in the place of the damaged one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.repair")
    kept = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    _unlink_family(fresh)
    try:
        with contextlib.closing(_connect(path)) as source:
            try:
                model = source.execute("SELECT model_id, dimension, encoding, scale FROM models").fetchone()
                identity = source.execute("SELECT value FROM settings WHERE key = 'gallery_id'").fetchone()
            except sqlite3.Error as error:
                raise GalleryCorruptError(
                    f"{path}: not even the model's name can be read ({error}); restore a backup"
                ) from error
            people, lost = _rows(source, "people", "person_id")
            templates, lost_templates = _rows(source, "templates", "template_id")
        with contextlib.closing(Database(fresh, model=tuple(model), busy_timeout_ms=5000)) as target:
            size = Codec(int(model[1]), model[2], float(model[3])).size
            with target.writing() as connection:
                connection.execute("UPDATE settings SET value = ? WHERE key = 'gallery_id'", identity)
                connection.executemany("INSERT INTO people VALUES (?, ?, ?, ?, ?)", people)
                names = {row[0]: row[1] for row in people}
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
        _unlink_family(fresh)
    snapshot_path(path).unlink(missing_ok=True)
    return report


def _rows(source: sqlite3.Connection, table: str, key: str) -> tuple[list[tuple[Any, ...]], int]:
    """Every row that can be read by its id, and how many ids that were given cannot be told to be free or lost."""
    try:
        last = source.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
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


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None)


def _unlink_family(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def backup(store: Store, target: Path) -> None:
    """Copy the gallery, while it is in use, into one file that is there whole or not at all, mode 0600."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    _unlink_family(temporary)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with contextlib.closing(_connect(store.path)) as source, contextlib.closing(_connect(temporary)) as copy:
            source.backup(copy)  # all pages at once: one state of the file, and nobody has to wait for it
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, no -wal beside it
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
        sync_folder(target.parent)
    except sqlite3.Error as error:
        raise translate(error, store.path, 0) from error
    except OSError as error:
        raise GalleryError(f"{target}: cannot write the backup: {error.strerror}") from error
    finally:
        _unlink_family(temporary)


def stats(store: Store) -> dict[str, Any]:
    """Figures of an open gallery: see `Gallery.stats`."""
    with store.database.reading() as connection:
        people, templates = (
            int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in ("people", "templates")
        )
        most = connection.execute(
            "SELECT max(n) FROM (SELECT count(*) AS n FROM templates GROUP BY person_id)"
        ).fetchone()[0]
        seq = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
        quality = connection.execute("SELECT avg(quality) FROM templates").fetchone()[0]
    sizes = {}
    for word, suffix in (("file", ""), ("log", "-wal"), ("index", ".index")):
        beside = store.path.with_name(store.path.name + suffix)
        sizes[f"{word}_bytes"] = beside.stat().st_size if beside.exists() else 0
    return {
        "path": str(store.path),
        "gallery_id": store.gallery_id,
        "model_id": store.model_id,
        "dimension": store.codec.dimension,
        "template": store.codec.encoding,
        "schema_version": schema.VERSION,
        "people": people,
        "templates": templates,
        "most_templates_of_one": int(most or 0),
        "mean_quality": quality,
        "changes": int(seq[0]) if seq else 0,
        **sizes,
    }
