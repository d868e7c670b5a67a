"""The graph's file beside the gallery: a cache, specified in `docs/formats/gallery.md`.

It holds links, template ids and the templates' checksums, no templates: those come from the gallery, row by row, and
must have the checksums that the links were made for. Anything unexpected means that the graph is built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.gallery.graphs import EF_CONSTRUCTION, FORMAT, LINKS, graph_kind
from edgeface.gallery.rows import DEAD_SHARE, Rows
from edgeface.home import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from edgeface.gallery.change import Change
    from edgeface.gallery.graphs import Graph
    from edgeface.gallery.index import Dump, Index
    from edgeface.gallery.store import Store

log = logging.getLogger(__name__)

MAGIC = b"EFGALIDX"
VERSION = 1
_PREFIX = struct.Struct("<8sIQ")
_DIGEST_BYTES = 32
#: bytes a row besides its links: template id, checksum, alive
_ROW_BYTES = 8 + 4 + 1
#: More candidates than the index ever chooses: such a number comes from elsewhere.
_MOST_EF = 10_000


def snapshot_path(gallery: Path) -> Path:
    """Where the snapshot of a gallery file stands."""
    return gallery.with_name(gallery.name + ".index")


def extent(graph: Graph, rows: Rows) -> tuple[int, int]:
    """Rows in the graph, and removed ones among them: what makes a kept snapshot old."""
    return len(graph), rows.used - len(rows)


def keep(store: Store, index: Index, kept: tuple[int, int]) -> tuple[int, int]:
    """Write the graph beside the gallery, where it differs much from what is kept; the extent that is kept then."""
    state = index.snapshot()
    if state is None or store.vault is not None:  # links tell who resembles whom: an encrypted gallery keeps none
        return kept
    now = extent(state[0], state[2])
    if sum(abs(new - old) for new, old in zip(now, kept, strict=True)) <= now[0] // 100:
        return kept
    dump = index.dump()
    return now if dump is not None and save(store, dump) else kept


def save(store: Store, dump: Dump) -> bool:
    """Write the snapshot, whole or not at all; False when it cannot be written: then the next opening builds again."""
    header = json.dumps({**_identity(store, dump.kind), "ef": dump.ef, "rows": len(dump.template_ids)}).encode()
    parts = [
        _PREFIX.pack(MAGIC, VERSION, len(header)),
        header,
        dump.template_ids.tobytes(),
        dump.checksums.tobytes(),
        dump.alive.tobytes(),
        dump.links,
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    try:
        write_atomically(snapshot_path(store.path), [*parts, digest.digest()], mode=0o600)
    except OSError as error:
        log.warning("the index is not kept for the next start: %s", error)
        return False
    return True


def load(store: Store, everything: Change) -> tuple[Graph, int, Rows] | None:
    """The graph over the templates of `everything` (a reset change), where there is a sound and fitting snapshot."""
    path = snapshot_path(store.path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s: cannot be read (%s); the index is built again", path, error.strerror)
        return None
    try:
        return _restore(store, everything, content)
    except _UnfitError as error:
        log.warning("%s: %s; the index is built again", path, error)
        return None


class _UnfitError(Exception):
    """Why a snapshot is not used."""


def _restore(store: Store, everything: Change, content: bytes) -> tuple[Graph, int, Rows]:
    header, body = _open(content)
    kind = graph_kind(store.codec.encoding)
    if kind is None or any(header.get(key) != value for key, value in _identity(store, kind.kind).items()):
        raise _UnfitError("made for another gallery, model, or kind of index")
    count, ef = header.get("rows"), header.get("ef")
    if not isinstance(count, int) or not isinstance(ef, int) or not 1 <= ef <= _MOST_EF:
        raise _UnfitError("its parts do not fit together")
    if count < 1 or len(body) < count * _ROW_BYTES:
        raise _UnfitError("its parts do not fit together")
    ids = np.frombuffer(body, "<i8", count).astype(np.int64)
    checksums = np.frombuffer(body, "<u4", count, count * 8).astype(np.uint32)
    alive = np.frombuffer(body, np.uint8, count, count * 12)
    links = body[count * _ROW_BYTES :]
    stored = _joined(store, everything)
    at = np.searchsorted(stored.template_ids, ids)
    at[at == len(stored.template_ids)] = 0
    here = (stored.template_ids[at] == ids) & (alive == 1) if stored.count else np.zeros(count, bool)
    beyond = int(np.searchsorted(stored.template_ids, ids[-1], side="right"))
    if np.any(np.diff(ids) <= 0) or not np.array_equal(stored.checksums[at[here]], checksums[here]):
        raise _UnfitError("made from other templates")
    if int(here.sum()) != beyond:
        raise _UnfitError("templates are missing from it")
    dead = np.flatnonzero(~here)
    if len(dead) > DEAD_SHARE * count:
        raise _UnfitError("too many of its people were removed since")
    rows = Rows(store.codec.dimension, store.codec.dtype)
    components = np.zeros((count, store.codec.dimension), store.codec.dtype)
    components[here] = stored.rows[:beyond]
    people = np.zeros(count, np.int64)
    people[here] = stored.person_ids[:beyond]
    rows.append(ids, people, checksums, components)
    rows.remove(ids[dead])
    rest = stored.after(beyond)
    rows.append(rest.template_ids, rest.person_ids, rest.checksums, rest.rows)
    graph = kind(store.codec.dimension)
    try:
        graph.load(links, rows.array, dead)
    except (RuntimeError, MemoryError) as error:
        raise _UnfitError(str(error) or "out of memory") from None
    if len(graph) != count:
        raise _UnfitError("its links do not fit its rows")
    return graph, ef, rows


def _joined(store: Store, everything: Change) -> Any:
    rows = Rows(store.codec.dimension, store.codec.dtype)
    rows.append(*everything.added)
    return rows.view()


def _open(content: bytes) -> tuple[dict[str, Any], memoryview]:
    if len(content) < _PREFIX.size + _DIGEST_BYTES:
        raise _UnfitError("cut short")
    magic, version, length = _PREFIX.unpack_from(content)
    if magic != MAGIC or version != VERSION:
        raise _UnfitError("not a snapshot of this version of edgeface")
    if hashlib.sha256(memoryview(content)[:-_DIGEST_BYTES]).digest() != content[-_DIGEST_BYTES:]:
        raise _UnfitError("damaged: its SHA-256 does not hold")
    try:
        header = json.loads(content[_PREFIX.size : _PREFIX.size + length])
    except (ValueError, RecursionError):
        raise _UnfitError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise _UnfitError("its header is not a JSON object")
    return header, memoryview(content)[_PREFIX.size + length : -_DIGEST_BYTES]  # a view: it may be 150 MB


def _identity(store: Store, kind: str) -> dict[str, Any]:
    return {
        "gallery_id": store.gallery_id,
        "model_id": store.model_id,
        "dimension": store.codec.dimension,
        "encoding": store.codec.encoding,
        "scale": store.codec.scale,
        "kind": kind,
        "format": FORMAT,
        "links": LINKS,
        "ef_construction": EF_CONSTRUCTION,
    }
