"""The graph over large galleries: the same answers as the exact scan, and a snapshot that is used or refused."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import logging
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeface.gallery import Gallery, graphs, index, snapshot
from edgeface.gallery.vectors import Codec, default_scale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Draw = Callable[..., npt.NDArray[np.float32]]

DIMENSION, PEOPLE, EACH = 32, 600, 8


@pytest.fixture(params=["int8", "hnswlib"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kinds of graph in turn."""
    module = {"int8": "edgeface._hnsw", "hnswlib": "hnswlib"}[request.param]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: hnswlib's headers were not found at build time")
    chosen = graphs.Int8Graph if request.param == "int8" else graphs.PackageGraph
    monkeypatch.setattr(index, "graph_kind", lambda encoding: chosen)
    monkeypatch.setattr(snapshot, "graph_kind", lambda encoding: chosen)
    return str(request.param)


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where possible: hundreds of durable additions wait for no disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield Path(name)


def opened(folder: Path, exact_up_to: int | None = 1000) -> Gallery:
    return Gallery.open(folder / "g", model_id="m", dimension=DIMENSION, exact_up_to=exact_up_to)


def fill(gallery: Gallery, rows: npt.NDArray[np.float32]) -> None:
    for number in range(len(rows) // EACH):
        gallery.add(f"{number}", rows[number * EACH : (number + 1) * EACH])


def agreement(gallery: Gallery, exact: Gallery, probes: npt.NDArray[np.float32]) -> float:
    """Share of probes with the same best person in both."""
    pairs = zip(gallery.search(probes, k=3), exact.search(probes, k=3), strict=True)
    return float(np.mean([a.names[:1] == b.names[:1] for a, b in pairs]))


def test_the_graph_gives_the_scans_answers_through_changes_and_reopening(kind: str, folder: Path, units: Draw) -> None:
    rows, probes = units(PEOPLE * EACH, DIMENSION), units(300, DIMENSION)
    exact = opened(folder, exact_up_to=1_000_000)
    with exact, opened(folder) as gallery:
        fill(gallery, rows)
        gallery.search(probes[0])
        assert gallery.wait_for_index(60)
        state = gallery._index.snapshot()
        assert state is not None
        assert state[0].kind == kind
        assert agreement(gallery, exact, probes) >= 0.99
        for number in range(0, 100, 2):
            gallery.remove(f"{number}")
        fresh = units(50, DIMENSION)
        for number, row in enumerate(fresh):  # these wait outside the graph and must be found all the same
            gallery.add(f"fresh {number}", row)
        found = gallery.search(fresh, k=1)
        assert [match.names[0] for match in found] == [f"fresh {number}" for number in range(50)]
        removed = {f"{number}" for number in range(0, 100, 2)}
        for match in gallery.search(rows[: 100 * EACH : EACH], k=2):
            assert not removed & set(match.names)
        assert agreement(gallery, exact, probes) >= 0.99
    with opened(folder) as again, opened(folder, exact_up_to=1_000_000) as exact:
        assert again._index.snapshot() is not None  # from the snapshot, before any work in the background
        assert agreement(again, exact, probes) >= 0.99
        for number in range(100, 130):
            again.remove(f"{number}")
        assert agreement(again, exact, probes) >= 0.99


def test_when_a_fifth_is_dead_the_graph_is_made_again(kind: str, folder: Path, units: Draw) -> None:
    rows, probes = units(PEOPLE * EACH, DIMENSION), units(200, DIMENSION)
    with opened(folder) as gallery, opened(folder, exact_up_to=1_000_000) as exact:
        fill(gallery, rows)
        gallery.search(probes[0])
        assert gallery.wait_for_index(60)
        for number in range(PEOPLE // 4):
            gallery.remove(f"{number}")
        assert agreement(gallery, exact, probes) == 1.0  # by the exact scan, while the graph is made
        assert gallery.wait_for_index(60)
        state = gallery._index.snapshot()
        assert state is not None
        assert state[2].used == len(state[2]) == (PEOPLE - PEOPLE // 4) * EACH
        assert agreement(gallery, exact, probes) >= 0.99


def test_the_snapshot_holds_no_templates(kind: str, folder: Path, units: Draw) -> None:
    rows = units(PEOPLE * EACH, DIMENSION)
    with opened(folder) as gallery:
        fill(gallery, rows)
        gallery.search(rows[0])
        assert gallery.wait_for_index(60)
        stored = gallery._index.snapshot()
    assert stored is not None
    content = snapshot.snapshot_path(folder / "g").read_bytes()
    assert (folder / "g.index").stat().st_mode & 0o777 == 0o600
    codec = Codec(DIMENSION, "int8", default_scale(DIMENSION))
    for coded, row in zip(codec.encode(rows[:500]), rows[:500], strict=True):
        assert coded.tobytes() not in content
        assert coded.astype(np.float32).tobytes() not in content
        assert row.tobytes() not in content


def test_a_damaged_or_foreign_snapshot_is_built_again(
    kind: str, folder: Path, units: Draw, caplog: pytest.LogCaptureFixture
) -> None:
    rows = units(PEOPLE * EACH, DIMENSION)
    with opened(folder) as gallery:
        fill(gallery, rows)
        gallery.search(rows[0])
        assert gallery.wait_for_index(60)
    path = folder / "g.index"
    whole = path.read_bytes()
    chance = np.random.default_rng(0)
    places = {0, 8, 12, 30, len(whole) - 1, *chance.integers(0, len(whole), 25).tolist()}
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    damaged += [whole[:length] for length in (0, 7, 19, 51, len(whole) // 2, len(whole) - 1)]
    with opened(folder, exact_up_to=1_000_000) as gallery:
        everything = gallery._store.changes(0)
        for content in damaged:
            path.write_bytes(content)
            assert snapshot.load(gallery._store, everything) is None
        assert caplog.text.count("built again") == len(damaged)
        path.write_bytes(whole)
        assert snapshot.load(gallery._store, everything) is not None
    path.write_bytes(damaged[0])
    with opened(folder) as gallery:  # answers at once, and has its graph back soon
        assert gallery.search(rows[9], k=1)[0].names == ("1",)
        assert gallery.wait_for_index(60)
        assert gallery._index.snapshot() is not None
    with Gallery.open(folder / "other", model_id="m", dimension=DIMENSION) as other:
        fill(other, rows)
        (folder / "other.index").write_bytes(whole)
        assert snapshot.load(other._store, other._store.changes(0)) is None


def test_links_that_lead_astray_are_built_again(
    kind: str, folder: Path, units: Draw, caplog: pytest.LogCaptureFixture
) -> None:
    """The SHA-256 holds, as after a fault in the writing program: only a look at the links tells."""
    rows = units(PEOPLE * EACH, DIMENSION)
    with opened(folder) as gallery:
        fill(gallery, rows)
        gallery.search(rows[0])
        assert gallery.wait_for_index(60)
    path = folder / "g.index"
    body = path.read_bytes()[:-32]
    header = 20 + struct.unpack_from("<Q", body, 12)[0]
    count = PEOPLE * EACH
    start, size = header + 13 * count, 4 + 8 * graphs.LINKS + 8
    links = start + 96
    upper = next(
        at for at in range(links + count * size, len(body), 4) if struct.unpack_from("<I", body, at)[0]
    )  # the length of the first list on an upper level
    lowest = next(row for row in range(count) if row * 4 + links + count * size != upper)
    changes: list[tuple[int, str, int]] = [
        (start + 8 * field, "<Q", value) for field in range(6) if field != 1 for value in (1, 1 << 40, 1 << 63)
    ]
    changes += [(start + 48, "<i", 60), (start + 48, "<i", -1), (start + 52, "<I", count)]
    changes += [(start + at, "<Q", 1 << 33) for at in (56, 64, 72, 80, 88)]
    changes += [
        (links, "<H", 0xFFFF),  # number of links
        (links + 4, "<I", count),  # a link beyond the last element
        (links + 7 * size + 4, "<I", 0xFFFFFFFF),
        (links + 4 + 8 * graphs.LINKS, "<Q", count + 5),  # label
        (upper, "<I", 0xFFFFFF00),
        (upper + 4, "<H", graphs.LINKS + 1),
        (upper + 8, "<I", count),
        (upper + 8, "<I", lowest),  # an element that is not on that level
    ]
    with opened(folder, exact_up_to=1_000_000) as gallery:
        everything = gallery._store.changes(0)
        for at, form, value in changes:
            bad = bytearray(body)
            struct.pack_into(form, bad, at, value)
            path.write_bytes(bytes(bad) + hashlib.sha256(bad).digest())
            assert snapshot.load(gallery._store, everything) is None, (at - start, form, value)
        for cut in (body[:-4], body + bytes(4), body[:start], body[: start + 95]):
            path.write_bytes(cut + hashlib.sha256(cut).digest())
            assert snapshot.load(gallery._store, everything) is None
        assert caplog.text.count("built again") == len(changes) + 4
        path.write_bytes(body + hashlib.sha256(body).digest())
        assert snapshot.load(gallery._store, everything) is not None


def test_a_snapshot_of_another_history_is_refused(kind: str, folder: Path, units: Draw) -> None:
    """A restored backup gives template ids again: the checksums tell the templates apart."""
    rows = units(PEOPLE * EACH, DIMENSION)
    with opened(folder) as gallery:
        fill(gallery, rows[: 300 * EACH])
    backup = (folder / "g").read_bytes()
    with opened(folder) as gallery:
        for number in range(300, PEOPLE):
            gallery.add(f"{number}", rows[number * EACH : (number + 1) * EACH])
        gallery.search(rows[0])
        assert gallery.wait_for_index(60)
    (folder / "g").write_bytes(backup)
    with opened(folder, exact_up_to=1_000_000) as gallery:  # no graph of its own, whose snapshot would be right
        for number in range(300, PEOPLE):
            gallery.add(f"{number}", units(EACH, DIMENSION))
        assert snapshot.load(gallery._store, gallery._store.changes(0)) is None


def test_the_scan_stays_where_the_graph_is_no_faster(folder: Path, units: Draw) -> None:
    """5,000 short rows are scanned in microseconds: the graph is given up and the limit is kept for the next start."""
    rows = units(PEOPLE * EACH, DIMENSION)
    with opened(folder, exact_up_to=None) as gallery:
        gallery._index.exact_up_to = 1000
        fill(gallery, rows)
        gallery.search(rows[0])
        assert gallery.wait_for_index(60)
        if gallery._index.snapshot() is None:
            assert gallery._index.exact_up_to == 2 * PEOPLE * EACH
            limit = gallery._index.exact_up_to
        else:
            pytest.skip("on this machine a graph over 4,800 rows is faster than the scan")
    with opened(folder, exact_up_to=None) as gallery:
        assert gallery._index.exact_up_to == limit


def test_progress_is_told_and_closing_stops_the_work(kind: str, folder: Path, units: Draw) -> None:
    told: list[tuple[int, int]] = []
    with opened(folder, exact_up_to=1_000_000) as gallery:
        fill(gallery, units(PEOPLE * EACH, DIMENSION))
    gallery = Gallery.open(
        folder / "g", model_id="m", dimension=DIMENSION, exact_up_to=1000, progress=lambda *step: told.append(step)
    )
    assert gallery.wait_for_index(60)
    gallery.close()
    assert told[-1] == (PEOPLE * EACH, PEOPLE * EACH)
    assert all(before <= after for before, after in itertools.pairwise(told))
    (folder / "g.index").unlink()
    start = time.perf_counter()
    opened(folder).close()
    assert time.perf_counter() - start < 2


def test_without_any_graph_the_scan_serves(
    folder: Path, units: Draw, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(index, "graph_kind", lambda encoding: None)
    monkeypatch.setattr(snapshot, "graph_kind", lambda encoding: None)
    rows = units(PEOPLE * EACH, DIMENSION)
    with caplog.at_level(logging.WARNING), opened(folder) as gallery:
        fill(gallery, rows)
        assert gallery.search(rows[9], k=1)[0].names == ("1",)
    assert caplog.text == ""


def test_a_snapshot_is_of_one_moment_and_closing_waits_for_it(
    kind: str, folder: Path, units: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, more = units(PEOPLE * EACH, DIMENSION), units(index.TAIL + 500, DIMENSION)
    saved: list[index.Dump] = []
    started = threading.Event()

    def slow(store: object, dump: index.Dump) -> bool:
        started.set()
        time.sleep(0.3)
        saved.append(dump)
        return True

    monkeypatch.setattr(snapshot, "save", slow)
    gallery = opened(folder)
    fill(gallery, rows)
    gallery.search(rows[0])
    assert started.wait(60)
    gallery.add("more", more)  # while the snapshot is being written: inserted by the same thread, afterwards
    gallery.search(rows[0])
    gallery.close()
    assert saved
    for dump in saved:
        assert len(dump.template_ids) == len(dump.checksums) == len(dump.alive)
    assert len(saved[0].template_ids) <= PEOPLE * EACH


def test_a_dump_holds_up_no_search_and_no_enrolment(
    kind: str, folder: Path, units: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(folder) as gallery:
        fill(gallery, rows := units(PEOPLE * EACH, DIMENSION))
        gallery.search(rows[0])
        assert gallery.wait_for_index(60)
        graph = gallery._index._graph
        links = b"" if graph is None else graph.dump()

        def change() -> None:
            gallery.remove("1")
            gallery.search(rows[9])

        def meanwhile() -> bytes:
            other = threading.Thread(target=change, daemon=True)
            other.start()
            other.join(10)
            assert not other.is_alive(), "a search waits for the dump"
            return links

        monkeypatch.setattr(graph, "dump", meanwhile)
        dump = gallery._index.dump()
        assert dump is not None
        assert dump.checksums[dump.alive == 0].tolist() == [0] * EACH  # removed meanwhile: dead, no checksum kept


def test_the_limit_is_kept_without_the_indexs_lock(folder: Path, units: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = units(PEOPLE * EACH, DIMENSION)
    free: list[bool] = []
    monkeypatch.setattr(index, "tune", lambda *given, **more: (0, 1.0, 1.0))

    def probe() -> None:
        free.append(gallery._index._lock.acquire(timeout=5))
        gallery._index._lock.release()

    def keep(limit: int) -> None:
        other = threading.Thread(target=probe)
        other.start()
        other.join()

    with opened(folder) as gallery:
        if gallery._index._kind is None:
            pytest.skip("no kind of graph is installed")
        gallery._index._keep_limit = keep
        fill(gallery, rows)
        gallery.search(rows[0])
        assert gallery.wait_for_index(60)
    assert free == [True]
