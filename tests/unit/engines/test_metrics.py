"""Error rates against the plainest implementation that there is: loops over every pair."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.engines import metrics

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]


def people(seed: int, count: int, persons: int, dimension: int = 6) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Unit rows of several people, alike within a person; labels in no order."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, persons, count)
    rows = random.standard_normal((persons, dimension))[labels] + 0.7 * random.standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def every_pair(
    rows: Floats, labels: npt.NDArray[np.int64], others: Floats | None = None
) -> tuple[list[float], list[float]]:
    genuine: list[float] = []
    impostor: list[float] = []
    second = rows if others is None else others
    for i in range(len(rows)):
        for j in range(len(rows)):
            if i < j or (others is not None and i != j):
                (genuine if labels[i] == labels[j] else impostor).append(float(rows[i] @ second[j]))
    return sorted(genuine), sorted(impostor, reverse=True)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(3, 60), st.integers(2, 8), st.integers(1, 70), st.booleans())
def test_all_pairs_are_all_pairs(seed: int, count: int, persons: int, block: int, cross: bool) -> None:
    rows, labels = people(seed, count, persons)
    others = people(seed + 1, count, persons)[0] if cross else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BLOCK_ROWS", block)
        scores = metrics.all_pairs(rows, labels, others=others)
    genuine, impostor = every_pair(rows, labels, others)
    assert scores.impostors == len(impostor)
    assert np.allclose(scores.genuine, genuine, atol=1e-6)
    keep = int(1e-2 * len(impostor)) + 2
    assert np.allclose(scores.impostor_top[:keep], impostor[:keep], atol=1e-6)
    assert np.all(np.diff(scores.impostor_top) <= 0)


@given(st.integers(0, 10_000))
def test_rank_one_is_the_nearest_other_photograph(seed: int) -> None:
    rows, labels = people(seed, 40, 15)
    right = []
    for i in range(len(rows)):
        if (labels == labels[i]).sum() < 2:
            continue
        nearest = max((j for j in range(len(rows)) if j != i), key=lambda j: float(rows[i] @ rows[j]))
        right.append(labels[nearest] == labels[i])
    assert metrics.all_pairs(rows, labels).nearest_right.mean() == pytest.approx(np.mean(right))


def test_a_photograph_without_a_face_is_nobodys_neighbour() -> None:
    # Opposite to each other, every row is nearer to a row of zeros than to any other.
    rows = np.array([[0, 0], [1, 0], [-0.8, 0.6], [-0.8, -0.6]], np.float32)
    labels = np.array([0, 0, 1, 1])
    scores = metrics.all_pairs(rows, labels)
    assert scores.nearest_right.tolist() == [False, False, True, True]
    assert scores.genuine.tolist() == pytest.approx([-1, 0.28])


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=60), st.lists(st.integers(-50, 50), min_size=1, max_size=60),
       st.sampled_from([0.5, 0.1, 0.05, 0.01, 1e-3]))  # fmt: skip
def test_an_operating_point_keeps_its_rate_and_is_the_lowest_that_does(
    genuine: list[int], impostor: list[int], far: float
) -> None:
    """With ties among the similarities, too."""
    mates: Floats = np.sort(np.array(genuine, np.float32) / np.float32(50))
    others: Floats = np.sort(np.array(impostor, np.float32) / np.float32(50))[::-1]
    point = metrics.operating_point(mates, others, len(others), far)
    allowed = far * len(others)
    assert (others >= np.float32(point.similarity)).sum() <= allowed + 1e-9
    assert point.tar == pytest.approx((mates >= np.float32(point.similarity)).mean())
    lower = np.unique(others[others < np.float32(point.similarity)])
    assert (others >= lower[-1]).sum() > allowed + 1e-9  # the next lower threshold accepts too many
    assert point.supported == (int(allowed + 1e-9) >= 10)


def test_a_rate_beyond_what_was_kept_is_refused() -> None:
    with pytest.raises(ValueError, match=r"do not reach a rate of 0\.5"):
        metrics.operating_point(np.zeros(3, np.float32), np.zeros(3, np.float32), 100, 0.5)


def test_points_over_pairs_and_over_all_pairs_agree() -> None:
    rows, labels = people(1, 150, 20)
    i, j = np.triu_indices(len(rows), 1)
    listed = metrics.pair_points(np.einsum("nd,nd->n", rows[i], rows[j]), labels[i] == labels[j])
    for one, other in zip(listed, metrics.all_pairs_points(metrics.all_pairs(rows, labels)), strict=True):
        assert one.far == other.far
        assert one.tar == pytest.approx(other.tar, abs=2e-3)
        assert one.similarity == pytest.approx(other.similarity, abs=1e-5)
        assert one.supported == other.supported


def naive_accuracy(similarities: Any, same: Any, folds: Any) -> list[float]:
    """LFW's protocol word by word: try a threshold in every gap, keep the best, the widest gap among equals."""
    accuracies = []
    for fold in sorted(set(folds)):
        train = [k for k in range(len(folds)) if folds[k] != fold] or list(range(len(folds)))
        edges = [-1.0, *sorted(float(similarities[k]) for k in train), 1.0]
        tried = []
        for low, high in pairwise(edges):
            middle = (low + high) / 2
            right = sum((similarities[k] >= middle) == same[k] for k in train)
            tried.append((right, high - low, middle))
        best = max(tried, key=lambda one: one[:2])
        held = [k for k in range(len(folds)) if folds[k] == fold]
        accuracies.append(sum((similarities[k] >= best[2]) == same[k] for k in held) / len(held))
    return accuracies


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 12), st.floats(0.1, 1.5))
def test_fold_accuracies_are_lfws(seed: int, folds: int, each: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    same = np.tile(np.arange(each) % 2 == 0, folds)
    similarities = np.clip(np.where(same, 0.5, 0.1) + spread * random.standard_normal(len(same)) / 4, -0.999, 0.999)
    numbers = np.repeat(np.arange(folds), each)
    ours = metrics.fold_accuracies(similarities.astype(np.float32), same, numbers)
    assert np.allclose(ours, naive_accuracy(similarities.astype(np.float32), same, numbers), atol=1e-6)


def test_a_perfect_separation_is_a_hundred_percent() -> None:
    same = np.tile([True, False], 6)
    folds = np.repeat([0, 1, 2], 4)
    assert metrics.fold_accuracies(np.where(same, 0.6, 0.2).astype(np.float32), same, folds).tolist() == [1, 1, 1]
    assert metrics.fold_accuracies(np.where(same, 0.2, 0.6).astype(np.float32), same, folds).max() <= 0.5
