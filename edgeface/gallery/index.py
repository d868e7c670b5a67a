"""The search index: rows in memory, scanned exactly, and above a measured size a graph over most of them.

The graph is a cache and never in the way: it covers the first rows, a background thread extends it, and whatever it
does not cover yet is scanned exactly. When it was measured to be no faster than the scan, or cannot reach the stated
recall, it is given up and the scan stays.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.gallery.graphs import Graph, graph_kind
from edgeface.gallery.rows import Rows, View

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from edgeface.gallery.change import Change
    from edgeface.gallery.vectors import Codec

    IntArray = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

#: Below this no graph is tried. 100,000 int8 rows of 128 are scanned in 0.2 ms (AVX-512 VNNI) to 0.5 ms (AVX2) on a
#: quiet core. Faces are so evenly spread that hnswlib must look at 768 candidates there for a recall of 0.999, which
#: takes one and a half times as long as the scan (`edgeface bench gallery`).
LEAST_FOR_GRAPH = 200_000

#: Rows that may wait outside the graph: scanning them takes about 10 us.
TAIL = 2_048

#: Rows inserted between two looks at the clock and at searches that wait: about 5 ms at a million rows.
_CHUNK = 16

#: recall@1 of the graph against the exact scan on a sample, and how much faster it must be to be used.
RECALL, GAIN = 0.999, 1.2
_EFS = (48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_SAMPLE = 1_000
#: Cosine between a sample's probe and its template: low for a genuine comparison (SFace on LFW: 0.68 +- 0.11).
_SAMPLE_COSINE = 0.55

#: Above this many results the scan is taken: a graph must look at more candidates than it returns.
_MOST_FROM_GRAPH = 64


@dataclass(frozen=True)
class Searcher:
    """What a search needs, as it was at one moment."""

    view: View
    graph: Graph | None
    covered: int
    ef: int

    def best(self, probe: npt.NDArray[Any], k: int) -> IntArray:
        """At least k rows nearest to a probe (d,), or all there are; in no order."""
        if self.graph is None or k > _MOST_FROM_GRAPH:
            rows: IntArray = self.view.best(probe[None], k)[0]
            near: IntArray = rows[rows >= 0]
            return near
        near = self.graph.search(probe, k, max(self.ef, k))
        near = near[near < len(self.view.rows)]
        tail = self.view.after(self.covered).best(probe[None], k)[0]
        return np.concatenate([near, tail[tail >= 0] + self.covered])


@dataclass(frozen=True)
class Dump:
    """A graph and the rows under it, as they were at one moment."""

    kind: str
    ef: int
    template_ids: IntArray
    checksums: npt.NDArray[np.uint32]
    alive: npt.NDArray[np.uint8]
    links: bytes


class Index:
    """Rows and graph of one open gallery. `apply`, `searcher` and `restore` are called under the gallery's lock."""

    def __init__(
        self,
        codec: Codec,
        *,
        exact_up_to: int | None,
        learnt: int | None,
        progress: Callable[[int, int], None] | None,
        on_settled: Callable[[], None],
        keep_limit: Callable[[int], None],
    ) -> None:
        """`exact_up_to` None takes what was `learnt` before, or LEAST_FOR_GRAPH; `keep_limit` hears what is learnt."""
        self._codec = codec
        self._rows = Rows(codec.dimension, codec.dtype)
        self._kind = graph_kind(codec.encoding)
        self._fixed = exact_up_to is not None
        self.exact_up_to = exact_up_to if exact_up_to is not None else learnt or LEAST_FOR_GRAPH
        self._progress, self._on_settled, self._keep_limit = progress, on_settled, keep_limit
        self._graph: Graph | None = None
        self._ef = 0
        self._tuned_at = 0
        self._lock = threading.RLock()
        self._worker: threading.Thread | None = None
        self._stop = False

    def apply(self, change: Change) -> None:
        """Bring the rows up to date, then see whether the graph has fallen behind."""
        with self._lock:
            if change.reset:
                self._rows = Rows(self._codec.dimension, self._codec.dtype)
                self._drop_graph()
            self._rows.append(*change.added)
            if self._graph is not None:
                self._graph.set_rows(self._rows.array)
            if len(change.removed):
                self._remove(change.removed)
            self.wake()

    def restore(self, graph: Graph, ef: int, rows: Rows) -> None:
        """Start from a snapshot's graph over the first rows."""
        with self._lock:
            self._graph, self._ef, self._rows, self._tuned_at = graph, ef, rows, len(graph)
            self.wake()

    def searcher(self) -> Searcher:
        """The state for one search."""
        with self._lock:
            ready = self._graph if self._ef else None
            return Searcher(self._rows.view(), ready, 0 if ready is None else len(ready), self._ef)

    def snapshot(self) -> tuple[Graph, int, Rows] | None:
        """The graph with its settings, where one is in use."""
        with self._lock:
            return None if self._graph is None or not self._ef else (self._graph, self._ef, self._rows)

    def dump(self) -> Dump | None:
        """What a snapshot holds, where a graph is in use; by the thread that inserts, or when there is none any more.

        The links are copied without this object's lock: a fifth of a second for 200,000 rows, in which searches and
        enrolments go on. Nothing is inserted meanwhile; a row that is removed is dead in the dump whether its link says
        so or not.
        """
        with self._lock:
            graph = self._graph if self._ef else None
        if graph is None:
            return None
        links = graph.dump()
        with self._lock:
            if self._graph is not graph:  # the rows were numbered anew
                return None
            count, view = len(graph), self._rows.view()
            alive = np.ones(count, np.uint8) if view.alive is None else view.alive[:count].astype(np.uint8)
            # A checksum tells something about a template: those of removed ones are not kept.
            checksums = np.where(alive == 1, view.checksums[:count], 0).astype("<u4")
            ids = view.template_ids[:count].astype("<i8")
            return Dump(graph.kind, self._ef, ids, checksums, alive, links)

    @property
    def nbytes(self) -> int:
        """Memory of the rows in bytes; the graph's is hnswlib's own."""
        return self._rows.nbytes

    def wake(self) -> None:
        """Start the background thread when there is work for it."""
        with self._lock:
            covered = 0 if self._graph is None else len(self._graph)
            wanted = self._kind is not None and len(self._rows) > self.exact_up_to
            if wanted and self._rows.used - covered > TAIL and not self._stop and self._worker is None:
                self._worker = threading.Thread(target=self._work, name="edgeface-index", daemon=True)
                self._worker.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the background thread and the one that may follow it; False when still at work after `timeout_s`."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while (worker := self._worker) is not None:
            worker.join(None if end is None else max(0.0, end - time.monotonic()))
            if worker.is_alive():
                return False
        return True

    def close(self) -> None:
        """Stop the background thread."""
        with self._lock:
            self._stop = True
        self.wait()

    def _remove(self, template_ids: IntArray) -> None:
        rows = self._rows.remove(template_ids)
        if self._rows.should_compact():
            self._rows.compact()
            self._drop_graph()  # row numbers have changed; the background thread makes a new one
        elif self._graph is not None:
            for row in rows[rows < len(self._graph)]:
                self._graph.remove(int(row))

    def _drop_graph(self) -> None:
        self._graph, self._ef, self._tuned_at = None, 0, 0

    def _work(self) -> None:
        settled = False
        try:
            settled = self._extend()
        except (MemoryError, RuntimeError) as error:  # hnswlib says "Not enough memory" as a RuntimeError
            log.warning("no graph over the gallery (%s); the exact scan goes on", error or "out of memory")
            with self._lock:
                self._drop_graph()
                self.exact_up_to = 2 * len(self._rows)
        try:
            if settled:
                self._on_settled()
        finally:  # only now: `close` waits for a snapshot that is being written, and no second thread inserts meanwhile
            with self._lock:
                self._worker = None
                if settled:
                    self.wake()

    def _extend(self) -> bool:
        """Insert what is missing; True when the graph is complete and in use."""
        with self._lock:
            if self._graph is None and self._kind is not None:
                self._rows.compact()
                self._graph = self._kind(self._codec.dimension)
                self._graph.set_rows(self._rows.array)
            graph = self._graph
        told = 0.0
        while graph is not None:
            with self._lock:
                if self._stop or self._graph is not graph:
                    return False
                first, used = len(graph), self._rows.used
            last = min(first + _CHUNK, used)
            graph.add(first, last)
            with self._lock:
                if self._graph is graph:
                    for row in self._rows.dead_between(first, last):
                        graph.remove(int(row))
            if self._progress is not None and (time.monotonic() - told > 0.1 or last == used):
                told = time.monotonic()
                self._progress(last, used)
            if last == used:
                break
        return graph is not None and self._tune(graph)

    def _tune(self, graph: Graph) -> bool:
        """Choose `ef` on a sample against the exact scan, or give the graph up."""
        with self._lock:
            if self._ef and len(graph) < 1.5 * self._tuned_at:
                return True
            view = self._rows.view()
        ef, graph_ms, scan_ms = tune(view, graph, self._codec, stopped=lambda: self._stop)
        with self._lock:
            if self._graph is not graph or self._stop:
                return False
            if ef and (self._fixed or scan_ms > GAIN * graph_ms):
                self._ef, self._tuned_at = ef, len(graph)
                return True
            log.info("exact scan %.3f ms, graph %.3f ms (ef %d): the scan stays", scan_ms, graph_ms, ef)
            self._drop_graph()
            limit = self.exact_up_to = 2 * len(self._rows)
        self._keep_limit(limit)  # without the lock: it may wait for another process's write lock, searches must not
        return False


def machine() -> str:
    """The processor, as far as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model", "Hardware"))]
    return named[0] if named else platform.machine()


def tune(view: View, graph: Graph, codec: Codec, *, stopped: Callable[[], bool]) -> tuple[int, float, float]:
    """(least ef that reaches RECALL on a sample or 0, ms a search there, ms an exact scan)."""
    random = np.random.default_rng(0)
    living = np.arange(len(view.rows)) if view.alive is None else np.flatnonzero(view.alive)
    chosen = view.rows[random.choice(living, min(_SAMPLE, len(living)), replace=False)].astype(np.float32)
    noise = random.standard_normal(chosen.shape).astype(np.float32)
    mixed = _SAMPLE_COSINE * _unit(chosen) + np.sqrt(1 - _SAMPLE_COSINE**2) * _unit(noise)
    probes = codec.probes(_unit(mixed.astype(np.float32)))
    # The best product and not the row is compared: two templates may be equally near.
    scan_times: list[float] = []
    graph_times: list[float] = []
    best: list[float] = []
    for probe in probes:
        start = time.perf_counter()
        rows = view.best(probe[None], 8)[0]
        scan_times.append(time.perf_counter() - start)
        best.append(_product(view, probe, rows))
        if stopped():
            return 0, 0.0, 0.0
    for ef in _EFS:
        graph_times, reached = [], 0
        for probe, want in zip(probes, best, strict=True):
            start = time.perf_counter()
            rows = graph.search(probe, 8, ef)
            graph_times.append(time.perf_counter() - start)
            reached += _product(view, probe, rows) >= want
        if reached >= RECALL * len(probes) or stopped():
            return ef, float(np.median(graph_times)) * 1e3, float(np.median(scan_times)) * 1e3
    return 0, float(np.median(graph_times)) * 1e3, float(np.median(scan_times)) * 1e3


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    unit: npt.NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def _product(view: View, probe: npt.NDArray[Any], rows: IntArray) -> float:
    """The first row's product with the probe, minus infinity where there is none."""
    if len(rows) == 0 or rows[0] < 0:
        return -np.inf
    return float(view.rows[rows[0]].astype(np.float64) @ probe.astype(np.float64))
