"""Open-set identification: what a rate that was asked for becomes on people whom the table has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeface.engines import rates
from edgeface.errors import ConfigurationError, InputError
from edgeface.policy import comparison_rate, threshold_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from edgeface.manifest import Thresholds
    from edgeface.types import FloatArray, IntArray

#: Pairs of people who are taken for each other that must stand behind a rate before it is judged: on fewer, a factor
#: of two is chance.
LEAST_PAIRS = 10


@dataclass(frozen=True)
class OpenSet:
    """Identification at one threshold.

    Attributes:
        asked: the false positive identification rate that was asked for.
        threshold: the similarity that follows.
        fpir: share of searches for people not enrolled that named somebody.
        fpir_low, fpir_high: its 95 % limits, as other people would have given it.
        fnir: share of searches for enrolled people that did not name them, at rank 1.
        strangers, mates: number of searches behind these.
        people_pairs: pairs of people, the searched and the named, behind `fpir`.
        supported: whether these are enough to judge `fpir` by.
    """

    asked: float
    threshold: float
    fpir: float
    fpir_low: float
    fpir_high: float
    fnir: float
    strangers: int
    mates: int
    people_pairs: int
    supported: bool


@dataclass(frozen=True)
class Halves:
    """One asked rate over many splits of the people into those of the table and those that are searched.

    Attributes:
        asked: the false positive identification rate.
        judged: number of splits whose measured rate ten pairs of people or more stand behind; the others do not count.
        median, least, greatest: of the measured rate over the asked one.
        within_two: splits in which that is from a half to two. exceeded: in which the asked rate lies below the 95 %
            limits of the measured one.
        fnir: mean false negative identification rate.
    """

    asked: float
    judged: int
    median: float
    least: float
    greatest: float
    within_two: int
    exceeded: int
    fnir: float


@dataclass(frozen=True)
class _Searches:
    """All rounds' searches, one row each: person searched for, person nearest, similarity; and who was enrolled."""

    probes: IntArray
    nearest: IntArray
    scores: FloatArray
    known: npt.NDArray[np.bool_]
    enrolments: IntArray  # (P,) how often each person was enrolled


def open_set(
    embeddings: FloatArray,
    labels: IntArray,
    table: Thresholds,
    asked: Sequence[float],
    *,
    enrolled: int,
    templates: int = 1,
    rounds: int = 30,
    seed: int = 1,
) -> list[OpenSet]:
    """Enrol some photographs each of some people, and search for their other ones and for everybody else's.

    Who is enrolled is drawn anew in every round; the rates are over all rounds.

    Args:
        embeddings, labels: unit rows and their people.
        table: the thresholds' table; a rate that it does not support is left out.
        asked: false positive identification rates.
        enrolled: number of people in the gallery. templates: of each of them.

    Raises:
        InputError: fewer people with one photograph more than `templates` than `enrolled`.
    """
    people, codes = np.unique(labels, return_inverse=True)
    able = np.flatnonzero(np.bincount(codes) > templates)
    if len(able) < enrolled or len(people) <= enrolled:
        raise InputError(
            f"expected {enrolled} people with {templates + 1} photographs, and others, "
            f"got {len(able)} of {len(people)}; take more people (--people) or photographs of each (--photos)"
        )
    searches = _search(embeddings, codes, able, enrolled, templates, rounds, np.random.default_rng(seed))
    results = []
    for rate in asked:
        try:
            threshold = threshold_at(table, comparison_rate(rate, enrolled * templates), table.origin)
        except ConfigurationError:  # asking for it is an error, by design; here it is a row that is not there
            continue
        named = searches.scores >= threshold
        fpir = _fpir(searches, named)
        fnir = float((~(named & (searches.probes == searches.nearest)))[searches.known].mean())
        results.append(
            OpenSet(
                rate, threshold, fpir.rate, fpir.low, fpir.high, fnir, int((~searches.known).sum()),
                int(searches.known.sum()), fpir.people_pairs, fpir.people_pairs >= LEAST_PAIRS,
            )
        )  # fmt: skip
    return results


def over_halves(
    embeddings: FloatArray,
    labels: IntArray,
    asked: Sequence[float],
    *,
    enrolled: int,
    templates: int = 1,
    halves: int = 20,
    rounds: int = 15,
    seed: int = 1,
) -> list[Halves]:
    """`open_set` on `halves` random halves of the people, each with the table of the other half.

    Raises:
        InputError: as `open_set` and `measure_table`.
    """
    people, codes = np.unique(labels, return_inverse=True)
    random = np.random.default_rng(seed)
    rows: list[OpenSet] = []
    for number in range(halves):
        first = np.isin(codes, random.permutation(len(people))[::2])
        table = rates.measure_table(embeddings[first], codes[first], "one half")
        rows += open_set(
            embeddings[~first], codes[~first], table, asked,
            enrolled=enrolled, templates=templates, rounds=rounds, seed=seed + number,
        )  # fmt: skip
    results = []
    for rate in asked:
        judged = [row for row in rows if row.asked == rate and row.supported]
        if judged:
            ratios = np.array([row.fpir for row in judged]) / rate
            within = int(((ratios >= 0.5) & (ratios <= 2.0)).sum())
            exceeded = sum(row.fpir_low > rate for row in judged)
            median, least, greatest = (float(value) for value in np.quantile(ratios, (0.5, 0.0, 1.0)))
            fnir = float(np.mean([row.fnir for row in judged]))
            results.append(Halves(rate, len(judged), median, least, greatest, within, exceeded, fnir))
    return results


def _search(
    embeddings: FloatArray,
    codes: IntArray,
    able: IntArray,
    enrolled: int,
    templates: int,
    rounds: int,
    random: np.random.Generator,
) -> _Searches:
    rows_of = {int(one): np.flatnonzero(codes == one) for one in able}
    found: list[tuple[npt.NDArray[np.generic], ...]] = []
    enrolments = np.zeros(codes.max() + 1, np.int64)
    for _ in range(rounds):
        members = random.permutation(able)[:enrolled]
        rows = np.concatenate([random.permutation(rows_of[int(one)])[:templates] for one in members])
        enrolments[members] += 1
        probes = np.setdiff1d(np.arange(len(codes)), rows)
        similarities = embeddings[probes] @ embeddings[rows].T
        at = similarities.argmax(axis=1)
        best = similarities[np.arange(len(probes)), at]
        found.append((codes[probes], codes[rows][at], best, np.isin(codes[probes], members)))
    probe, nearest, scores, known = (np.concatenate(column) for column in zip(*found, strict=True))
    return _Searches(
        probe.astype(np.int64), nearest.astype(np.int64), scores.astype(np.float32), known.astype(bool), enrolments
    )


def _fpir(searches: _Searches, named: npt.NDArray[np.bool_]) -> rates.Limits:
    """The rate with its limits: a person counts as searched for and as named, and weighs in both."""
    people = len(searches.enrolments)
    wrong = named & ~searches.known
    count = int((~searches.known).sum())
    rate = float(wrong.sum() / max(count, 1))
    found = rates.dyads(searches.probes[wrong], searches.nearest[wrong], people)
    searched = np.bincount(searches.probes[~searches.known], minlength=people)
    enrolled = searches.enrolments / searches.enrolments.sum()
    influence = found.per_person(people) - rate * (searched + count * enrolled)
    pairs = (searched > 0).sum() * (searches.enrolments > 0).sum() / 2
    return rates.limits(rate, found, influence, count, float(pairs))
