"""Times loaded engines against one another: alternating runs, so that what slows the machine slows all of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeface.runtime import Engine

#: Alternating runs of each engine and shape: enough for quartiles, and seconds where a run takes milliseconds.
ROUNDS = 60
WARM_UP = 5


@dataclass(frozen=True)
class Times:
    """Times of one engine for one shape of input, from the tensor in the caller's memory to the results in it.

    Attributes:
        shape: of the input. median_ms: of all runs. low_ms, high_ms: first and third quartile. runs: how many.
    """

    shape: tuple[int, ...]
    median_ms: float
    low_ms: float
    high_ms: float
    runs: int

    def __str__(self) -> str:
        return f"{self.median_ms:.3f} ms ({self.low_ms:.3f} to {self.high_ms:.3f})"


def race(
    engines: Sequence[Engine], shape: tuple[int, ...], *, rounds: int = ROUNDS, tick: Callable[[int], None]
) -> list[Times]:
    """Run each engine in turn, another one first in each round."""
    tensor = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)  # speed depends on shapes, not on values
    for engine in engines:
        for _ in range(WARM_UP):
            engine.run(tensor)
    took: list[list[float]] = [[] for _ in engines]
    for number in range(rounds):
        for place in range(len(engines)):
            at = (number + place) % len(engines)
            start = time.perf_counter()
            engines[at].run(tensor)
            took[at].append((time.perf_counter() - start) * 1e3)
        tick(1)
    made = []
    for times in took:
        low, median, high = (float(value) for value in np.percentile(times, (25, 50, 75)))
        made.append(Times(shape, median, low, high, len(times)))
    return made


def fastest(times: Sequence[Times]) -> int:
    """The index of the winner: the first one that is not surely slower than the fastest.

    Where the quartiles of two overlap, the one that was named first wins.
    """
    best = min(times, key=lambda one: one.median_ms)
    return next(at for at, one in enumerate(times) if one.low_ms <= best.high_ms)
