"""From similarities to decisions: thresholds are stated as error rates, never as bare numbers."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from edgeface.errors import ConfigurationError, InputError
from edgeface.manifest import OperatingPoint
from edgeface.numbers import real, whole
from edgeface.types import Decision

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.manifest import Manifest, Thresholds
    from edgeface.types import Matches

logger = logging.getLogger(__name__)

DEFAULT_FMR = 1e-4  # one false match in 10,000 comparisons of two different people
PAIRS_PER_RATE = 10  # a rate needs at least this many expected false matches behind it


@dataclass(frozen=True)
class Policy:
    """When a similarity is a match.

    Attributes:
        threshold: similarity from which on a comparison is a match.
        margin: the best two people must be at least this far apart; nearer is ``ambiguous``.
        fmr: false match rate of one comparison that `threshold` does not exceed; None where the caller gave the
            threshold.
        fpir: false positive identification rate that is kept at the number of templates enrolled: the asked one, or a
            higher one where more were enrolled while it ran than the table supports (`LivePolicy`); or None.
        origin: where the rate was measured, or that the caller chose the threshold.
        measured: what the table says of `threshold`: the rate that is expected there and its 95 % limits, of which the
            upper one is `fmr`; None where the caller gave the threshold.
    """

    threshold: float
    margin: float
    fmr: float | None
    origin: str
    fpir: float | None = None
    measured: OperatingPoint | None = None

    def decide(self, matches: Matches) -> Decision:
        """``match``, ``unknown`` or ``ambiguous`` for the nearest people of one probe."""
        if len(matches) == 0 or float(matches.similarities[0]) < self.threshold:
            return Decision.UNKNOWN
        return Decision.AMBIGUOUS if matches.margin < self.margin else Decision.MATCH


def make_policy(
    manifest: Manifest,
    *,
    fmr: float | None = None,
    fpir: float | None = None,
    enrolled: int = 1,
    threshold: float | None = None,
    margin: float | None = None,
) -> Policy:
    """The policy for an embedder: from a stated false match rate, or from the caller's own threshold.

    A rate that was asked for shall not be exceeded: where the table has confidence limits, the threshold is the one
    whose upper limit is the asked rate, and the rate to be expected is lower (`Policy.measured`).

    The default margin is the similarity that lies between the asked rate and one ten times as high, in the embedder's
    measured table: evidence for the best person that is less than ten times as strong as for the next is ambiguous.

    Args:
        manifest: of the embedder, with its measured operating points.
        fmr: false match rate of one comparison (ISO/IEC 19795-1); 1e-4 unless told. A search among N
            templates makes N comparisons, so its false positive identification rate is up to N times as high.
        fpir: false positive identification rate instead (ISO/IEC 19795-1): the share of searches for people who are
            not enrolled that name somebody; see `comparison_rate`.
        enrolled: number of templates in the gallery, for `fpir`: each is one more comparison that may go wrong; an
            empty gallery counts as one.
        threshold: a similarity instead of a rate.
        margin: a similarity instead of the default margin.

    Raises:
        InputError: an option is out of range, or more than one of `fmr`, `fpir` and `threshold` is given.
        ConfigurationError: the embedder has no measured table, or the table does not support that rate.
    """
    if sum(given is not None for given in (fmr, fpir, threshold)) > 1:
        raise InputError("fmr, fpir, threshold: expected one of them, got several")
    if margin is not None:
        margin = real(margin, "margin", "a difference of similarities from 0 to 2", least=0.0, most=2.0)
    if threshold is not None:
        threshold = real(threshold, "threshold", "a similarity from -1 to 1", least=-1.0, most=1.0)
        table = manifest.thresholds
        return Policy(threshold, _margin(table, threshold) if margin is None else margin, None, "chosen by the caller")
    if fpir is not None:
        fpir = real(fpir, "fpir", "a rate between 0 and 1", above=0.0, below=1.0)
        fmr = comparison_rate(fpir, whole(enrolled, "enrolled", 0))
        if manifest.thresholds is not None:  # few templates: the table's highest rate is stricter than what was asked
            fmr = min(fmr, manifest.thresholds.points[0].sure_fmr)
    fmr = DEFAULT_FMR if fmr is None else real(fmr, "fmr", "a rate between 0 and 1", above=0.0, below=1.0)
    if manifest.thresholds is None:
        raise ConfigurationError(
            f"{manifest.name}: no measured operating points, so no threshold follows from a rate; measure them with "
            "`edgeface eval pairs`, put them under [thresholds] in the recipe, or give threshold="
        )
    why = "" if fpir is None else f" (for a false positive identification rate of {fpir:g} among {enrolled} templates)"
    similarity = threshold_at(manifest.thresholds, fmr, manifest.name, why=why)
    return Policy(
        similarity,
        _margin(manifest.thresholds, similarity) if margin is None else margin,
        fmr,
        manifest.thresholds.origin,
        fpir,
        point_at(manifest.thresholds, similarity),
    )


class LivePolicy:
    """The policy that holds now: it follows the table of the embedder that runs and, where a false positive
    identification rate was asked for, the number of templates enrolled.

    Args:
        policy: the first one. Its rate, or its threshold without a rate, is what was asked for; so is its margin where
            that is not the table's own.
        manifest: of the embedder that `policy` was made for.
    """

    def __init__(self, policy: Policy, manifest: Manifest) -> None:
        table = manifest.thresholds
        self._asked = policy
        self._margin = None if policy.margin == _margin(table, policy.threshold) else policy.margin
        self._now = (table, -1, policy)

    def make(self, manifest: Manifest, enrolled: int) -> Policy:
        """What was asked for, with that embedder and so many templates. Raises ConfigurationError, as `make_policy`."""
        asked, margin = self._asked, self._margin
        if asked.fmr is None:
            own = _margin(manifest.thresholds, asked.threshold)
            return replace(asked, margin=own if margin is None else margin)
        if asked.fpir is None:
            return make_policy(manifest, fmr=asked.fmr, margin=margin)
        return make_policy(manifest, fpir=asked.fpir, enrolled=enrolled, margin=margin)

    def now(self, manifest: Manifest, count: Callable[[], int]) -> Policy:
        """The policy with the embedder that runs and `count()` templates, which is called only where it matters.

        Another process may enrol more than the table supports. What runs must run on then: at the strictest threshold
        that was measured, with an error in the log.

        Raises:
            ConfigurationError: a rate was asked for, and the embedder has no table.
        """
        table, made_for, policy = self._now
        enrolled = -1 if self._asked.fpir is None else count()
        if enrolled != made_for or manifest.thresholds != table:
            policy = self._nearest(manifest, enrolled)
            self._now = (manifest.thresholds, enrolled, policy)  # one assignment: no thread sees a part of it
        return policy

    def _nearest(self, manifest: Manifest, enrolled: int) -> Policy:
        try:
            return self.make(manifest, enrolled)
        except ConfigurationError as error:
            fmr = self._asked.fmr
            if fmr is None or manifest.thresholds is None:
                raise
            if self._asked.fpir is not None:
                fmr = comparison_rate(self._asked.fpir, enrolled)
            lowest, highest = supported_rates(manifest.thresholds)
            policy = make_policy(manifest, fmr=min(max(fmr, lowest), highest), margin=self._margin)
            assert policy.fmr is not None
            if self._asked.fpir is not None:
                policy = replace(policy, fpir=min(1.0, policy.fmr * max(enrolled, 1)))
            kept = "" if policy.fpir is None else f", a false positive identification rate of {policy.fpir:g}"
            logger.error(
                "%s. Recognition goes on at the nearest threshold that was measured, %.4f: a false match rate of %g%s",
                error, policy.threshold, policy.fmr, kept,
            )  # fmt: skip
            return policy


def supported_rates(table: Thresholds) -> tuple[float, float]:
    """The lowest and the highest false match rate for which a table has a threshold."""
    points = table.points
    return max(points[-1].sure_fmr, PAIRS_PER_RATE / table.impostor_pairs), points[0].sure_fmr


def comparison_rate(fpir: float, enrolled: int) -> float:
    """The false match rate at which a search among `enrolled` templates goes wrong at the rate `fpir` at most.

    A search that names somebody has at least one false match among its comparisons, so the share of such searches is
    at most `enrolled` times the rate of one comparison, however much the comparisons of one face depend on each other
    (the union bound). Only if they were independent would it be 1 - (1 - fmr) ** enrolled, which is hardly less.
    """
    return fpir / max(enrolled, 1)


def threshold_at(table: Thresholds, fmr: float, name: str, *, why: str = "") -> float:
    """The similarity that keeps a rate: linear in log10 of the upper limit (without limits: of the rate) between
    measured points; never an extrapolation.
    """
    points = table.points
    lowest, highest = supported_rates(table)
    # A rate that was computed, such as 10 ** -3, may miss the table's end by a rounding error.
    if not lowest * (1 - 1e-9) <= fmr <= highest * (1 + 1e-9):
        limits = "" if points[0].fmr_high is None else ", upper 95 % limits"
        mend = "; ask for a higher fpir, enrol fewer templates, or measure a table of more photographs" if why else ""
        raise ConfigurationError(
            f"{name}: a false match rate of {fmr:g}{why} is not supported: it was measured from {lowest:g} to "
            f"{highest:g}{limits} ({table.impostor_pairs} impostor pairs of {table.origin}){mend}"
        )
    return _interpolate([(-math.log10(p.sure_fmr), p.similarity) for p in points], -math.log10(fmr))


def point_at(table: Thresholds, similarity: float) -> OperatingPoint:
    """What a table says of a similarity between its ends: rates linear in their logarithm between measured points."""

    def rate(of: list[float]) -> float:
        along = [(p.similarity, math.log10(max(value, 1e-15))) for p, value in zip(table.points, of, strict=True)]
        return float(10 ** _interpolate(along, similarity))

    fmr = rate([p.fmr for p in table.points])
    tar = _interpolate([(p.similarity, p.tar) for p in table.points], similarity)
    if table.points[0].fmr_high is None:
        return OperatingPoint(fmr, similarity, tar)
    low, high = (rate([getattr(p, key) for p in table.points]) for key in ("fmr_low", "fmr_high"))
    return OperatingPoint(fmr, similarity, tar, low, high)


def _margin(table: Thresholds | None, similarity: float) -> float:
    """Similarity worth a factor of ten in the false match rate, around a threshold; 0 without a table."""
    if table is None or len(table.points) < 2:
        return 0.0
    points = table.points
    pairs = list(pairwise(points))
    # The measured step that ends at the threshold or next above it; beyond the table, its last one.
    low, high = next((pair for pair in pairs if similarity <= pair[1].similarity + 1e-9), pairs[-1])
    return (high.similarity - low.similarity) / (math.log10(low.fmr) - math.log10(high.fmr))


def _interpolate(points: list[tuple[float, float]], x: float) -> float:
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * max(0.0, x - x0) / (x1 - x0)
    return points[-1][1]
