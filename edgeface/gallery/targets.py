"""Where a backup or an export may go: a new file, or the place of an earlier one, and never over anything else."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path
from urllib.parse import quote

from edgeface.errors import GalleryError
from edgeface.gallery import schema
from edgeface.home import checked_path

#: What stands beside a gallery file, by the end of its name.
FAMILY = ("", "-wal", "-shm", "-journal", ".index")


def checked_target(where: str, given: object, gallery: Path, *, magic: bytes = b"", gallery_id: str = "") -> Path:
    """The path to write a copy of `gallery` to.

    A file that is there may be replaced when it is empty or an earlier copy: it starts with `magic`, or it is a
    backup of the gallery `gallery_id`.

    Raises:
        InputError: `given` is no path. GalleryError: something stands there that must not be replaced.
    """
    target = checked_path(where, given)
    refused = f"{target}: cannot write the {'export' if magic else 'backup'}: "
    home, place = Path(os.path.realpath(gallery)), Path(os.path.realpath(target.parent), target.name)
    own = [home.with_name(home.name + suffix) for suffix in FAMILY]
    try:
        if not target.name or target.name == ".." or target.is_dir():
            raise GalleryError(f"{refused}it is a folder; name a file in it")
        if not target.parent.is_dir():
            raise GalleryError(f"{refused}there is no folder {target.parent}; make it first")
        there = os.lstat(target) if os.path.lexists(target) else None
        same = there is not None and any(one.exists() and one.samefile(target) for one in own)
        if same or place in own or (place.name.startswith(home.name + ".damaged-") and place.parent == home.parent):
            raise GalleryError(f"{refused}it belongs to the gallery itself; choose another name")
        if not magic and any(place.with_name(place.name + suffix).exists() for suffix in ("-wal", "-journal")):
            # SQLite would play them into the new file.
            raise GalleryError(f"{refused}SQLite's files beside it say that it is in use; choose another name")
        if there is None:
            return target
        if not stat.S_ISREG(there.st_mode):
            raise GalleryError(f"{refused}a link or device stands there; choose another name")
        if there.st_size and not (_starts(target, magic) if magic else _is_backup(target, gallery_id)):
            earlier = "an earlier export" if magic else "an earlier backup of this gallery"
            raise GalleryError(f"{refused}the file there is not {earlier}; choose another name or delete it")
    except OSError as error:
        raise GalleryError(f"{refused}{error.strerror}") from error
    return target


def _starts(path: Path, magic: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic


def _is_backup(path: Path, gallery_id: str) -> bool:
    uri = f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1"  # immutable: no file is made beside it
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            identity = connection.execute("SELECT value FROM settings WHERE key = 'gallery_id'").fetchone()
            return schema.stamp(connection)[0] == schema.APPLICATION_ID and identity == (gallery_id,)
    except (sqlite3.Error, UnicodeDecodeError):
        return False
