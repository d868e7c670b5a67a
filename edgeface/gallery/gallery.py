"""`Gallery`: who is enrolled, and who of them looks most like a probe."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeface.errors import GalleryError, GalleryKeyError, InputError
from edgeface.gallery import copies, exchange, snapshot
from edgeface.gallery.index import Index, Searcher, machine
from edgeface.gallery.nearest import named, nearest_people, similarities_to
from edgeface.gallery.options import check_options
from edgeface.gallery.person import Person, check_name, pack_metadata
from edgeface.gallery.store import Store
from edgeface.gallery.targets import checked_target
from edgeface.gallery.template_info import template_infos
from edgeface.gallery.vectors import check_rows
from edgeface.home import checked_path
from edgeface.numbers import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeface.gallery.vault import Key
    from edgeface.gallery.vectors import Encoding, FloatArray
    from edgeface.types import Matches

log = logging.getLogger(__name__)


class Gallery:
    """An on-device gallery: one SQLite file, searched in memory; open one with `Gallery.open`.

    Every method is safe from several threads; a change made by any process is seen by the next search of every other.
    """

    def __init__(self, store: Store, *, exact_up_to: int | None, progress: Callable[[int, int], None] | None) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._version, self._seq = -1, 0
        # What was learnt about the scan's speed holds for this processor only.
        self._limit_setting = f"exact_up_to {machine()}"
        learnt = store.setting(self._limit_setting)
        self._index = Index(
            store.codec,
            exact_up_to=exact_up_to,
            learnt=None if learnt is None else int(learnt),
            progress=progress,
            on_settled=self._keep_index,
            keep_limit=self._keep_limit,
        )
        self._kept: tuple[int, int] = (0, 0)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        model_id: str | None,
        dimension: int = 0,
        template: Encoding = "int8",
        busy_timeout_ms: int = 5000,
        exact_up_to: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        key: Key | None = None,
    ) -> Gallery:
        """Open a gallery file; create it with mode 0600 when absent.

        Args:
            path: the file. SQLite keeps two more beside it while it is open, `-wal` and `-shm`.
            model_id: the embedder's; None opens an existing file whatever its model, for tools that list or move.
            dimension: length of an embedding, 2 to 16384.
            template: how a new file stores templates: ``int8`` (one byte a component) or ``float32``.
            busy_timeout_ms: how long to wait for another writer.
            exact_up_to: search by the exact scan up to this many templates, above by a graph with recall@1 of 0.999
                (hnswlib). None: the scan as long as it is measured to be faster on this machine.
            progress: called as progress(done, total) by the thread that builds the graph, while the scan answers.
            key: returns the 32 bytes of the gallery's key, as `key_from_file(path)` does; templates are then encrypted.

        Raises:
            GalleryMismatchError: the file holds templates of another model or size.
            GalleryKeyError: the key is absent or wrong, or was given for a gallery that is not encrypted.
            GalleryFormatError: not a gallery, or written by a newer edgeface.
            GalleryCorruptError: the file is damaged.
            GalleryBusyError: another process held the write lock too long; the message names it.
            GalleryError: the file cannot be created, read or written.
        """
        check_options(model_id, dimension, template, busy_timeout_ms, exact_up_to)
        store = Store(
            checked_path("Gallery.open", path), model_id=model_id, dimension=dimension, encoding=template,
            busy_timeout_ms=busy_timeout_ms, key=key,
        )  # fmt: skip
        try:
            gallery = cls(store, exact_up_to=exact_up_to, progress=progress)
            gallery._load()
        except BaseException:
            store.database.close()
            raise
        return gallery

    def __repr__(self) -> str:
        return f"<Gallery {self.path}: {self.dimension}-d {self.template} templates of {self.model_id}>"

    @property
    def path(self) -> Path:
        """The gallery file."""
        return self._store.path

    @property
    def model_id(self) -> str:
        """The embedder whose templates the file holds."""
        return self._store.model_id

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self._store.codec.dimension

    @property
    def template(self) -> Encoding:
        """How templates are stored: ``int8`` or ``float32``."""
        return self._store.codec.encoding

    @property
    def template_count(self) -> int:
        """Number of templates of all people: how many comparisons a search makes."""
        return self._sync().view.count

    @property
    def encrypted(self) -> bool:
        """Are templates encrypted on disk?"""
        return self._store.vault is not None

    def rotate_key(self, key: Key) -> None:
        """Change the gallery's key, in one transaction; copies under the old key die with that key.

        Other processes that have the gallery open must open it again with the new one. Raises GalleryKeyError.
        """
        self._store.rotate_key(key)
        copies.forget_deleted(self._store)

    def add(
        self,
        name: str,
        embeddings: FloatArray,
        *,
        qualities: Sequence[float] | None = None,
        source_hashes: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Person:
        """Enrol a person, or give an enrolled one more templates. On disk when it returns.

        Args:
            name: 1 to 200 characters; stored in Unicode's form NFC.
            embeddings: (n, d) or (d,) float32 rows of length 1.
            qualities: n numbers, for the caller's use.
            source_hashes: n strings that name the pictures, such as SHA-256 in hex; 1 to 128 characters each.
            metadata: a JSON object; replaces the person's. None leaves it as it is.

        Raises:
            InputError: an argument is not as above, or int8 cannot hold a row.
            GalleryBusyError, GalleryError: nothing was stored.
        """
        name = check_name("Gallery.add", name)
        rows = check_rows("Gallery.add", embeddings, self.dimension)
        if len(rows) == 0:
            raise InputError("Gallery.add: expected one embedding at least, got none")
        infos = template_infos(len(rows), qualities, source_hashes)
        packed = None if metadata is None else pack_metadata("Gallery.add", metadata)
        return self._store.add(name, self._store.codec.encode(rows), infos, packed)

    def remove(self, name: str) -> None:
        """Remove a person with all templates and their own key; the bytes in the file and its log are overwritten.

        Copies elsewhere (backups, exports, old blocks of a flash disk) are beyond this call: see `docs/security.md`.
        While another process reads, the log keeps the bytes: a warning is logged. Raises PersonNotFoundError.
        """
        self._store.remove(check_name("Gallery.remove", name))
        copies.forget_deleted(self._store)

    def erase(self, name: str) -> list[str]:
        """Remove a person here, from memory, and from every backup that this gallery made and that is still in place.

        Returns one line for each place out of reach: a backup (in an encrypted gallery `rotate_key` makes it unreadable
        too), the log while another process reads it. Exports are not known to the gallery. Raises PersonNotFoundError.
        """
        person_id = self._store.remove(check_name("Gallery.erase", name))
        missed = copies.erase(self._store, person_id)
        self._kept = (0, 0)
        self._sync()  # wipes the rows in memory
        return missed

    def rename(self, old: str, new: str) -> Person:
        """Give a person another name; the id stays.

        Raises:
            PersonNotFoundError: nobody is named `old`.
            PersonExistsError: somebody else is named `new`.
        """
        return self._store.rename(check_name("Gallery.rename", old), check_name("Gallery.rename", new))

    def people(self) -> list[Person]:
        """Everybody enrolled, by id."""
        return self._store.people()

    def person(self, person_id: int) -> Person:
        """One person, by the id that results and events carry.

        Raises:
            PersonNotFoundError: nobody has that id; they may have been removed since. InputError: it is not an id.
        """
        return self._store.person(whole(person_id, "Gallery.person: id", 1))

    def __len__(self) -> int:
        """Number of people."""
        return self._store.count()

    def __bool__(self) -> bool:
        """True: an empty gallery is a gallery too."""
        return True

    def search(self, probes: FloatArray, *, k: int = 5) -> list[Matches]:
        """The people nearest to each probe.

        Args:
            probes: (n, d) or (d,) float32 rows of length 1.
            k: how many people for each probe; fewer come back when fewer are enrolled.

        Returns n `Matches`, each at most k people, nearest first, by their best template's cosine.

        Raises:
            InputError: `probes` or `k` is not as above.
            GalleryCorruptError: a template that another process wrote is damaged.
        """
        rows = check_rows("Gallery.search", probes, self.dimension)
        k = whole(k, "Gallery.search: k", 1, 1_000_000)
        found = nearest_people(self._sync(), rows, self._store.codec.probes(rows) if len(rows) else rows, k)
        return named(found, self._store)

    def similarities(self, name: str, probes: FloatArray) -> FloatArray | None:
        """(n,) cosines of probes, as for `search`, to the best template of one person; None for a name not enrolled."""
        rows = check_rows("Gallery.similarities", probes, self.dimension)
        person_id = self._store.person_id(check_name("Gallery.similarities", name))
        return None if person_id is None else similarities_to(self._sync().view, rows, person_id)

    def export(self, path: str | os.PathLike[str], *, plaintext: bool = False) -> int:
        """Write everybody to a portable file (`docs/formats/gallery-export.md`), mode 0600; returns how many.

        The file appears whole or not at all; only an earlier export is replaced. It is not encrypted: an encrypted
        gallery is exported only with `plaintext`.

        Raises:
            GalleryKeyError: the gallery is encrypted and `plaintext` is not set. GalleryError: it cannot be written, or
                something else stands there. InputError: `path` is not a path.
        """
        if self.encrypted and not plaintext:
            raise GalleryKeyError(
                f"{self.path}: is encrypted and an export is not; pass plaintext=True, or make a backup instead"
            )
        target = checked_target("Gallery.export", path, self.path, magic=exchange.MAGIC)
        return exchange.write(self._store, target)

    def import_(self, path: str | os.PathLike[str]) -> int:
        """Add everybody of an exported file in one transaction; returns the people added.

        Raises:
            GalleryFormatError: not an export, damaged, or of a newer edgeface.
            GalleryMismatchError: its templates are of another model, size or encoding.
            PersonExistsError: somebody of that name is enrolled already; nothing was added.
        """
        return exchange.read(self._store, checked_path("Gallery.import_", path))

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the whole gallery, while it is in use, into one file of mode 0600, which is a gallery itself.

        Only an empty file or an earlier backup of this gallery is replaced. Raises GalleryError, InputError.
        """
        target = checked_target("Gallery.backup", path, self.path, gallery_id=self._store.gallery_id)
        copies.backup(self._store, target)

    def stats(self) -> dict[str, Any]:
        """Figures for people and monitoring: people and templates, bytes on disk and in memory, index."""
        state = self._index.snapshot()
        return {
            **copies.stats(self._store),
            "memory_bytes": self._index.nbytes,
            "search": "exact scan" if state is None else f"graph ({state[0].kind}, ef {state[1]})",
        }

    def wait_for_index(self, timeout_s: float | None = None) -> bool:
        """Wait until no graph is being built; False when one still is after `timeout_s`. Searches need not wait."""
        return self._index.wait(timeout_s)

    def close(self) -> None:
        """Close the file. Calling it again does nothing; any other call raises ClosedError."""
        self._index.close()
        self._keep_index()
        self._store.database.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self) -> None:
        """Everything, with the graph of the last time where there is one."""
        with self._lock:
            version = self._store.database.data_version()
            change = self._store.changes(0)
            restored = snapshot.load(self._store, change)
            if restored is None:
                self._index.apply(change)
            else:
                self._index.restore(*restored)
                self._kept = snapshot.extent(restored[0], restored[2])
            self._seq, self._version = change.seq, version

    def _sync(self) -> Searcher:
        """The templates as they are in the file now."""
        with self._lock:
            # Read the version first: a commit between the two is then found again by the next search.
            version = self._store.database.data_version()
            if version != self._version:
                change = self._store.changes(self._seq)
                self._index.apply(change)
                self._seq, self._version = change.seq, version
            return self._index.searcher()

    def _keep_index(self) -> None:
        self._kept = snapshot.keep(self._store, self._index, self._kept)

    def _keep_limit(self, limit: int) -> None:
        try:
            self._store.keep_setting(self._limit_setting, str(limit))
        except GalleryError as error:
            log.warning("the measured speed of the scan is not kept: %s", error)
