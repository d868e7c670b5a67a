"""Error rates of presentation attack detection (ISO/IEC 30107-3) from scores, with their confidence limits."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from edgeface.pad import LivenessSpec

    BoolArray = npt.NDArray[np.bool_]

CONFIDENCE = 0.95
TARGETS = (0.05, 0.1)  # APCER at which ISO/IEC 30107-3 has BPCER reported: BPCER20 and BPCER10
ERRORS_PER_RATE = 10  # an APCER asked for needs so many expected errors behind it, of every kind of attack


@dataclass(frozen=True)
class Rate:
    """A share of presentations with its 95 % limits.

    Attributes:
        rate: errors of count; None where nothing was counted.
        low, high: Clopper-Pearson limits at the effective sample size; see `rate_of`.
        errors, count: of presentations.
        subjects: of whom they are.
    """

    rate: float | None
    low: float
    high: float
    errors: int
    count: int
    subjects: int


@dataclass(frozen=True)
class Presentations:
    """The pictures of one kind: bona fide, or one attack instrument species.

    Attributes:
        scores: (N,) float64, 0 to 1, high for live; NaN is a non-response: no face was found.
        subjects: (N,) int64: who, or which instrument, each picture is of.
    """

    scores: npt.NDArray[np.float64]
    subjects: npt.NDArray[np.int64]

    @property
    def answered(self) -> Presentations:
        """Those in which a face was found."""
        found = ~np.isnan(self.scores)
        return Presentations(self.scores[found], self.subjects[found])


def report(bona_fide: Presentations, attacks: Mapping[str, Presentations], spec: LivenessSpec) -> dict[str, Any]:
    """All rates at the model's thresholds, and BPCER at the stated APCERs.

    A picture is accepted when its score reaches `live_from`, as one look; ``unsure`` is not accepted: it is no error
    of an attack, and an error of a bona fide presentation. APCER and BPCER are of the pictures with a face, the
    others are the non-response rates APNRR and BPNRR.
    """
    genuine = bona_fide.answered
    kinds: dict[str, dict[str, Any]] = {}
    for kind, shown in attacks.items():
        found = shown.answered
        kinds[kind] = {
            "apcer": asdict(rate_of(found.scores >= spec.live_from, found.subjects)),
            "apnrr": asdict(rate_of(np.isnan(shown.scores), shown.subjects)),
            "unsure": _share(found, spec),
        }
    measured = {kind: row["apcer"]["rate"] for kind, row in kinds.items() if row["apcer"]["rate"] is not None}
    worst = max(measured, key=lambda kind: measured[kind]) if measured else None
    return {
        "bona_fide": {
            "bpcer": asdict(rate_of(genuine.scores < spec.live_from, genuine.subjects)),
            "bpnrr": asdict(rate_of(np.isnan(bona_fide.scores), bona_fide.subjects)),
            "unsure": _share(genuine, spec),
        },
        "attacks": kinds,
        "worst": None if worst is None else {"kind": worst, "apcer": kinds[worst]["apcer"]},
        "bpcer_at_apcer": [
            bpcer_at(target, genuine, {kind: shown.answered for kind, shown in attacks.items()}) for target in TARGETS
        ],
    }


def _share(shown: Presentations, spec: LivenessSpec) -> float | None:
    between = (shown.scores >= spec.spoof_below) & (shown.scores < spec.live_from)
    return float(between.mean()) if len(between) else None


def bpcer_at(target: float, genuine: Presentations, attacks: Mapping[str, Presentations]) -> dict[str, Any]:
    """BPCER at the lowest threshold at which no kind of attack exceeds an APCER.

    The threshold is chosen on the pictures that are counted, which flatters it. Where a kind has too few pictures
    with a face, ``bpcer`` is None and ``why`` says so.
    """
    needed = math.ceil(ERRORS_PER_RATE / target)
    few = [kind for kind, shown in attacks.items() if len(shown.scores) < needed]
    if few or not len(genuine.scores):
        why = f"{few[0]} has {len(attacks[few[0]].scores)} pictures with a face, {needed} are needed" if few else (
            "no bona fide picture with a face"
        )  # fmt: skip
        return {"apcer": target, "bpcer": None, "live_from": None, "why": why}
    lowest = 0.0
    for shown in attacks.values():
        falling = np.sort(shown.scores)[::-1]
        allowed = int(target * len(falling) + 1e-9)
        lowest = max(lowest, float(np.nextafter(falling[allowed], 2.0)))
    bpcer = rate_of(genuine.scores < lowest, genuine.subjects)
    return {"apcer": target, "bpcer": asdict(bpcer), "live_from": lowest, "why": None}


def rate_of(errors: BoolArray, subjects: npt.NDArray[np.int64]) -> Rate:
    """A rate with Clopper-Pearson limits, at the effective sample size where subjects have several pictures.

    Pictures of one subject are not independent: the size is divided by how much more the rate varies from subject to
    subject than it would from picture to picture. Without an error, or without anything else, nothing is known of
    that, and the subjects are the sample. Source: E. L. Korn and B. I. Graubard, "Confidence intervals for proportions
    with small expected number of positive counts estimated from survey data", 1998, without their degrees of freedom.
    """
    count, wrong = len(errors), int(errors.sum())
    people, codes = np.unique(subjects, return_inverse=True)
    if count == 0:
        return Rate(None, 0.0, 1.0, 0, 0, 0)
    rate = wrong / count
    size = float(count)
    if len(people) < count:
        if 0 < wrong < count and len(people) > 1:
            totals = np.bincount(codes, errors) - rate * np.bincount(codes)
            variance = len(people) / (len(people) - 1) * float((totals**2).sum()) / count**2
            size = min(count, rate * (1 - rate) / max(variance, 1e-12))
        else:
            size = float(len(people))
    low, high = binomial_limits(rate * size, size)
    return Rate(rate, low, high, wrong, count, len(people))


def binomial_limits(errors: float, size: float) -> tuple[float, float]:
    """The 95 % limits of C. J. Clopper and E. S. Pearson (1934); neither number need be whole."""
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if errors <= 0 else _beta_quantile(tail, errors, size - errors + 1)
    high = 1.0 if errors >= size else _beta_quantile(1 - tail, errors + 1, size - errors)
    return low, high


def _beta_quantile(share: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):  # to the last bit of a float64
        middle = (low + high) / 2
        if beta_share(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_share(x: float, a: float, b: float) -> float:
    """The share of a beta distribution below x: the regularised incomplete beta function, by its continued fraction.

    Source: NIST Digital Library of Mathematical Functions, 8.17.22.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # there it converges on the other side
        return 1 - beta_share(1 - x, b, a)
    fraction = 1.0
    for k in range(20 + 4 * math.isqrt(int(max(a, b)) + 1), 0, -1):  # it converges in about the root of these
        m = k // 2
        if k % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + term / fraction
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * fraction)
