"""Open-set identification: what a rate that was asked for becomes on people whom the table has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeface.engines.metrics import all_pairs, operating_point
from edgeface.errors import ConfigurationError, InputError
from edgeface.manifest import OperatingPoint, Thresholds
from edgeface.policy import PAIRS_PER_RATE, comparison_rate, threshold_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from edgeface.types import FloatArray, IntArray

TABLE_RATES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)
RESAMPLES = 200


@dataclass(frozen=True)
class Limits:
    """A measured rate with the 95 % limits that resampling whole people gives: pairs of one person are not independent.

    Source: ISO/IEC 19795-1, annex on the bootstrap; R. M. Bolle et al., "Error analysis of pattern recognition
    systems - the subsets bootstrap", 2004.
    """

    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class OpenSet:
    """Identification at one threshold.

    Attributes:
        asked: the false positive identification rate that was asked for.
        threshold: the similarity that follows.
        fpir: share of searches for people not enrolled that named somebody.
        fnir: share of searches for enrolled people that did not name them, at rank 1.
        strangers, mates: number of searches behind these.
    """

    asked: float
    threshold: float
    fpir: float
    fnir: float
    strangers: int
    mates: int


def measure_table(embeddings: FloatArray, labels: IntArray, origin: str) -> Thresholds:
    """The operating points of all pairs of some photographs, down to the rate that ten impostor pairs support.

    Raises:
        InputError: fewer than a thousand impostor pairs.
    """
    scores = all_pairs(embeddings, labels)
    supported = [rate for rate in TABLE_RATES if rate * scores.impostors >= PAIRS_PER_RATE]
    if len(supported) < 2:
        raise InputError(f"{origin}: {scores.impostors} impostor pairs are too few for a table of thresholds")
    found = [operating_point(scores.genuine, scores.impostor_top, scores.impostors, rate) for rate in supported]
    points = [OperatingPoint(point.far, point.similarity, point.tar) for point in found]
    rising = [a for a, b in zip(points, [*points[1:], None], strict=True) if b is None or b.similarity > a.similarity]
    return Thresholds(origin, scores.impostors, tuple(rising))


def rate_limits(embeddings: FloatArray, labels: IntArray, threshold: float, *, seed: int = 1) -> Limits:
    """The false match rate at a threshold over all pairs, with its limits."""
    people, codes = np.unique(labels, return_inverse=True)
    above = np.triu(embeddings @ embeddings.T >= threshold, 1) & (codes[:, None] != codes[None, :])
    first, second = (codes[axis] for axis in np.nonzero(above))
    sizes = np.bincount(codes).astype(np.float64)
    random = np.random.default_rng(seed)

    def rate(weights: npt.NDArray[np.float64]) -> float:
        counts = weights * sizes
        pairs = (counts.sum() ** 2 - (counts**2).sum()) / 2
        return float((weights[first] * weights[second]).sum() / max(pairs, 1))

    rates = []
    for _ in range(RESAMPLES):
        drawn = np.bincount(random.integers(len(people), size=len(people)), minlength=len(people))
        rates.append(rate(drawn.astype(np.float64)))
    low, high = np.percentile(rates, (2.5, 97.5))
    return Limits(rate(np.ones(len(people))), float(low), float(high))


def open_set(
    embeddings: FloatArray,
    labels: IntArray,
    table: Thresholds,
    asked: Sequence[float],
    *,
    enrolled: int,
    rounds: int = 30,
    seed: int = 1,
) -> list[OpenSet]:
    """Enrol one photograph each of some people, and search for their other ones and for everybody else's.

    Who is enrolled is drawn anew in every round; the rates are over all rounds.

    Args:
        embeddings, labels: unit rows and their people.
        table: the thresholds' table; a rate that it does not support is left out.
        asked: false positive identification rates.
        enrolled: number of people in the gallery.

    Raises:
        InputError: fewer people with two photographs than `enrolled`.
    """
    people, counts = np.unique(labels, return_counts=True)
    able = people[counts >= 2]
    if len(able) < enrolled or len(people) <= enrolled:
        raise InputError(
            f"expected {enrolled} people with two photographs, and others, got {len(able)} of {len(people)}"
        )
    random = np.random.default_rng(seed)
    best: list[FloatArray] = []
    right: list[npt.NDArray[np.bool_]] = []
    known: list[npt.NDArray[np.bool_]] = []
    for _ in range(rounds):
        members = random.permutation(able)[:enrolled]
        rows = np.array([random.permutation(np.flatnonzero(labels == one))[0] for one in members])
        probes = np.setdiff1d(np.arange(len(labels)), rows)
        similarities = embeddings[probes] @ embeddings[rows].T
        nearest = similarities.argmax(axis=1)
        best.append(similarities[np.arange(len(probes)), nearest])
        right.append(labels[rows][nearest] == labels[probes])
        known.append(np.isin(labels[probes], members))
    scores, correct, mate = np.concatenate(best), np.concatenate(right), np.concatenate(known)
    results = []
    for rate in asked:
        try:
            threshold = threshold_at(table, comparison_rate(rate, enrolled), table.origin)
        except ConfigurationError:  # asking for it is an error, by design; here it is a row that is not there
            continue
        named = scores >= threshold
        fpir = float(named[~mate].mean())
        fnir = float((~(named & correct))[mate].mean())
        results.append(OpenSet(rate, threshold, fpir, fnir, int((~mate).sum()), int(mate.sum())))
    return results
