"""False match rates with confidence limits, and the tables of thresholds that recipes and manifests carry."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeface.engines.metrics import BLOCK_ROWS, all_pairs, operating_point
from edgeface.errors import InputError
from edgeface.manifest import OperatingPoint, Thresholds
from edgeface.policy import PAIRS_PER_RATE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy.typing as npt

    from edgeface.manifest import Manifest, Precision
    from edgeface.types import FloatArray, IntArray

logger = logging.getLogger(__name__)

TABLE_RATES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)
Z95 = 1.96  # two-sided 95 % of the normal distribution
NONE_SEEN = -math.log(0.025)  # upper 97.5 % limit of a Poisson mean where nothing was seen


@dataclass(frozen=True)
class Limits:
    """A measured rate with its 95 % limits.

    Attributes:
        people_pairs: number of pairs of people behind it: how much independent evidence there is, at most.
    """

    rate: float
    low: float
    high: float
    people_pairs: int


@dataclass(frozen=True)
class Dyads:
    """False matches counted by pairs of people: `first` < `second`, `counts` of each pair."""

    first: IntArray
    second: IntArray
    counts: npt.NDArray[np.float64]

    def per_person(self, people: int) -> npt.NDArray[np.float64]:
        """False matches in which each person takes part."""
        ends = np.concatenate([self.first, self.second])
        return np.asarray(np.bincount(ends, np.tile(self.counts, 2), people), np.float64)


def dyads(one: IntArray, other: IntArray, people: int) -> Dyads:
    """Count events by the two people, numbers below `people`, that take part in them."""
    keys, counts = np.unique(np.minimum(one, other) * people + np.maximum(one, other), return_counts=True)
    return Dyads(keys // people, keys % people, counts.astype(np.float64))


def limits(rate: float, found: Dyads, influence: npt.NDArray[np.float64], exposure: float, pairs: float) -> Limits:
    """The limits of a rate of false matches, where all comparisons of one person depend on each other.

    The variance is that of sums over pairs which share people: the squares of the people's influences, less what was
    counted twice, the squares of the pairs themselves (dyadic cluster-robust variance: M. Fafchamps and F. Gubert,
    "The formation of risk sharing networks", 2007; P. Aronow, C. Samii, V. Assenova, "Cluster-robust variance
    estimation for dyadic data", 2015). Resampling people gives the same to first order, but counts the noise of single
    pairs three times (A. Owen, "The pigeonhole bootstrap", 2007). The limits are symmetrical in the rate's logarithm.

    Args:
        influence: (P,) false matches of each person, less those expected of that person at `rate`.
        exposure: comparisons or searches behind the rate. pairs: of people among them.
    """
    if not len(found.counts):
        return Limits(0.0, 0.0, min(1.0, NONE_SEEN / max(pairs, 1.0)), 0)
    squares = float((found.counts**2).sum())
    spread = math.sqrt(max(float((influence**2).sum()) - squares, squares)) / exposure / rate
    return Limits(rate, rate * math.exp(-Z95 * spread), min(1.0, rate * math.exp(Z95 * spread)), len(found.counts))


def rate_limits(embeddings: FloatArray, labels: IntArray, threshold: float) -> Limits:
    """The false match rate at a threshold over all pairs of photographs of two people, with its limits.

    Args:
        embeddings: (N, D) float32 unit rows; zeros where there is no face, which match nobody.
        labels: (N,) person of each row.
    """
    people, codes = np.unique(labels, return_inverse=True)
    seen = np.asarray(embeddings.any(axis=1))
    ones: list[IntArray] = []
    others: list[IntArray] = []
    columns = np.arange(len(codes))
    for start in range(0, len(codes), BLOCK_ROWS):
        rows = columns[start : start + BLOCK_ROWS]
        counted = (codes[rows][:, None] != codes) & (rows[:, None] < columns) & seen[rows][:, None] & seen
        one, other = np.nonzero(counted & (embeddings[rows] @ embeddings.T >= np.float32(threshold)))
        ones.append(codes[rows[one]])
        others.append(codes[other])
    found = dyads(np.concatenate(ones), np.concatenate(others), len(people))
    sizes = np.bincount(codes).astype(np.float64)
    comparisons = (sizes.sum() ** 2 - (sizes**2).sum()) / 2
    rate = float(found.counts.sum() / max(comparisons, 1.0))
    influence = found.per_person(len(people)) - rate * sizes * (sizes.sum() - sizes)
    return limits(rate, found, influence, comparisons, len(people) * (len(people) - 1) / 2)


def measure_table(embeddings: FloatArray, labels: IntArray, origin: str) -> Thresholds:
    """The operating points, with limits, of all pairs of some photographs, down to the rate that ten impostor pairs
    support.

    Raises:
        InputError: fewer than a thousand impostor pairs.
    """
    scores = all_pairs(embeddings, labels)
    supported = [rate for rate in TABLE_RATES if rate * scores.impostors >= PAIRS_PER_RATE]
    if len(supported) < 2:
        raise InputError(f"{origin}: {scores.impostors} impostor pairs are too few for a table of thresholds")
    points: list[OperatingPoint] = []
    for asked in supported:
        at = operating_point(scores.genuine, scores.impostor_top, scores.impostors, asked)
        found = rate_limits(embeddings, labels, at.similarity)
        point = OperatingPoint(found.rate, at.similarity, at.tar, found.low, found.high)
        if point.fmr > 0 and (not points or _beyond(points[-1], point)):
            points.append(point)
    people = len(np.unique(labels))
    return Thresholds(origin, scores.impostors, tuple(points), people, f"{people} people of the same photographs")


def _beyond(before: OperatingPoint, after: OperatingPoint) -> bool:
    return after.similarity > before.similarity and after.fmr < before.fmr and after.sure_fmr < before.sure_fmr


def with_thresholds(base: Manifest, precision: Precision, figures: Mapping[str, Any], *, most: float) -> Manifest:
    """The manifest of a float32 model with its table made fit for a file of another precision, which says so.

    A table holds for one model and precision. The gate let the file's threshold at a false match rate of 1e-4 move by
    little; where it rose, every threshold of the table rises with it, so that no rate is exceeded. Where it was not
    measured, the table rises by the most that the gate would have let pass, and a warning says so.

    Args:
        figures: of the build's verification; its ``losses`` have the shift, where enough impostor pairs stood behind.
        most: the recipe's limit of that shift.
    """
    table = base.thresholds
    if table is None or precision == base.precision:
        return base
    shifts = [loss["shift"] for loss in figures.get("losses", []) if loss["far"] == 1e-4 and loss["supported"]]
    if shifts:
        how, up = f"its threshold at 1e-4 was measured to move by {shifts[0]:+.4f}", max(0.0, *shifts)
    else:
        how, up = f"its shift was not measured, so raised by the largest that the recipe allows, {most:+.4f}", most
        logger.warning(
            "%s: the shift of the %s engine's threshold was not measured: too few verification pictures of several "
            "people; every threshold is raised by the recipe's limit threshold_shift, %.4f. Give more pictures with a "
            "folder for each person",
            base.name, precision, most,
        )  # fmt: skip
    points = tuple(replace(point, similarity=min(1.0, point.similarity + up)) for point in table.points)
    origin = f"{table.origin}; taken over from {base.precision} for {precision}: {how}"
    return replace(base, thresholds=replace(table, origin=origin, points=points))
