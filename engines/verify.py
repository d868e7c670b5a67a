"""What quantisation did to an embedder, measured on people that it was not calibrated on.

Every figure compares two engines on the same pictures: the float32 reference and the one that would be written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.engines import metrics
from edgeface.errors import BuildError
from edgeface.kernels import TEMPLATE_SCALE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeface.types import FloatArray, IntArray

RATES = (1e-3, 1e-4, 1e-5)
#: Groups of people that are left out in turn to say how sure a loss is (delete-a-group jackknife).
GROUPS = 16


@dataclass(frozen=True)
class Loss:
    """What one false accept rate costs: TAR of the reference less TAR of the engine, each at its own threshold.

    Attributes:
        far: the rate. reference_tar, tar: at it.
        loss: of TAR. cross_loss: with reference templates in the gallery and the engine's probes.
        shift: of the threshold.
        error: standard error of `loss`, from leaving out groups of people. cross_error: of `cross_loss`.
        supported: whether ten impostor pairs or more stand behind the rate.
    """

    far: float
    reference_tar: float
    tar: float
    loss: float
    cross_loss: float
    shift: float
    error: float
    cross_error: float
    supported: bool


@dataclass
class EmbedderReport:
    """Figures of one embedder against its reference.

    Attributes:
        pictures, people: that were measured.
        cosine_mean, cosine_p1, cosine_min: of each embedding with its reference.
        worst: number of the picture with the lowest cosine.
        genuine_pairs, impostor_pairs: of all pictures with each other; 0 without people of several pictures.
        losses: at 1e-3, 1e-4 and 1e-5; empty without genuine pairs.
        template_losses: the same with the gallery's 128-byte templates on the engine's side.
        histograms, det: for the plots.
    """

    pictures: int
    people: int
    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    worst: int
    genuine_pairs: int = 0
    impostor_pairs: int = 0
    losses: list[Loss] = field(default_factory=list)
    template_losses: list[Loss] = field(default_factory=list)
    histograms: dict[str, Any] = field(default_factory=dict)
    det: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def unit(raw: FloatArray, what: str) -> FloatArray:
    """Rows of length 1; BuildError where an embedding is NaN, infinite or zero."""
    norms = np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
    bad = ~np.isfinite(raw).all(axis=1) | (norms[:, 0] < 1e-12)
    if bad.any():
        raise BuildError(
            f"{what}: {int(bad.sum())} of {len(raw)} embeddings are NaN, infinite or zero; not an embedder, or its "
            "preprocessing in the recipe is wrong"
        )
    return np.asarray(raw / norms, np.float32)


def as_templates(embeddings: FloatArray) -> FloatArray:
    """The embeddings as the gallery's int8 templates give them back, with length 1 again."""
    steps = np.clip(np.rint(embeddings / np.float32(TEMPLATE_SCALE)), -127, 127)
    return np.asarray(steps / np.linalg.norm(steps, axis=1, keepdims=True), np.float32)


def compare_embedders(reference: FloatArray, engine: FloatArray, people: Sequence[str]) -> EmbedderReport:
    """Figures of an engine's embeddings against the reference's.

    Args:
        reference, engine: (N, D) float32 unit rows of the same pictures.
        people: who each picture shows.
    """
    cosines = np.einsum("nd,nd->n", reference.astype(np.float64), engine.astype(np.float64))
    names = {name: number for number, name in enumerate(sorted(set(people)))}
    labels = np.array([names[name] for name in people], np.int64)
    report = EmbedderReport(
        pictures=len(engine),
        people=len(names),
        cosine_mean=float(cosines.mean()),
        cosine_p1=float(np.percentile(cosines, 1)),
        cosine_min=float(cosines.min()),
        worst=int(cosines.argmin()),
    )
    before = metrics.all_pairs(reference, labels)
    report.genuine_pairs, report.impostor_pairs = len(before.genuine), before.impostors
    if not report.genuine_pairs or before.impostors < 1000:
        return report
    after = metrics.all_pairs(engine, labels)
    packed = as_templates(engine)
    report.losses = _losses(reference, engine, labels, before, after)
    report.template_losses = _losses(reference, packed, labels, before, metrics.all_pairs(packed, labels))
    report.histograms = {
        "cosine to float32": _histogram(cosines, float(cosines.min()), 1.0),
        "genuine, float32": _histogram(before.genuine, -0.2, 1.0),
        "genuine, engine": _histogram(after.genuine, -0.2, 1.0),
        "impostors (top 1 %), float32": _histogram(before.impostor_top, -0.2, 1.0),
        "impostors (top 1 %), engine": _histogram(after.impostor_top, -0.2, 1.0),
    }
    report.det = {"float32": _det(before), "engine": _det(after)}
    return report


def _losses(
    reference: FloatArray, engine: FloatArray, labels: IntArray, before: metrics.Scores, after: metrics.Scores
) -> list[Loss]:
    cross = metrics.all_pairs(engine, labels, others=reference)
    both = [_points(before), _points(after), _points(cross)]
    errors = _errors(reference, engine, labels)
    return [
        Loss(
            far=far,
            reference_tar=old.tar,
            tar=new.tar,
            loss=old.tar - new.tar,
            cross_loss=old.tar - mixed.tar,
            shift=new.similarity - old.similarity,
            error=errors[number][0],
            cross_error=errors[number][1],
            supported=old.supported,
        )
        for number, (far, old, new, mixed) in enumerate(zip(RATES, *both, strict=True))
    ]


def _points(scores: metrics.Scores) -> list[metrics.Operating]:
    return metrics.all_pairs_points(scores, RATES)


def _errors(reference: FloatArray, engine: FloatArray, labels: IntArray) -> list[tuple[float, float]]:
    """Standard errors of the losses by a delete-a-group jackknife over people (Kott 2001)."""
    losses = []
    for group in range(GROUPS):
        keep = labels % GROUPS != group
        part = labels[keep]
        scores = [
            metrics.all_pairs(reference[keep], part),
            metrics.all_pairs(engine[keep], part),
            metrics.all_pairs(engine[keep], part, others=reference[keep]),
        ]
        if not len(scores[0].genuine):
            continue
        old, new, mixed = (np.array([point.tar for point in _points(item)]) for item in scores)
        losses.append(np.stack([old - new, old - mixed]))
    if len(losses) < 2:
        return [(0.0, 0.0)] * len(RATES)
    spread = np.stack(losses)
    variance = (len(losses) - 1) / len(losses) * ((spread - spread.mean(axis=0)) ** 2).sum(axis=0)
    return [(float(a), float(b)) for a, b in np.sqrt(variance).T]


def _histogram(values: FloatArray, low: float, high: float) -> dict[str, Any]:
    counts, edges = np.histogram(values, bins=60, range=(low, max(high, low + 1e-6)))
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}


def _det(scores: metrics.Scores) -> list[tuple[float, float]]:
    """False accept rate against false reject rate at some thresholds, for rates that ten pairs or more support."""
    rates = np.logspace(-2, np.log10(max(10 / scores.impostors, 1e-7)), 25)
    return [(float(p.far), 1.0 - p.tar) for p in metrics.all_pairs_points(scores, [float(r) for r in rates])]
