"""One harness for every benchmark: both sides in one run, alternating, warmed up, medians, correctness beside speed.

A benchmark is a module of this folder with ``TITLE: str``, ``OPTIONS: list[click.Option]`` (may be empty),
``rows(**options) -> Iterator[Row]``, and ``THREADS: int`` where it takes more than one. `edgeface bench NAME` finds it
by its name. One that measures something else than a time gives rows of its own, with `summary` and `as_dict`, and
prints them with ``show(title, facts, rows)``.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = ("numpy", "onnxruntime", "opencv-python", "hnswlib", "faiss-cpu", "edgeface")


@dataclass(frozen=True)
class Row:
    """One line of a benchmark.

    Attributes:
        name: what is measured.
        ours_ms: median milliseconds of our side.
        peer: name and version of the other side, or what is lacking.
        peer_ms: median milliseconds of the other side; None when it is lacking.
        ratio: peer over ours, above 1 where we are faster; the median of the ratios pair by pair.
        target: the ratio to reach; None where there is none.
        correctness: how far both results agree, for people to read.
        extra: more figures by name, such as a 99th percentile.
    """

    name: str
    ours_ms: float
    peer: str
    peer_ms: float | None
    ratio: float | None
    target: float | None
    correctness: str
    extra: dict[str, float] | None = None

    @property
    def summary(self) -> str:
        """One line for who waits."""
        return f"{self.name}: {self.ours_ms:.4g} ms"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def milliseconds(call: Callable[[], object], inner: int = 1) -> float:
    """Wall time of one call, the mean of `inner` calls in a row."""
    start = time.perf_counter()
    for _ in range(inner):
        call()
    return (time.perf_counter() - start) * 1e3 / inner


def measure(
    name: str,
    ours: Callable[[], object],
    peer: Callable[[], object] | None = None,
    *,
    peer_name: str = "",
    target: float | None = None,
    correctness: str = "",
    seconds: float = 1.5,
    rounds: int = 200,
    extra: dict[str, float] | None = None,
) -> Row:
    """Time both sides in turn and give their medians.

    The sides alternate so that a change of the machine's speed meets both. Fast calls are repeated inside one
    measurement until it lasts about a millisecond. It ends after `rounds` pairs or `seconds`, with five pairs at least.
    """
    calls = [ours] if peer is None else [ours, peer]
    inner = []
    for call in calls:
        call()  # first use: caches, lazy initialisation
        warm = min(milliseconds(call) for _ in range(3))
        inner.append(max(1, min(10_000, int(1.0 / max(warm, 1e-5)))))
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(times[0]) < 5 or (time.perf_counter() < end and len(times[0]) < rounds):
        for side, call in enumerate(calls):
            times[side].append(milliseconds(call, inner[side]))
    ours_ms = statistics.median(times[0])
    if peer is None:
        return Row(name, ours_ms, peer_name, None, None, target, correctness, extra)
    ratio = statistics.median(b / a for a, b in zip(times[0], times[1], strict=True))
    return Row(name, ours_ms, peer_name, statistics.median(times[1]), ratio, target, correctness, extra)


def pin(threads: int = 1) -> None:
    """Keep this process to `threads` processors, and the numeric libraries to as many threads.

    The environment variables must be set before the libraries are imported, so benchmarks call this first.
    """
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def machine_facts() -> dict[str, Any]:
    """Processor, cores, memory, system and package versions: what a figure depends on."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores_used": len(os.sched_getaffinity(0)),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = None
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return named[0] if named else platform.processor()
