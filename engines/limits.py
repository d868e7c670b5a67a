"""What a recipe allows quantisation to cost, and the gate that holds an engine to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeface.engines.verify import EmbedderReport, Loss
    from edgeface.engines.verify_detector import DetectorReport
    from edgeface.manifest import Kind
    from edgeface.tables import Reader

#: A loss of TAR fails when it exceeds its limit by more than this many standard errors of the measurement: on 1,500
#: pictures the loss of an engine that lost nothing scatters by a thousandth.
SURE = 2.0


@dataclass(frozen=True)
class EmbedderLimits:
    """Least cosines to float32, largest losses of TAR and shift of the threshold, least share of work in INT8."""

    cosine_mean: float = 0.995
    cosine_p1: float = 0.985
    tar_loss_1e4: float = 0.005
    tar_loss_1e5: float = 0.01
    cross_tar_loss_1e4: float = 0.005
    threshold_shift: float = 0.01
    int8_share: float = 0.9


@dataclass(frozen=True)
class DetectorLimits:
    """Least recall of float32's faces; `points_share` of them keep their points within `points_error` of the width."""

    recall: float = 0.99
    points_share: float = 0.98
    points_error: float = 0.01
    int8_share: float = 0.8


Limits = EmbedderLimits | DetectorLimits


@dataclass(frozen=True)
class Finding:
    """One limit held against its figure.

    Attributes:
        name: of the limit. value: measured. limit: allowed.
        passed: whether it holds, or fails by no more than the measurement's own error.
        note: what to know about it, such as that error.
        above: it passed by that error alone: the measured value lies beyond the limit. A warning.
    """

    name: str
    value: float
    limit: float
    passed: bool
    note: str = ""
    above: bool = False


def parse_limits(read: Reader | None, kind: Kind) -> Limits:
    """The limits of a recipe, defaults where it names none. Raises RecipeError."""
    made = EmbedderLimits() if kind == "embedder" else DetectorLimits()
    if read is None:
        return made
    names = {item.name for item in fields(made)}
    read.only(names)
    given = {name: read.number(name, 0.0, 1.0) for name in names if name in read.document}
    return type(made)(**{**asdict(made), **given})


def judge_embedder(report: EmbedderReport, share: float, limits: EmbedderLimits, *, quantised: bool) -> list[Finding]:
    """Every limit that can be held against the figures."""
    found = [
        _least("cosine_mean", report.cosine_mean, limits.cosine_mean),
        _least("cosine_p1", report.cosine_p1, limits.cosine_p1),
    ]
    if quantised:
        found.append(_least("int8_share", share, limits.int8_share))
    for prefix, losses in (("", report.losses), ("template_", report.template_losses)):
        by_rate = {loss.far: loss for loss in losses if loss.supported}
        if 1e-4 in by_rate:
            at = by_rate[1e-4]
            found.append(_loss(f"{prefix}tar_loss_1e4", at.loss, limits.tar_loss_1e4, at.error, at))
            found.append(
                _loss(f"{prefix}cross_tar_loss_1e4", at.cross_loss, limits.cross_tar_loss_1e4, at.cross_error, at)
            )
            shift = abs(at.shift)
            passed = shift <= limits.threshold_shift
            found.append(Finding(f"{prefix}threshold_shift", shift, limits.threshold_shift, passed, "at FAR 1e-4"))
        if 1e-5 in by_rate:
            at = by_rate[1e-5]
            found.append(_loss(f"{prefix}tar_loss_1e5", at.loss, limits.tar_loss_1e5, at.error, at))
    return found


def judge_detector(report: DetectorReport, share: float, limits: DetectorLimits, *, quantised: bool) -> list[Finding]:
    """Every limit that can be held against the figures."""
    found = [
        _least("recall", report.recall, limits.recall),
        _least("points_share", report.points_share(limits.points_error), limits.points_share),
    ]
    if quantised:
        found.append(_least("int8_share", share, limits.int8_share))
    return found


def _least(name: str, value: float, limit: float) -> Finding:
    return Finding(name, value, limit, value >= limit, "at least")


def _loss(name: str, value: float, limit: float, error: float, at: Loss) -> Finding:
    note = f"at most, at FAR {at.far:.0e}; standard error of the measurement {error:.4f}"
    passed = value <= limit + SURE * error
    return Finding(name, value, limit, passed, note, above=passed and value > limit)


def verdict(finding: Mapping[str, Any]) -> str:
    """What people are told of a finding, as a report's document keeps it."""
    if finding.get("above"):
        return "above the limit, within the measurement's error"
    return "holds" if finding["passed"] else "FAILS"
