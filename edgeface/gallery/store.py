"""The truth: people and templates in SQLite. Every change is one transaction, durable when the call returns."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast
from zlib import crc32

import numpy as np

from edgeface.errors import (
    GalleryCorruptError,
    GalleryKeyError,
    GalleryMismatchError,
    PersonExistsError,
    PersonNotFoundError,
)
from edgeface.gallery import schema
from edgeface.gallery.change import Block, Change
from edgeface.gallery.database import Database
from edgeface.gallery.person import Person, as_person
from edgeface.gallery.vault import OVERHEAD_BYTES, Vault, unlock
from edgeface.gallery.vectors import IDS, Codec, check_stored, checksum, default_scale
from edgeface.manifest import PRECISIONS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from edgeface.gallery.template_info import TemplateInfo
    from edgeface.gallery.vault import Key
    from edgeface.gallery.vectors import Encoding, RowArray

    IntArray = npt.NDArray[np.int64]

#: Rows fetched at a time while loading: more are no faster and leave more memory behind.
_CHUNK = 4_096

_PERSON = """
SELECT person_id, name, metadata, created_ms, updated_ms,
    (SELECT count(*) FROM templates WHERE templates.person_id = people.person_id)
FROM people
"""
_SEALED_TEMPLATES = """
SELECT template_id, person_id, data, checksum, wrapped FROM templates LEFT JOIN person_keys USING (person_id)
"""


def _mend(stored: str, given: str) -> str:
    """What opens a gallery that holds templates of `stored` and not of `given`."""
    network, _, precision = stored.rpartition("/")
    if precision not in PRECISIONS or network != given.rpartition("/")[0]:
        return "open it with that embedder"
    where = f"--precision {precision}, in the service EDGEFACE_PRECISION={precision}"
    return f"only the precision differs: open it with precision={precision!r} ({where})"


class Store:
    """One open gallery file."""

    def __init__(
        self,
        path: Path,
        *,
        model_id: str | None,
        dimension: int,
        encoding: Encoding,
        busy_timeout_ms: int,
        key: Key | None = None,
    ) -> None:
        """Open; create when absent and `model_id` is given. With None the file says what it holds.

        Raises:
            GalleryMismatchError: the file holds templates of another model or size.
            GalleryKeyError: the file is encrypted and the key is absent or wrong, or it is not encrypted.
            GalleryError: as in `Database`.
        """
        new = None if model_id is None else (model_id, dimension, encoding, default_scale(dimension))
        self.path = path
        # Before the file is made: without the key or the package for it no unencrypted gallery is left behind.
        cipher = None if key is None else unlock(key)
        self.database = Database(path, model=new, busy_timeout_ms=busy_timeout_ms)
        try:
            with self.database.reading() as connection:
                row = connection.execute("SELECT model_id, dimension, encoding, scale FROM models").fetchone()
                identity = connection.execute("SELECT value FROM settings WHERE key = 'gallery_id'").fetchone()
            if row is None or identity is None:
                raise GalleryCorruptError(f"{path}: the rows that name its model are missing; restore a backup")
            self.gallery_id = str(identity[0])
            self.model_id = str(row[0])
            self.codec = Codec(int(row[1]), cast("Encoding", row[2]), float(row[3]))
            if new is not None and (self.model_id, self.codec.dimension) != new[:2]:
                raise GalleryMismatchError(
                    f"{path}: holds templates of model {self.model_id!r} with {self.codec.dimension} "
                    f"components, this embedder is {model_id!r} with {dimension}; "
                    f"{_mend(self.model_id, str(model_id))}, or enrol everybody again into a new gallery file "
                    "(templates of two models cannot be compared; docs/gallery.md, When the model changes)"
                )
            self.vault = self._unlock(cipher)
        except BaseException:
            self.database.close()
            raise

    def _unlock(self, cipher: Any) -> Vault | None:
        """The vault of an encrypted gallery; a gallery that never held anybody becomes one when a key is given."""
        proof = self.setting("key_proof")
        if cipher is None:
            if proof is not None:
                raise GalleryKeyError(
                    f"{self.path}: is encrypted; give its key: `key=` in Python, --key-file on the command line"
                )
            return None
        vault = Vault(cipher, self.gallery_id, self.model_id)
        if proof is None:
            with self.database.writing() as connection:
                row = connection.execute("SELECT value FROM settings WHERE key = 'key_proof'").fetchone()
                if row is None:
                    if connection.execute("SELECT 1 FROM sqlite_sequence WHERE name = 'people'").fetchone():
                        raise GalleryKeyError(
                            f"{self.path}: is not encrypted, but a key was given; export it and import it into a new "
                            "gallery that is opened with the key"
                        )
                    row = (vault.proof().hex(),)
                    connection.execute("INSERT INTO settings VALUES ('key_proof', ?)", row)
            proof = str(row[0])
        vault.check(bytes.fromhex(proof), self.path)
        return vault

    @property
    def _templates(self) -> str:
        """Query for templates, their person's wrapped key with them where there is one."""
        if self.vault is None:  # without the join: a tenth of the time of opening
            return "SELECT template_id, person_id, data, checksum, NULL FROM templates "
        return _SEALED_TEMPLATES

    @property
    def stored_bytes(self) -> int:
        """Length of a template as it is stored."""
        return self.codec.size + (0 if self.vault is None else OVERHEAD_BYTES)

    def rotate_key(self, key: Key) -> None:
        """Encrypt everybody's own key with another gallery key, in one transaction."""
        if self.vault is None:
            raise GalleryKeyError(f"{self.path}: is not encrypted, so there is no key to rotate")
        fresh = Vault(unlock(key), self.gallery_id, self.model_id)  # before the write lock: the provider may take long
        with self.database.writing() as connection:
            self.vault.rotate(connection, fresh)
        self.vault = fresh

    def add(self, name: str, rows: RowArray, infos: Sequence[TemplateInfo], metadata: str | None) -> Person:
        """Add templates to a person, who is created when absent; `metadata` None leaves it as it is."""
        now = time.time_ns() // 1_000_000
        with self.database.writing() as connection:
            found = connection.execute("SELECT person_id FROM people WHERE name = ?", (name,)).fetchone()
            if found is None:
                person_id = self.insert_person(connection, name, metadata or "{}", now, now)
            else:
                person_id = int(found[0])
                connection.execute(
                    "UPDATE people SET updated_ms = ?, metadata = coalesce(?, metadata) WHERE person_id = ?",
                    (now, metadata, person_id),
                )
            self.insert_templates(connection, person_id, rows, infos, now)
            prune(connection)
            return self._person(connection, name)

    def insert_person(
        self, connection: sqlite3.Connection, name: str, metadata: str, created_ms: int, updated_ms: int
    ) -> int:
        """Insert a person within the caller's transaction; returns the id."""
        cursor = connection.execute(
            "INSERT INTO people (name, metadata, created_ms, updated_ms) VALUES (?, ?, ?, ?)",
            (name, metadata, created_ms, updated_ms),
        )
        person_id = int(cursor.lastrowid or 0)
        if self.vault is not None:
            self.vault.new_person(connection, person_id)
        return person_id

    def insert_templates(
        self,
        connection: sqlite3.Connection,
        person_id: int,
        rows: RowArray,
        infos: Sequence[TemplateInfo],
        created_ms: int | Sequence[int],
    ) -> None:
        """Insert templates within the caller's transaction."""
        # Ids are given here and not by SQLite because the checksum covers them. sqlite_sequence keeps the
        # largest id ever given, so none is used twice.
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'templates'").fetchone()
        template_id = int(last[0]) if last else 0
        cipher = None if self.vault is None else self.vault.stored_cipher(connection, person_id)
        for number, info in enumerate(infos):
            template_id += 1
            data = rows[number].tobytes()
            if self.vault is not None:
                data = self.vault.seal(cipher, template_id, person_id, data)
            created = created_ms if isinstance(created_ms, int) else created_ms[number]
            connection.execute(
                "INSERT INTO templates VALUES (?, ?, 1, ?, ?, ?, ?, ?)",
                (
                    template_id,
                    person_id,
                    data,
                    checksum(template_id, person_id, data),
                    info.quality,
                    info.source_hash,
                    created,
                ),
            )

    def remove(self, name: str) -> int:
        """Remove a person with all templates; their bytes are overwritten in the file. Returns the id they had."""
        with self.database.writing() as connection:
            row = connection.execute("SELECT person_id FROM people WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise self._nobody(f"named {name!r}")
            connection.execute("DELETE FROM people WHERE person_id = ?", row)
            prune(connection)
        return int(row[0])

    def rename(self, old: str, new: str) -> Person:
        """Give a person another name."""
        now = time.time_ns() // 1_000_000
        with self.database.writing() as connection:
            if connection.execute("SELECT 1 FROM people WHERE name = ?", (old,)).fetchone() is None:
                raise self._nobody(f"named {old!r}")
            if old != new and connection.execute("SELECT 1 FROM people WHERE name = ?", (new,)).fetchone():
                raise PersonExistsError(f"{self.path}: {new!r} is taken by somebody else; remove them first")
            connection.execute("UPDATE people SET name = ?, updated_ms = ? WHERE name = ?", (new, now, old))
            prune(connection)
            return self._person(connection, new)

    def people(self) -> list[Person]:
        """Everybody."""
        with self.database.reading() as connection:
            return [as_person(row) for row in connection.execute(_PERSON + "ORDER BY person_id")]

    def person(self, person_id: int) -> Person:
        """The person with this id."""
        with self.database.reading() as connection:
            row = connection.execute(_PERSON + "WHERE person_id = ?", (person_id,)).fetchone()
        if row is None:
            raise self._nobody(f"with the id {person_id}")
        return as_person(row)

    def count(self) -> int:
        """Number of people."""
        with self.database.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM people").fetchone()[0])

    def person_id(self, name: str) -> int | None:
        """The id of a person; None when nobody has that name."""
        with self.database.reading() as connection:
            found = connection.execute("SELECT person_id FROM people WHERE name = ?", (name,)).fetchone()
        return None if found is None else int(found[0])

    def names(self, person_ids: Sequence[int]) -> dict[int, str]:
        """Names of those of `person_ids` who are enrolled now."""
        rows = []
        for start in range(0, len(person_ids), 10_000):  # SQLite allows 32,766 parameters
            some = person_ids[start : start + 10_000]
            marks = ",".join("?" * len(some))
            rows += self.database.query(f"SELECT person_id, name FROM people WHERE person_id IN ({marks})", some)
        return {int(row[0]): str(row[1]) for row in rows}

    def changes(self, seq: int) -> Change:
        """What happened after change number `seq`; everything there is when the log does not reach back so far."""
        with self.database.reading() as connection:
            last = _last_seq(connection)
            first = connection.execute("SELECT min(seq) FROM changes").fetchone()[0]
            reset = not 0 < seq <= last or (seq < last and (first is None or first > seq + 1))
            wanted = ""
            values: tuple[int, ...] = ()
            removed = []
            if not reset:
                wanted = "WHERE template_id IN (SELECT template_id FROM changes WHERE seq > ? AND kind = ?) "
                values = (seq, schema.ADDED)
                removed = connection.execute(
                    "SELECT template_id FROM changes WHERE seq > ? AND kind = ?", (seq, schema.REMOVED)
                ).fetchall()
            count = int(connection.execute(f"SELECT count(*) FROM templates {wanted}", values).fetchone()[0])
            cursor = connection.execute(self._templates + wanted + "ORDER BY template_id", values)
            added = self._load(cursor, count)
        return Change(last, reset, added, np.array([row[0] for row in removed], np.int64))

    def setting(self, key: str) -> str | None:
        """A value of the settings table."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def keep_setting(self, key: str, value: str) -> None:
        """Set a value of the settings table."""
        with self.database.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, value))

    def _load(self, cursor: sqlite3.Cursor, count: int) -> Block:
        size, pack, at = self.stored_bytes, IDS.pack, 0
        # Arrays of the final size at once: pieces put together later would leave their memory behind.
        block = Block(
            np.empty(count, np.int64),
            np.empty(count, np.int64),
            np.empty(count, np.uint32),
            np.empty((count, self.codec.dimension), self.codec.dtype),
        )
        while rows := cursor.fetchmany(_CHUNK):
            for template_id, person_id, data, stored, _ in rows:
                # `check_stored` spelt out: this line runs for every template at every opening.
                if len(data) != size or crc32(data, crc32(pack(template_id, person_id))) != stored:
                    check_stored(template_id, person_id, data, stored, size)
            part = slice(at, at + len(rows))
            block.template_ids[part] = [row[0] for row in rows]
            block.person_ids[part] = [row[1] for row in rows]
            block.checksums[part] = [row[3] for row in rows]
            block.rows[part] = self.codec.decode(list(self.opened(rows)))
            at += len(rows)
        return block

    def opened(self, rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
        """The plain bytes of rows (template id, person id, data, checksum, the person's wrapped key)."""
        if self.vault is None:
            yield from (row[2] for row in rows)
            return
        owner, cipher = 0, None
        for template_id, person_id, data, _, wrapped in rows:
            if person_id != owner:  # a person's templates mostly stand together
                owner, cipher = person_id, self.vault.person_cipher(person_id, wrapped)
            yield self.vault.open(cipher, template_id, person_id, data)

    def _person(self, connection: sqlite3.Connection, name: str) -> Person:
        return as_person(connection.execute(_PERSON + "WHERE name = ?", (name,)).fetchone())

    def _nobody(self, whom: str) -> PersonNotFoundError:
        return PersonNotFoundError(f"{self.path}: nobody {whom}; see `edgeface gallery list --gallery {self.path}`")


def prune(connection: sqlite3.Connection) -> None:
    """Drop the oldest changes beyond `schema.CHANGES_KEPT`."""
    connection.execute("DELETE FROM changes WHERE seq <= ?", (_last_seq(connection) - schema.CHANGES_KEPT,))


def _last_seq(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
    return int(row[0]) if row else 0
