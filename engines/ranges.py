"""Running statistics of activations over the calibration pictures, in bounded memory, and ranges chosen from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeface.engines.session import Runner
from edgeface.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy.typing as npt

    from edgeface.engines.graph import Graph
    from edgeface.engines.session import Tensors

    Array = npt.NDArray[np.float64]
    Floats = npt.NDArray[np.float32]

BINS = 4096  # a percentile of 99.999 is then resolved to a 4096th of the largest value


class Statistics:
    """Of one tensor: the largest magnitude and the mean per channel, both ends, and a histogram of magnitudes.

    The histogram's range doubles when a larger value comes, by adding neighbouring bins, so one pass suffices.
    """

    def __init__(self) -> None:
        self.maxima: Array = np.empty(0)
        self.lowest, self.highest = np.inf, -np.inf
        self.limit = 0.0
        self.counts = np.zeros(BINS, np.int64)
        self._sums: Array = np.empty(0)
        self._values_per_channel = 0

    @property
    def means(self) -> Array:
        """(C,) mean of each channel."""
        return self._sums / max(self._values_per_channel, 1)

    def add(self, name: str, values: Floats, *, histogram: bool = True) -> None:
        """Add (N, C, ...) values; without a histogram only the maxima and means are kept."""
        rows = values.reshape(len(values), values.shape[1], -1) if values.ndim > 1 else values.reshape(1, 1, -1)
        magnitudes = np.abs(rows)
        maxima = magnitudes.max(axis=(0, 2)).astype(np.float64)
        if not np.isfinite(maxima).all():
            raise BuildError(f"tensor {name!r}: NaN or infinity on a calibration picture; the FP32 model itself fails")
        if not len(self.maxima):
            self.maxima, self._sums = np.zeros(len(maxima)), np.zeros(len(maxima))
        self.maxima = np.maximum(self.maxima, maxima)
        self._sums += rows.sum(axis=(0, 2), dtype=np.float64)
        self._values_per_channel += rows.shape[0] * rows.shape[2]
        self.lowest, self.highest = min(self.lowest, float(rows.min())), max(self.highest, float(rows.max()))
        if not histogram:
            return
        largest = float(maxima.max())
        if self.limit == 0.0:
            self.limit = largest
        while largest > self.limit > 0.0:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
            self.limit *= 2
        if self.limit > 0.0:
            at = (magnitudes.reshape(-1) * np.float32(BINS / self.limit)).astype(np.int32)
            self.counts += np.bincount(np.minimum(at, BINS - 1), minlength=BINS)

    def range(self, policy: str) -> float:
        """The magnitude that becomes 127 steps: the largest with the policy ``max``, else the one at a percentile."""
        largest = float(self.maxima.max()) if len(self.maxima) else 0.0
        if policy == "max" or largest == 0.0:
            return largest
        share = np.cumsum(self.counts) / max(int(self.counts.sum()), 1)
        at = int(np.searchsorted(share, float(policy) / 100.0)) + 1
        return min(at * self.limit / BINS, largest)

    def bounds(self, policy: str) -> tuple[float, float]:
        """Low and high of the values, those that the policy cuts off aside."""
        limit = self.range(policy)
        return max(self.lowest, -limit), min(self.highest, limit)


def collect(
    graph: Graph,
    tensors: Tensors,
    names: Iterable[str],
    *,
    histogram: bool = True,
    tick: Callable[[int], None] | None = None,
) -> dict[str, Statistics]:
    """Statistics of the named tensors over (N, 3, H, W) float32 inputs of the network."""
    found = {name: Statistics() for name in dict.fromkeys(names)}
    runner = Runner(graph, outputs=list(found))
    for part in runner.batches(tensors, tick=tick):
        for name, values in part.items():
            found[name].add(name, values, histogram=histogram)
    return found
