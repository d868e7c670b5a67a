"""Looking after a gallery file: check and repair."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from edgeface.errors import GalleryBusyError, GalleryCorruptError, GalleryError
from edgeface.gallery import schema
from edgeface.gallery.database import Database
from edgeface.gallery.salvage import CheckReport, salvage, stored_size
from edgeface.gallery.vectors import checksum

if TYPE_CHECKING:
    from pathlib import Path


def check(path: Path, *, repair: bool = False, busy_timeout_ms: int = 5000) -> CheckReport:
    """Read every row of a gallery file and hold it against its checksum.

    With `repair`, damaged templates are removed; where pages of the file itself are damaged, all that can be read is
    copied into a new file that takes its place, and the damaged one is kept beside it as ``NAME.damaged-SECONDS``.

    Raises:
        GalleryFormatError: not a gallery, or of a newer edgeface: nothing was touched.
        GalleryBusyError: a repair needs the write lock; where pages are damaged, nobody else may have the file open.
        GalleryError: nothing could be read at all.
    """
    report = CheckReport()
    try:
        database = Database(path, model=None, busy_timeout_ms=busy_timeout_ms)
    except GalleryCorruptError as error:
        report.problems.append(str(error))
        return salvage(path, report) if repair else report
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
    return salvage(path, report) if repair and pages else report


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
        size = stored_size(connection)
        report.model_id = str(connection.execute("SELECT model_id FROM models").fetchone()[0])
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
