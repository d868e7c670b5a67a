"""One SQLite file: opening it safely, transactions, and SQLite's errors said in edgeface's words.

Two connections: the writer takes SQLite's write lock, the reader serves searches while somebody else writes (WAL).
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from edgeface.errors import (
    ClosedError,
    ConfigurationError,
    GalleryBusyError,
    GalleryCorruptError,
    GalleryError,
    GalleryFormatError,
    InputError,
)
from edgeface.gallery import schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: The first SQLite with STRICT tables; JetPack 6 (Ubuntu 22.04) has 3.37.2.
LEAST_SQLITE = (3, 37, 0)

#: SQLite's WAL write lock is this byte of the -shm file (WAL_WRITE_LOCK; sqlite.org/walformat.html, section 2.3.1).
_WAL_WRITE_LOCK_BYTE = 120


class Database:
    """The two connections of one open gallery file. Safe to use from several threads."""

    def __init__(self, path: Path, *, model: tuple[str, int, str, float] | None, busy_timeout_ms: int) -> None:
        """Open the file, create it when absent and `model` is given, bring it to the current schema.

        Raises:
            GalleryFormatError, GalleryCorruptError: it is not a gallery this edgeface reads.
            GalleryError: it cannot be created, opened or written.
            GalleryBusyError: another process held the write lock for `busy_timeout_ms`.
        """
        self.path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._writer_lock = threading.Lock()
        self._reader_lock = threading.RLock()
        self._pid = os.getpid()
        self._closed = False
        if sqlite3.sqlite_version_info < LEAST_SQLITE:
            raise ConfigurationError(
                f"Python's sqlite3 module uses SQLite {sqlite3.sqlite_version}; the gallery needs 3.37 or newer"
            )
        if model is not None:
            _create(path)
        _check_access(path)
        with self._said():
            self._writer = self._connect()
        try:
            with self._said(), self._decoded():
                self._prepare(model)
                self._reader = self._connect()
            # At every opening, not only the first: whoever created the file may have failed before this.
            sync_folder(path.parent)
            status = os.stat(path)
        except OSError as error:
            self._writer.close()
            raise GalleryError(f"{path}: cannot make its folder durable: {error.strerror}") from error
        except BaseException:
            self._writer.close()
            raise
        self._identity = (status.st_dev, status.st_ino)

    def _connect(self) -> sqlite3.Connection:
        # isolation_level None: BEGIN and COMMIT stand in this file, where they can be read.
        return sqlite3.connect(
            f"file:{quote(os.fsencode(self.path))}?mode=rw",
            uri=True,
            timeout=self._busy_timeout_ms / 1e3,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )

    def _prepare(self, model: tuple[str, int, str, float] | None) -> None:
        version = schema.check_stamp(schema.stamp(self._writer), str(self.path))
        _set_up(self._writer)
        self._writer.execute("PRAGMA journal_mode = WAL")
        if version < schema.VERSION:
            with self.writing() as connection:
                schema.migrate(connection, str(self.path), model=model)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed and on disk when the block ends, undone when it raises."""
        self._check_usable()
        if not self._writer_lock.acquire(timeout=self._busy_timeout_ms / 1e3):
            raise GalleryBusyError(
                f"{self.path}: another thread of this process has been writing for {self._busy_timeout_ms} ms"
            )
        try:
            self._check_usable()
            with self._said():
                self._writer.execute("BEGIN IMMEDIATE")
                try:
                    yield self._writer
                    self._writer.execute("COMMIT")
                except BaseException:
                    if self._writer.in_transaction:
                        self._writer.execute("ROLLBACK")
                    raise
        finally:
            self._writer_lock.release()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One read transaction: every statement in the block sees the same state of the file."""
        with self._reader_lock:
            self._check_usable()
            with self._said(), self._decoded():
                self._reader.execute("BEGIN")
                try:
                    yield self._reader
                finally:
                    if self._reader.in_transaction:
                        self._reader.execute("COMMIT")

    def query(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """The rows of one SELECT, which is a transaction of its own."""
        with self._reader_lock:
            self._check_usable()
            with self._said(), self._decoded():
                return self._reader.execute(statement, values).fetchall()

    def data_version(self) -> int:
        """A number that differs after any other connection, in this or another process, has committed."""
        with self._reader_lock:
            self._check_usable()
            with self._said(), self._decoded():
                return int(self._reader.execute("PRAGMA data_version").fetchone()[0])

    def forget_deleted(self) -> bool:
        """Move the log into the file and cut it to nothing, so that deleted rows are on the disk no more.

        Returns False when a reader of another process holds it back; it then happens at that reader's end.
        """
        with self._writer_lock:
            self._check_usable()
            try:
                with self._said():
                    return int(self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]) == 0
            except GalleryBusyError:
                return False
            except GalleryError as error:
                raise GalleryError(
                    f"{error}: the person is removed, but their bytes stay in {self.path}-wal until it is next folded "
                    "into the file"
                ) from error

    def close(self) -> None:
        """Close both connections; SQLite folds the log into the file at the last one's end."""
        with self._writer_lock, self._reader_lock:
            if not self._closed:
                self._closed = True
                if os.getpid() == self._pid:
                    self._reader.close()
                    self._writer.close()

    def _check_usable(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.path}: the gallery is closed")
        if os.getpid() != self._pid:
            # SQLite: "do not carry a connection across a fork"; the locks would be lost silently.
            raise ClosedError(f"{self.path}: opened before a fork; open the gallery again in the child process")
        if not hasattr(self, "_identity"):
            return  # still being opened
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise GalleryError(
                f"{self.path}: the file vanished while it was open ({error.strerror}); open it again"
            ) from None
        if (status.st_dev, status.st_ino) != self._identity:
            raise GalleryError(f"{self.path}: another file took its place while it was open; open it again")

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, self.path, self._busy_timeout_ms) from error
        except UnicodeDecodeError as error:  # sqlite3's own, where SQLite's message quotes a damaged name
            raise self._damaged(error) from error

    @contextmanager
    def _decoded(self) -> Iterator[None]:
        """Around what makes values of rows, and nothing else: elsewhere the same errors are mistakes in a program."""
        try:
            yield
        except (json.JSONDecodeError, OverflowError, TypeError) as error:
            # Rows are checked before they are written, so text or numbers of another kind mean damage.
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> GalleryCorruptError:
        return GalleryCorruptError(
            f"{self.path}: the file is damaged (a row cannot be read: {type(error).__name__}); run "
            f"`edgeface gallery check --gallery {self.path} --repair` or restore a backup"
        )


def _set_up(connection: sqlite3.Connection) -> None:
    # In WAL mode the same as FULL: every commit is fsynced, which is what "durable when add returns" means.
    # Before, while the new file is switched to WAL, EXTRA also syncs the folder after the rollback journal is
    # unlinked: a journal that a power cut brings back would roll the file back to nothing.
    connection.execute("PRAGMA synchronous = EXTRA")
    connection.execute("PRAGMA foreign_keys = ON")
    # A removed template is biometric data: its bytes are overwritten, not only marked free.
    connection.execute("PRAGMA secure_delete = ON")


def _create(path: Path) -> None:
    """Create an empty file with mode 0600 unless there is one already."""
    if path.name == ":memory:":
        raise InputError("Gallery.open: a gallery is a file; for one that lives in memory choose a path in /dev/shm")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise GalleryError(f"{path}: cannot create the gallery: {error.strerror}") from error


def _check_access(path: Path) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        raise GalleryError(f"{path}: cannot open the gallery: {error.strerror}") from error
    if not path.is_file():
        raise GalleryFormatError(f"{path}: expected a gallery file, got a folder or device")
    if not os.access(path, os.R_OK | os.W_OK):
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise GalleryError(f"{path}: its file system is mounted read-only; move the gallery to one that is not")
        raise GalleryError(
            f"{path}: no permission to read and write it (owner uid {status.st_uid}, mode "
            f"{status.st_mode & 0o777:04o}, this process runs as uid {os.geteuid()}); run as its owner"
        )


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a new file can vanish in a power cut until its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def translate(error: sqlite3.Error, path: Path, busy_timeout_ms: int) -> GalleryError:
    """An edgeface error for one of SQLite's. By message: Python 3.10 has no error codes."""
    text = str(error)
    if "locked" in text:
        return GalleryBusyError(f"{path}: the write lock was not free within {busy_timeout_ms} ms; {lock_holder(path)}")
    if "not a database" in text:
        return GalleryFormatError(f"{path}: not a gallery file (not SQLite, or its first page is damaged)")
    if "malformed" in text or "corrupt" in text:
        return GalleryCorruptError(
            f"{path}: the file is damaged ({text}); run `edgeface gallery check --gallery {path} --repair` or "
            "restore a backup"
        )
    if "full" in text:
        return GalleryError(f"{path}: the disk is full; free some space and try again")
    if "readonly" in text:
        return GalleryError(f"{path}: the file or its folder is read-only")
    if "unable to open" in text:
        return GalleryError(f"{path}: cannot open the gallery or the files beside it: check the folder's permissions")
    if "disk I/O" in text:
        return GalleryError(f"{path}: {text}: is the disk full or failing, or was the file moved away?")
    return GalleryError(f"{path}: SQLite could not finish: {text}")


def lock_holder(path: Path) -> str:
    """Who holds the write lock, for people to read.

    From /proc/locks and not by F_GETLK: closing a descriptor of the -shm file would drop this process's own
    locks.
    """
    try:
        inode = os.stat(f"{path}-shm").st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return "the holder cannot be told on this system"
    for line in lines:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "POSIX" or fields[3] != "WRITE" or not fields[5].endswith(f":{inode}"):
            continue
        last = int(fields[7]) if fields[7].isdigit() else _WAL_WRITE_LOCK_BYTE
        if int(fields[6]) <= _WAL_WRITE_LOCK_BYTE <= last:
            return f"held by process {_describe(int(fields[4]))}"
    return "the holder has let go of it meanwhile; try again"


def _describe(pid: int) -> str:
    if pid == os.getpid():
        return f"{pid} (this process, through another Gallery object)"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return str(pid)
    # The program only: arguments may carry names.
    return f"{pid} ({' '.join(word.decode(errors='replace') for word in words[:1])})"


def connect(path: Path) -> sqlite3.Connection:
    """A plain connection to an existing file, for copies and repairs."""
    return sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=rw", uri=True, isolation_level=None)


def unlink_family(path: Path) -> None:
    """Delete a file with everything that SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
