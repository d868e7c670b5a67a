"""Error rates of a verification system from its similarities (ISO/IEC 19795-1), in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from edgeface.types import FloatArray, IntArray

RATES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
BLOCK_ROWS = 512


@dataclass(frozen=True)
class Operating:
    """True accept rate at a false accept rate.

    Attributes:
        far: the rate asked for.
        tar: share of genuine pairs accepted there.
        similarity: threshold: the lowest similarity accepted.
        supported: whether ten or more impostor pairs stand behind the rate; below that the figure is noise.
    """

    far: float
    tar: float
    similarity: float
    supported: bool


@dataclass(frozen=True)
class Scores:
    """Similarities of pairs: all genuine ones, and of the impostors those that any rate up to 1e-2 needs.

    Attributes:
        genuine: similarities of pairs of one person, rising.
        impostor_top: the highest similarities of pairs of two people, falling.
        impostors: number of pairs of two people.
        nearest_right: for each row that has a partner, whether its nearest other row is the same person.
    """

    genuine: FloatArray
    impostor_top: FloatArray
    impostors: int
    nearest_right: npt.NDArray[np.bool_]


def operating_point(genuine: FloatArray, impostor_top: FloatArray, impostors: int, far: float) -> Operating:
    """TAR at FAR: of `impostors` pairs at most ``far * impostors`` may be accepted."""
    allowed = int(far * impostors + 1e-9)
    if allowed >= len(impostor_top):
        raise ValueError(f"{len(impostor_top)} highest impostor similarities do not reach a rate of {far}")
    threshold = float(np.nextafter(np.float32(impostor_top[allowed]), np.float32(2)))
    accepted = len(genuine) - int(np.searchsorted(genuine, np.float32(threshold), side="left"))
    return Operating(far, accepted / max(len(genuine), 1), threshold, allowed >= 10)


def pair_points(
    similarities: FloatArray, same: npt.NDArray[np.bool_], rates: Sequence[float] = RATES
) -> list[Operating]:
    """Operating points over a list of pairs."""
    genuine = np.sort(similarities[same])
    impostor = np.sort(similarities[~same])[::-1]
    return [operating_point(genuine, impostor, len(impostor), far) for far in rates]


def all_pairs(embeddings: FloatArray, labels: IntArray, *, others: FloatArray | None = None) -> Scores:
    """Similarities of every pair of rows, block by block.

    Args:
        embeddings: (N, D) float32 unit rows; zeros where there is no face, at similarity -1 to everybody.
        labels: (N,) person of each row.
        others: (N, D) unit rows of the same photographs by another model or precision, to compare rows of
            `embeddings` (probes) with; None compares the rows with themselves.

    Returns:
        Scores over the pairs i < j; with `others` over the pairs i != j.
    """
    count = len(embeddings)
    gallery = embeddings if others is None else others
    order = np.argsort(labels, kind="stable")
    embeddings, gallery, labels = embeddings[order], gallery[order], labels[order]
    sizes = np.unique(labels, return_counts=True)[1].astype(np.int64)
    genuine_pairs = int((sizes * (sizes - 1)).sum()) // (2 if others is None else 1)
    impostors = count * (count - 1) // (2 if others is None else 1) - genuine_pairs
    keep = int(RATES[0] * impostors) + 2
    genuine: list[FloatArray] = []
    top = np.empty(0, np.float32)
    right = np.zeros(count, bool)
    columns = np.arange(count)
    blank, blank_column = (embeddings == 0).all(axis=1), (gallery == 0).all(axis=1)
    for start in range(0, count, BLOCK_ROWS):
        rows = columns[start : start + BLOCK_ROWS]
        block = embeddings[rows] @ gallery.T
        # A failure to acquire matches nobody (ISO/IEC 19795-1); zeros would be nearer than an opposite face.
        block[blank[rows]], block[:, blank_column] = -1.0, -1.0
        block[np.arange(len(rows)), rows] = -2.0  # never a pair with itself
        right[rows] = (labels[block.argmax(axis=1)] == labels[rows]) & ~blank[rows]
        wanted = rows[:, None] < columns if others is None else rows[:, None] != columns
        same = labels[rows][:, None] == labels
        genuine.append(block[same & wanted])
        impostor = block[~same & wanted]
        if len(top) >= keep:
            impostor = impostor[impostor > top[-1]]
        top = np.concatenate([top, impostor])
        if len(top) > keep:
            top = np.partition(top, len(top) - keep)[-keep:]
        top = np.sort(top)[::-1]
    partners = np.isin(labels, np.unique(labels)[sizes > 1])
    return Scores(np.sort(np.concatenate(genuine)), top, impostors, right[partners])


def all_pairs_points(scores: Scores, rates: Sequence[float] = RATES) -> list[Operating]:
    """Operating points over all pairs."""
    return [operating_point(scores.genuine, scores.impostor_top, scores.impostors, far) for far in rates]


def fold_accuracies(similarities: FloatArray, same: npt.NDArray[np.bool_], folds: IntArray) -> FloatArray:
    """Accuracy of each fold at the threshold that is best on the other folds (LFW's protocol, view 2).

    With a single fold there are no others, and the threshold is chosen on itself.
    """
    accuracies = []
    for fold in np.unique(folds):
        held = folds == fold
        train = ~held if (~held).any() else held
        threshold = _best_threshold(similarities[train], same[train])
        accuracies.append(float(((similarities[held] >= threshold) == same[held]).mean()))
    return np.array(accuracies, np.float32)


def _best_threshold(similarities: FloatArray, same: npt.NDArray[np.bool_]) -> float:
    """The threshold of highest accuracy: the middle of the widest gap among equals."""
    order = np.argsort(similarities, kind="stable")
    values, genuine = similarities[order].astype(np.float64), same[order]
    # Threshold before position i: everything from i on is accepted.
    right = np.concatenate([[0], np.cumsum(~genuine)]) + np.concatenate([np.cumsum(genuine[::-1])[::-1], [0]])
    edges = np.concatenate([[-1.0], values, [1.0]])
    widths = np.diff(edges)
    best = right == right.max()
    at = int(np.flatnonzero(best)[np.argmax(widths[best])])
    return float((edges[at] + edges[at + 1]) / 2)
