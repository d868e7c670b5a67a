"""The gallery file's tables, versions and migrations; specified in `docs/formats/gallery.md`.

A new file runs every migration from 0; an older one runs those it lacks. Both in one transaction, so a power
cut leaves the file at one version or the other.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from edgeface.errors import GalleryFormatError

if TYPE_CHECKING:
    import sqlite3

#: SQLite's application id: "EFGL" in ASCII. `file` and `PRAGMA application_id` show it.
APPLICATION_ID = 0x4546474C

#: Kinds of change in the log. 1 and 2 change the search index, 3 changes a person's row only.
ADDED, REMOVED, EDITED = 1, 2, 3

#: Changes kept in the log. A reader that fell further behind loads everything again (0.2 s for 100,000
#: templates), so this trades about 2 MB of file for catching up cheaply after a large import.
CHANGES_KEPT = 100_000

_VERSION_1 = """
CREATE TABLE settings (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE models (
    model_key INTEGER PRIMARY KEY,
    model_id TEXT NOT NULL UNIQUE,
    dimension INTEGER NOT NULL CHECK (dimension BETWEEN 2 AND 16384),
    encoding TEXT NOT NULL CHECK (encoding IN ('int8', 'float32')),
    scale REAL NOT NULL CHECK (scale > 0)
) STRICT;
CREATE TABLE people (
    person_id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    metadata TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE templates (
    template_id INTEGER PRIMARY KEY AUTOINCREMENT,
    person_id INTEGER NOT NULL REFERENCES people (person_id) ON DELETE CASCADE,
    model_key INTEGER NOT NULL REFERENCES models (model_key),
    data BLOB NOT NULL,
    checksum INTEGER NOT NULL,
    quality REAL,
    source_hash TEXT,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX templates_by_person ON templates (person_id);
CREATE TABLE changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind INTEGER NOT NULL CHECK (kind IN (1, 2, 3)),
    person_id INTEGER NOT NULL,
    template_id INTEGER
) STRICT;
CREATE TRIGGER template_added AFTER INSERT ON templates BEGIN
    INSERT INTO changes (kind, person_id, template_id) VALUES (1, NEW.person_id, NEW.template_id);
END;
CREATE TRIGGER template_removed AFTER DELETE ON templates BEGIN
    INSERT INTO changes (kind, person_id, template_id) VALUES (2, OLD.person_id, OLD.template_id);
END;
CREATE TRIGGER template_changed AFTER UPDATE ON templates BEGIN
    SELECT RAISE(ABORT, 'templates are never changed in place');
END;
CREATE TRIGGER person_added AFTER INSERT ON people BEGIN
    INSERT INTO changes (kind, person_id) VALUES (3, NEW.person_id);
END;
CREATE TRIGGER person_edited AFTER UPDATE ON people BEGIN
    INSERT INTO changes (kind, person_id) VALUES (3, NEW.person_id);
END;
CREATE TRIGGER person_removed AFTER DELETE ON people BEGIN
    INSERT INTO changes (kind, person_id) VALUES (3, OLD.person_id);
END
"""

_VERSION_2 = """
CREATE TABLE person_keys (
    person_id INTEGER PRIMARY KEY REFERENCES people (person_id) ON DELETE CASCADE,
    wrapped BLOB NOT NULL
) STRICT
"""

#: MIGRATIONS[i] takes a file from version i to i + 1.
MIGRATIONS = (_VERSION_1, _VERSION_2)
VERSION = len(MIGRATIONS)


def stamp(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """(application id, schema version, number of tables) of an open file; writes nothing."""
    return (
        int(connection.execute("PRAGMA application_id").fetchone()[0]),
        int(connection.execute("PRAGMA user_version").fetchone()[0]),
        int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]),
    )


def check_stamp(found: tuple[int, int, int], path: str) -> int:
    """Refuse a file that is not a gallery, or is newer than this edgeface; return its schema version."""
    application, version, tables = found
    if application == 0 and version == 0 and tables == 0:
        return 0  # empty: just created, or the power went between creating the file and its first transaction
    if application != APPLICATION_ID:
        raise GalleryFormatError(
            f"{path}: an SQLite file of another program (application id {application:#x}, a gallery has "
            f"{APPLICATION_ID:#x}); choose another path"
        )
    if not 1 <= version <= VERSION:
        raise GalleryFormatError(
            f"{path}: gallery schema version {version}, this edgeface reads 1 to {VERSION}; update edgeface"
        )
    return version


def migrate(connection: sqlite3.Connection, path: str, *, model: tuple[str, int, str, float] | None) -> None:
    """Bring the file to `VERSION` inside the caller's write transaction.

    `model` is (model id, dimension, encoding, scale) of a new file; an older file keeps its own.
    """
    version = check_stamp(stamp(connection), path)
    for script in MIGRATIONS[version:]:
        for statement in _statements(script):
            connection.execute(statement)
    if version == 0:
        if model is None:
            raise GalleryFormatError(f"{path}: an empty file, not a gallery")
        connection.execute("INSERT INTO models VALUES (1, ?, ?, ?, ?)", model)
        # Binds the index snapshot, and later the encryption, to this file.
        connection.execute("INSERT INTO settings VALUES ('gallery_id', ?)", (uuid.uuid4().hex,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def object_names() -> set[str]:
    """Names of the tables, indexes and triggers of the current version."""
    words = [line.split() for script in MIGRATIONS for line in script.splitlines() if line.startswith("CREATE")]
    return {line[2] for line in words}


def _statements(script: str) -> list[str]:
    """Split a script where a line ends with `;`, except inside a trigger's body.

    `Connection.executescript` would commit the transaction first, so the statements are run one by one.
    """
    statements, lines = [], []
    for line in script.strip().splitlines():
        lines.append(line)
        inside = any(one.endswith("BEGIN") for one in lines) and not line.startswith("END")
        if line.endswith(";") and not inside:
            statements.append("\n".join(lines))
            lines = []
    return [*statements, "\n".join(lines)] if lines else statements
