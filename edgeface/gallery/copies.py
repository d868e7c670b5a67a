"""Copies of a gallery: making them while it is in use, and erasing a person from them too."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeface.errors import GalleryError
from edgeface.gallery import schema
from edgeface.gallery.database import connect, sync_folder, translate, unlink_family
from edgeface.gallery.snapshot import snapshot_path

if TYPE_CHECKING:
    from edgeface.gallery.store import Store

log = logging.getLogger(__name__)


def backup(store: Store, target: Path) -> None:
    """Copy the gallery, while it is in use, into one file that is there whole or not at all, mode 0600."""
    temporary = None
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")  # mode 0600
        os.close(descriptor)
        temporary = Path(name)
        with contextlib.closing(connect(store.path)) as source, contextlib.closing(connect(temporary)) as copy:
            source.backup(copy)  # all pages at once: one state of the file, and nobody has to wait for it
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, no -wal beside it
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _remember(store, target)  # before it is there: a copy that is not remembered would not be erased from
        os.replace(temporary, target)
        sync_folder(target.parent)
    except sqlite3.Error as error:
        raise translate(error, target if "full" in str(error) else store.path, 0) from error
    except OSError as error:
        raise GalleryError(f"{target}: cannot write the backup: {error.strerror}") from error
    finally:
        if temporary is not None:
            unlink_family(temporary)


def _remember(store: Store, target: Path) -> None:
    """Keep the copy's place, so that `erase` finds it."""
    with store.database.writing() as connection:
        row = connection.execute("SELECT value FROM settings WHERE key = 'backups'").fetchone()
        known = set(json.loads(row[0])) if row else set()
        known.add(str(target.resolve()))
        connection.execute("INSERT OR REPLACE INTO settings VALUES ('backups', ?)", (json.dumps(sorted(known)),))


def forget_deleted(store: Store) -> list[str]:
    """Get removed bytes off the disk; returns, and logs, one line where another process holds that back."""
    if store.database.forget_deleted():
        return []
    line = (
        f"{store.path}-wal: another process is reading the gallery, so removed bytes stay there until the next change "
        "or closing after it has finished"
    )
    log.warning("%s", line)
    return [line]


def erase(store: Store, person_id: int) -> list[str]:
    """What is left to do after a person's rows are gone; returns one line for each place that was out of reach."""
    try:
        missed = forget_deleted(store)
    except GalleryError as error:  # the backups are not to be left out for that
        missed = [str(error)]
    try:
        snapshot_path(store.path).unlink(missing_ok=True)  # its links tell who resembled the person
    except OSError as error:
        missed.append(f"{snapshot_path(store.path)}: {error.strerror}")
    return missed + erase_from_backups(store, person_id)


def erase_from_backups(store: Store, person_id: int) -> list[str]:
    """Remove a person from every copy that `backup` made; returns one line for each copy that was out of reach."""
    missed = []
    for path in (Path(one) for one in json.loads(store.setting("backups") or "[]")):
        try:
            with contextlib.closing(connect(path)) as copy:
                identity = copy.execute("SELECT value FROM settings WHERE key = 'gallery_id'").fetchone()
                if schema.stamp(copy)[0] != schema.APPLICATION_ID or identity != (store.gallery_id,):
                    missed.append(f"{path}: is no copy of this gallery any more")
                    continue
                copy.execute("PRAGMA foreign_keys = ON")
                copy.execute("PRAGMA secure_delete = ON")
                copy.execute("PRAGMA synchronous = EXTRA")
                copy.execute("DELETE FROM people WHERE person_id = ?", (person_id,))
        except (sqlite3.Error, OSError) as error:
            missed.append(f"{path}: {error}")
    return missed


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
        "encrypted": store.vault is not None,
        "schema_version": schema.VERSION,
        "people": people,
        "templates": templates,
        "most_templates_of_one": int(most or 0),
        "mean_quality": quality,
        "changes": int(seq[0]) if seq else 0,
        **sizes,
    }
