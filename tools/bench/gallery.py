"""`edgeface bench gallery`: search, opening, building, adding and memory, against bare hnswlib with float32."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface.tools.bench.harness import Row, measure, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from edgeface.gallery import Gallery

    FloatArray = npt.NDArray[np.float32]

TITLE = "The gallery: search, open, build, add, memory"
OPTIONS = [
    click.Option(
        ["--sizes"], default="1000,10000,100000", show_default=True,
        help="Templates, comma-separated. 1000000 takes some 40 minutes, nearly all of it building graphs.",
    ),
    click.Option(["--no-peer"], is_flag=True, help="Leave hnswlib out: its index of a million takes long to build."),
    click.Option(
        ["--exact-up-to", "exact_up_to"], type=click.IntRange(0), default=None,
        help="Take the exact scan up to this many templates and a graph above, instead of the faster one by measure.",
    ),
    click.Option(
        ["--embeddings"], type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Names and embeddings that `edgeface eval pairs --embeddings` wrote: adds int8 against float32 on them.",
    ),
    click.Option(
        ["--plot"], type=click.Path(dir_okay=False, path_type=Path), help="Write the growth of every cost as an SVG.",
    ),
]  # fmt: skip

DIMENSION, EACH, PROBES = 128, 2, 1000
#: SFace on 2,320 photographs of LFW, 2,891 genuine and 2.7 million impostor pairs: cosines 0.654 +- 0.105 and
#: 0.086 +- 0.089, embeddings of effective dimension 108 (participation ratio of the covariance's eigenvalues).
_COMMON, _PERSON, _PHOTO, _PHOTO_SPREAD = 0.088, 0.578, 0.325, 0.27


@dataclass(frozen=True)
class Crowd:
    """Simulated faces: `templates` with `owners`, and probes of `wanted` people."""

    templates: FloatArray
    probes: FloatArray
    wanted: npt.NDArray[np.int64]


def simulate(count: int, *, seed: int = 0) -> Crowd:
    """Faces whose genuine and impostor similarities are SFace's on LFW: a mean face, a person, a photograph."""
    random = np.random.default_rng(seed)
    spectrum = np.linspace(1.5, 0.5, DIMENSION)
    spread = np.sqrt(spectrum / spectrum.sum()).astype(np.float32)
    mean = random.standard_normal(DIMENSION).astype(np.float32) * spread
    mean *= np.sqrt(_COMMON) / np.linalg.norm(mean)
    people = random.standard_normal((count // EACH, DIMENSION)).astype(np.float32) * spread * np.sqrt(_PERSON)

    def photographs(of: npt.NDArray[np.int64]) -> FloatArray:
        noise = random.standard_normal((len(of), DIMENSION)).astype(np.float32) * spread
        loud = np.exp(random.normal(0, _PHOTO_SPREAD, (len(of), 1))).astype(np.float32)
        rows = mean + people[of] + np.sqrt(_PHOTO) * loud * noise
        unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit

    wanted = random.integers(0, count // EACH, PROBES)
    return Crowd(photographs(np.repeat(np.arange(count // EACH), EACH)), photographs(wanted), wanted)


def fill(gallery: Gallery, crowd: Crowd) -> None:
    """Everybody in one transaction, as an import does it."""
    from edgeface.gallery.template_info import TemplateInfo

    store = gallery._store
    with store.database.writing() as connection:
        for number in range(len(crowd.templates) // EACH):
            rows = store.codec.encode(crowd.templates[number * EACH : (number + 1) * EACH])
            person_id = store.insert_person(connection, f"person {number}", "{}", 0, 0)
            store.insert_templates(connection, person_id, rows, [TemplateInfo()] * EACH, 0)


def rows(
    *, sizes: str, no_peer: bool, exact_up_to: int | None, embeddings: Path | None, plot: Path | None
) -> Iterator[Row]:
    """One row a figure and size; the peer is the hnswlib package with float32, M 16, ef_construction 200."""
    done = []
    for row in _rows(sizes, no_peer, exact_up_to, embeddings):
        done.append(row)
        yield row
    if plot is not None:
        from edgeface.tools.bench.growth_plot import growth_svg

        plot.write_text(growth_svg(done), encoding="utf-8")


def _rows(sizes: str, no_peer: bool, exact_up_to: int | None, embeddings: Path | None) -> Iterator[Row]:
    yield simulation_row()
    for word in sizes.split(","):
        try:
            size = int(word)
        except ValueError:
            raise click.UsageError(f"--sizes: expected numbers of templates, got {word!r}") from None
        if not 1000 <= size <= 10_000_000:
            raise click.UsageError(f"--sizes: expected 1000 to 10000000, got {size}")
        with tempfile.TemporaryDirectory() as folder:
            yield from size_rows(Path(folder), size, exact_up_to=exact_up_to, with_peer=not no_peer)
    if embeddings is not None:
        yield int8_row(embeddings)


def simulation_row() -> Row:
    """How like SFace's the simulated similarities are."""
    crowd = simulate(4000)
    similarities = crowd.templates @ crowd.templates.T
    genuine = similarities[np.arange(0, 4000, 2), np.arange(1, 4000, 2)]
    impostor = similarities[np.add.outer(np.arange(4000) // EACH * -1, np.arange(4000) // EACH) > 0]
    return Row(
        "simulated faces", 0.0, "SFace on LFW: genuine 0.654 +- 0.105, impostor 0.086 +- 0.089", None, None, None,
        f"genuine {genuine.mean():.3f} +- {genuine.std():.3f}, impostor {impostor.mean():.3f} +- {impostor.std():.3f}",
    )  # fmt: skip


def size_rows(folder: Path, size: int, *, exact_up_to: int | None, with_peer: bool) -> Iterator[Row]:
    """All rows of one size."""
    from edgeface.gallery import Gallery

    crowd, path, label = simulate(size), folder / "g", f"{size:,} templates"
    with Gallery.open(path, model_id="bench", dimension=DIMENSION, exact_up_to=exact_up_to) as gallery:
        start = time.perf_counter()
        fill(gallery, crowd)
        filled_s = time.perf_counter() - start
        start = time.perf_counter()
        gallery.search(crowd.probes[0])
        gallery.wait_for_index()
        indexed_s = time.perf_counter() - start
        state, figures = gallery._index.snapshot(), gallery.stats()
        peer, peer_built_s = Peer.build(crowd.templates) if with_peer else (None, 0.0)
        yield search_row(gallery, crowd, peer, label)
        yield add_row(gallery, crowd, label)
    peer_path = folder / "peer"
    if peer is not None:
        peer.index.save_index(str(peer_path))
    ours = in_child("ours", path, exact_up_to)
    theirs = None if peer is None else in_child("peer", peer_path, size)
    name = "hnswlib float32" if peer is not None else "left out"
    disk = sum(path.with_name(path.name + suffix).stat().st_size for suffix in ("", ".index")
               if path.with_name(path.name + suffix).exists())  # fmt: skip
    yield Row(
        f"open, {label}", ours["ms"], f"{name}, load_index", theirs["ms"] if theirs else None,
        theirs["ms"] / ours["ms"] if theirs else None, None, figures["search"],
    )  # fmt: skip
    yield Row(
        f"memory, {label}", 0.0, name, None, theirs["bytes"] / ours["bytes"] if theirs else None, 1 / 1.1,
        "bytes a template; the ratio is of memory, not of time",
        {"ours_bytes": ours["bytes"] / size, "disk_bytes": disk / size,
         **({} if theirs is None else {"peer_bytes": theirs["bytes"] / size})},
    )  # fmt: skip
    yield Row(
        f"build, {label}", (filled_s + indexed_s) * 1e3, f"{name}, in memory only", peer_built_s * 1e3 or None,
        peer_built_s / (filled_s + indexed_s) if peer else None, None,
        "ours is durable on disk, index included" if state else "ours is durable on disk; no graph is needed",
        {"filling_ms": filled_s * 1e3, "index_ms": indexed_s * 1e3},
    )  # fmt: skip


@dataclass
class Peer:
    """The hnswlib package, with the least ef that gives recall 0.999, or the largest tried."""

    index: Any
    recall: float

    @classmethod
    def build(cls, templates: FloatArray) -> tuple[Peer | None, float]:
        try:
            import hnswlib
        except ImportError:
            return None, 0.0
        index = hnswlib.Index("ip", DIMENSION)
        index.init_index(len(templates), M=16, ef_construction=200)
        start = time.perf_counter()
        index.add_items(templates, num_threads=1)
        seconds = time.perf_counter() - start
        index.set_num_threads(1)
        return cls(index, 0.0), seconds

    def settle(self, probes: FloatArray, truth: npt.NDArray[np.int64], least: float) -> int:
        """Choose ef for a recall of at least `least`; returns it."""
        for ef in (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024):
            self.index.set_ef(ef)
            self.recall = float(np.mean(self.index.knn_query(probes, 1)[0][:, 0] == truth))
            if self.recall >= least:
                break
        return ef


def search_row(gallery: Gallery, crowd: Crowd, peer: Peer | None, label: str) -> Row:
    """One probe at a time through `Gallery.search`, names included; the peer gives row numbers only."""
    from edgeface.gallery.index import Searcher
    from edgeface.gallery.nearest import nearest_people

    view = gallery._index.searcher().view
    exact = nearest_people(Searcher(view, None, 0, 0), crowd.probes, gallery._store.codec.probes(crowd.probes), 1)
    found = [match.person_ids[0] for match in gallery.search(crowd.probes, k=5)]
    recall = float(np.mean([ids[0] == one for (ids, _), one in zip(exact, found, strict=True)]))
    parts = np.array_split(crowd.probes, 50)
    truth = np.concatenate([np.argmax(part @ crowd.templates.T, axis=1) for part in parts])
    agree = float(np.mean([truth[i] // EACH == found[i] - 1 for i in range(PROBES)]))
    ef = 0 if peer is None else peer.settle(crowd.probes, truth, min(recall, 0.999))
    turn = {"ours": 0, "peer": 0}

    def ours() -> object:
        turn["ours"] += 1
        return gallery.search(crowd.probes[turn["ours"] % PROBES], k=5)

    def theirs() -> object:
        turn["peer"] += 1
        return peer and peer.index.knn_query(crowd.probes[turn["peer"] % PROBES], 5)

    calls = {"p99_ms": ours} if peer is None else {"p99_ms": ours, "peer_p99_ms": theirs}
    times: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(PROBES):  # in turn: a busy moment of the machine meets both
        for key, call in calls.items():
            times[key].append(milliseconds(call))
    extra = {key: float(np.quantile(values, 0.99)) for key, values in times.items()}
    said = f"recall@1 {recall:.4f} of the exact scan; best person as by exact float32: {agree:.4f}"
    if peer is not None:
        said += f"; hnswlib's recall@1 {peer.recall:.4f} at ef {ef}"
    name = f"hnswlib {metadata.version('hnswlib')} float32" if peer is not None else "left out"
    return measure(
        f"search, {label}", ours, theirs if peer is not None else None, peer_name=name, target=1.0,
        correctness=said, extra=extra,
    )  # fmt: skip


def add_row(gallery: Gallery, crowd: Crowd, label: str) -> Row:
    """One person added, on disk when it returns; the next search sees them."""
    times, seen = [], 0
    for number, probe in enumerate(crowd.probes[:50]):
        start = time.perf_counter()
        gallery.add(f"added {number}", probe)
        times.append((time.perf_counter() - start) * 1e3)
        seen += gallery.search(probe, k=1)[0].names == (f"added {number}",)
    return Row(
        f"add one durably, {label}", float(np.median(times)), "", None, None, None,
        f"{seen} of 50 found by the next search", {"p99_ms": float(np.quantile(times, 0.99))},
    )  # fmt: skip


def in_child(what: str, path: Path, number: int | None) -> dict[str, float]:
    """Milliseconds to open and bytes of memory taken, in a fresh process; `number`: exact_up_to, or the peer's room."""
    done = subprocess.run(
        [sys.executable, "-m", "edgeface.tools.bench.gallery", what, str(path), json.dumps(number)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _child(what: str, path: str, number: int | None) -> None:
    from edgeface.gallery import Gallery

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    probe = simulate(1000).probes[0]
    if what == "peer":
        import hnswlib

        index = hnswlib.Index("ip", DIMENSION)
    before, start = resident(), time.perf_counter()
    if what == "peer":
        index.load_index(path, number)
        index.knn_query(probe, 1, 1)
    else:
        gallery = Gallery.open(path, model_id="bench", dimension=DIMENSION, exact_up_to=number)
        gallery.search(probe)
    elapsed = time.perf_counter() - start
    print(json.dumps({"ms": elapsed * 1e3, "bytes": resident() - before}))


def int8_row(path: Path) -> Row:
    """TAR at FAR 1e-4 over all pairs of real embeddings, int8 templates against float32 ones."""
    from edgeface.gallery.vectors import Codec, cosines, default_scale

    stored = np.load(path)
    faces = stored["E"].astype(np.float32)
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    people = np.array([str(name).rpartition("/")[2].rsplit("_", 1)[0] for name in stored["names"]])
    coded = Codec(faces.shape[1], "int8", default_scale(faces.shape[1])).encode(faces)
    first, second = np.triu_indices(len(faces), 1)
    same = people[first] == people[second]
    tars = []
    for probes in (faces @ faces.T, np.stack([cosines(face, coded) for face in faces])):
        pairs = probes[first, second]
        limit = np.quantile(pairs[~same], 1 - 1e-4)
        tars.append(float((pairs[same] > limit).mean()))
    return Row(
        "int8 templates on real faces", 0.0, "float32 templates", None, None, None,
        f"TAR at FAR 1e-4: {tars[1]:.4f} with int8, {tars[0]:.4f} with float32, over {int(same.sum()):,} genuine and "
        f"{int((~same).sum()):,} impostor pairs",
        {"tar_int8": tars[1], "tar_float32": tars[0], "loss": tars[0] - tars[1]},
    )  # fmt: skip


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
