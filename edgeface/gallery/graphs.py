"""Two navigable small world graphs with one interface: our int8 one, and the hnswlib package where that is not built.

Rows are inserted once, in order, and are numbered as in the array they come from. A saved graph holds links only:
components come from the gallery's rows, so that a file of the graph has no templates in it.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import struct
import threading
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]
    RowArray = npt.NDArray[Any]

#: Links of a row and candidates while inserting: hnswlib's usual choice for 100 to 1000 dimensions.
LINKS, EF_CONSTRUCTION = 16, 200

#: Of the dumped bytes: a snapshot with another one is not read.
FORMAT = 1


class Graph(Protocol):
    """Approximate search over the first len(graph) rows of an array. Safe from several threads."""

    #: Named in a snapshot: the two kinds do not read each other's.
    kind: str

    def __len__(self) -> int: ...

    def set_rows(self, rows: RowArray) -> None:
        """The array has moved; its content up to len(graph) is the same."""

    def add(self, first: int, last: int) -> None:
        """Insert rows first to last - 1; `first` is len(graph)."""

    def remove(self, row: int) -> None:
        """Never find this row again; removing it twice is harmless."""

    def search(self, probe: RowArray, k: int, ef: int) -> IntArray:
        """Up to k rows nearest to a probe (d,), best first, looking at `ef` candidates."""

    def dump(self) -> bytes:
        """The links, for `load`."""

    def load(self, links: bytes | memoryview, rows: RowArray, dead: IntArray) -> None:
        """Take over dumped links. `dead` rows have no components any more: they are given their neighbours' mean.

        Raises RuntimeError where lengths or links do not fit together.
        """


class Int8Graph:
    """The graph of `cpp_ext/hnsw`: rows are looked up in the gallery's own array, not copied."""

    kind = "int8"

    def __init__(self, dimension: int) -> None:
        module: Any = importlib.import_module("edgeface._hnsw")
        self._graph = module.Int8Graph(dimension, LINKS, EF_CONSTRUCTION)

    def __len__(self) -> int:
        return len(self._graph)

    def set_rows(self, rows: RowArray) -> None:
        self._graph.set_rows(rows)

    def add(self, first: int, last: int) -> None:
        self._graph.add(first, last)

    def remove(self, row: int) -> None:
        self._graph.remove(row)

    def search(self, probe: RowArray, k: int, ef: int) -> IntArray:
        found = np.empty(k, np.int64)
        return found[: self._graph.search(probe, ef, found)]

    def dump(self) -> bytes:
        return _through_memory(self._graph.save, None)

    def load(self, links: bytes | memoryview, rows: RowArray, dead: IntArray) -> None:
        self._graph.set_rows(rows)
        _through_memory(self._graph.load, links)
        for row in dead:
            self._graph.remove(int(row))


#: The head of a file that hnswlib's saveIndex writes (hnswalg.h, version 0.8): offset of level 0, room, elements, bytes
#: of an element, offsets of its label and of its data, highest level, entrance, links (upper, lowest, M), two settings.
_HEAD = struct.Struct("<6QiI3QdQ")


class PackageGraph:
    """The hnswlib package: its own float32 copy of every row."""

    kind = "hnswlib"

    def __init__(self, dimension: int) -> None:
        self._library: Any = importlib.import_module("hnswlib")
        self._dimension = dimension
        self._index: Any = self._library.Index("ip", dimension)
        self._index.init_index(1024, M=LINKS, ef_construction=EF_CONSTRUCTION)
        self._index.set_num_threads(1)
        self._rows: RowArray = np.empty((0, dimension), np.float32)
        self._dead: set[int] = set()
        self._lock = threading.Lock()  # the package's searches are not safe beside its insertions

    def __len__(self) -> int:
        return int(self._index.get_current_count())

    def set_rows(self, rows: RowArray) -> None:
        with self._lock:
            self._rows = rows

    def add(self, first: int, last: int) -> None:
        with self._lock:
            room = self._index.get_max_elements()
            if last > room:
                self._index.resize_index(max(last, room + room // 4))
            self._index.add_items(self._rows[first:last].astype(np.float32), np.arange(first, last), 1)

    def remove(self, row: int) -> None:
        with self._lock:
            if row not in self._dead:
                self._index.mark_deleted(row)
                self._dead.add(row)

    def search(self, probe: RowArray, k: int, ef: int) -> IntArray:
        with self._lock:
            k = min(k, self._index.get_current_count() - len(self._dead))
            if k <= 0:
                return np.empty(0, np.int64)
            self._index.set_ef(max(ef, k))
            found, _ = self._index.knn_query(probe.astype(np.float32), k)
        rows: IntArray = found[0].astype(np.int64)
        return rows

    def dump(self) -> bytes:
        with self._lock:
            whole = _through_memory(self._index.save_index, None)
        elements, at = self._elements(whole), _HEAD.unpack_from(whole)[5]
        width = self._dimension * 4
        kept = np.concatenate([elements[:, :at], elements[:, at + width :]], axis=1)
        return whole[: _HEAD.size] + kept.tobytes() + whole[_HEAD.size + elements.nbytes :]

    def load(self, links: bytes | memoryview, rows: RowArray, dead: IntArray) -> None:
        count, at, width = _check_links(links, len(rows), self._dimension), 4 + 8 * LINKS, self._dimension * 4
        size = at + 8
        stripped = np.frombuffer(links, np.uint8, count * size, _HEAD.size).reshape(count, size)
        components = rows[:count].astype(np.float32)
        lists = np.ascontiguousarray(stripped[:, :at]).view(np.uint32)
        for row in dead:
            linked = lists[row, 1 : 1 + (lists[row, 0] & 0xFFFF)]
            components[row] = components[np.setdiff1d(linked, dead)].mean(axis=0) if len(linked) else 0
        data = np.nan_to_num(components).view(np.uint8).reshape(count, width)
        elements = np.concatenate([stripped[:, :at], data, stripped[:, at:]], axis=1)
        whole = b"".join((links[: _HEAD.size], elements.tobytes(), links[_HEAD.size + stripped.nbytes :]))
        with self._lock:
            self._index = self._library.Index("ip", self._dimension)
            _through_memory(lambda path: self._index.load_index(path, count), whole)
            self._index.set_num_threads(1)
            self._rows = rows
            # hnswlib marks a removed element in the third byte of its list of links.
            self._dead = {int(row) for row in np.flatnonzero(lists[:, 0] >> 16 & 1)}
        for row in dead:
            self.remove(int(row))

    def _elements(self, whole: bytes) -> npt.NDArray[np.uint8]:
        head = _HEAD.unpack_from(whole)
        count, size = head[2], head[3]
        return np.frombuffer(whole, np.uint8, count * size, _HEAD.size).reshape(count, size)


def _check_links(links: bytes | memoryview, rows: int, dimension: int) -> int:
    """Elements in a dump of the package's graph. Raises RuntimeError where hnswlib would read beyond it."""
    lowest, upper, width = 4 + 8 * LINKS, 4 + 4 * LINKS, dimension * 4

    def require(sound: object) -> None:
        if not sound:
            raise RuntimeError("the links do not fit together")

    require(len(links) >= _HEAD.size)
    level0, room, count, size, label, data, highest, entrance, *settings, mult, construction = _HEAD.unpack_from(links)
    require((level0, size, label, data) == (0, lowest + width + 8, lowest + width, lowest))
    require((*settings, construction) == (LINKS, 2 * LINKS, LINKS, EF_CONSTRUCTION))
    require(abs(mult * math.log(LINKS) - 1) < 1e-9)
    require(1 <= count <= rows and count <= room <= 2 * count + 1024 and 0 <= highest < 64 and entrance < count)
    end = _HEAD.size + count * (lowest + 8)
    require(len(links) >= end + 4 * count)
    elements = np.frombuffer(links, np.uint8, end - _HEAD.size, _HEAD.size).reshape(count, lowest + 8)
    require(np.array_equal(np.ascontiguousarray(elements[:, lowest:]).view("<u8")[:, 0], np.arange(count)))
    levels, lists = np.zeros(count, np.int64), []
    for row in range(count):
        require(len(links) - end >= 4)
        (length,) = struct.unpack_from("<I", links, end)
        require(length % upper == 0 and length <= len(links) - end - 4)
        levels[row] = length // upper
        for level in range(1, levels[row] + 1):
            lists.append((level, np.frombuffer(links, "<u4", 1 + LINKS, end + 4 + (level - 1) * upper)))
        end += 4 + length
    require(end == len(links) and levels.max() == highest == levels[entrance])
    lists0 = np.ascontiguousarray(elements[:, :lowest]).view("<u4")
    numbers = lists0[:, 0] & 0xFFFF
    used = np.arange(2 * LINKS) < numbers[:, None]
    require(numbers.max() <= 2 * LINKS and (lists0[:, 1:][used] < count).all())
    for level, one in lists:
        number = int(one[0]) & 0xFFFF
        require(number <= LINKS and (one[1 : 1 + number] < count).all())
        require((levels[one[1 : 1 + number]] >= level).all())
    return int(count)


def graph_kind(encoding: str) -> type[Int8Graph] | type[PackageGraph] | None:
    """The better graph of those that this installation has, or None."""
    if encoding == "int8" and importlib.util.find_spec("edgeface._hnsw") is not None:
        return Int8Graph
    return PackageGraph if importlib.util.find_spec("hnswlib") is not None else None


def _through_memory(call: Any, content: bytes | memoryview | None) -> bytes:
    """Let a function that takes a path read `content`, or give back what it writes, without a file on the disk."""
    descriptor = os.memfd_create("edgeface-graph", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        if content is not None:
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
        call(f"/proc/self/fd/{descriptor}")
        if content is not None:
            return b""
        file.seek(0)
        return file.read()
