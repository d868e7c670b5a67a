"""The LFW protocol from the photographs on: a pairs file, the photographs it names, and the figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.engines import metrics
from edgeface.engines.rates import measure_table
from edgeface.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from edgeface.types import FloatArray, IntArray

Photo = tuple[str, int]  # person, number


@dataclass(frozen=True)
class Pairs:
    """A pairs file: per pair two photographs, whether they show one person, and the fold."""

    pairs: tuple[tuple[Photo, Photo], ...]
    same: npt.NDArray[np.bool_]
    folds: IntArray

    @property
    def photos(self) -> list[Photo]:
        """Every photograph that the file names, once, sorted."""
        return sorted({photo for pair in self.pairs for photo in pair})


def read_pairs(path: Path) -> Pairs:
    """Read a pairs file in LFW's format.

    The first line has the number of folds and of pairs of each kind per fold (one number alone: pairs, of one fold).
    Then come, per fold, that many lines ``name i j`` and as many ``name1 i name2 j``, separated by tabs.

    Raises:
        InputError: unreadable, or a line that does not fit; the message has its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the pairs file: {error}") from error
    head = lines[0].split() if lines else []
    if not head or len(head) > 2 or not all(n.isascii() and n.isdigit() and 0 < int(n) < 10**6 for n in head):
        raise InputError(f"{path}: line 1: expected the numbers of folds and of pairs of each kind, got {lines[:1]}")
    count, each = (1, int(head[0])) if len(head) == 1 else (int(head[0]), int(head[1]))
    body = [(number, line.split("\t")) for number, line in enumerate(lines[1:], 2) if line.strip()]
    if len(body) != count * each * 2:
        raise InputError(f"{path}: line 1 says {count} x 2 x {each} pairs, the file has {len(body)}")
    pairs: list[tuple[Photo, Photo]] = []
    for position, (number, fields) in enumerate(body):
        genuine = position % (2 * each) < each
        if len(fields) != (3 if genuine else 4):
            raise InputError(
                f"{path}: line {number}: expected {'name i j' if genuine else 'name1 i name2 j'}, got {fields}"
            )
        first = _photo(path, number, *fields[:2])
        second = _photo(path, number, fields[0] if genuine else fields[2], fields[-1])
        if first == second or (first[0] == second[0]) is not genuine:
            kinds = "photographs of one person" if genuine else "people"
            raise InputError(f"{path}: line {number}: expected two {kinds}, got {fields}")
        pairs.append((first, second))
    index = np.arange(len(pairs))
    return Pairs(tuple(pairs), index % (2 * each) < each, index // (2 * each))


def _photo(path: Path, number: int, name: str, which: str) -> Photo:
    which = which.strip()
    is_number = which.isascii() and which.isdigit() and len(which) < 10
    if not name or "/" in name or "\\" in name or name.startswith(".") or not is_number:
        raise InputError(f"{path}: line {number}: expected a name and a number, got {name!r}, {which!r}")
    return name, int(which)


def photo_path(images: Path, photo: Photo) -> Path:
    """Where LFW keeps a photograph: ``name/name_0001.jpg``."""
    name, number = photo
    return images / name / f"{name}_{number:04d}.jpg"


def score(pairs: Pairs, photos: list[Photo], embeddings: FloatArray) -> dict[str, Any]:
    """The protocol's figures.

    Args:
        photos: the photographs of the rows.
        embeddings: (N, D) float32: unit rows, or all zeros for a photograph without a face, which matches nobody.

    Returns:
        ``accuracy_mean`` and ``accuracy_std`` in percent over the folds, ``pairs_tar`` and ``all_pairs_tar`` with
        ``tar``, ``similarity`` and ``supported`` at 1e-2 to 1e-6, and ``rank1``: the share of photographs of people
        with several whose nearest other photograph is of the same person. ``thresholds`` is the table for a recipe,
        with confidence limits, or None where there are too few impostor pairs for one.
    """
    row = {photo: index for index, photo in enumerate(photos)}
    first = embeddings[[row[a] for a, _ in pairs.pairs]]
    second = embeddings[[row[b] for _, b in pairs.pairs]]
    similarities = np.einsum("nd,nd->n", first, second)
    blank = ~first.any(axis=1) | ~second.any(axis=1)
    similarities[blank] = -1.0  # a failure to acquire is a non-match (ISO/IEC 19795-1)
    accuracies = metrics.fold_accuracies(similarities, pairs.same, pairs.folds)
    people = {name: index for index, name in enumerate(sorted({name for name, _ in photos}))}
    labels = np.array([people[name] for name, _ in photos], np.int64)
    scores = metrics.all_pairs(embeddings, labels)
    return {
        "accuracy_mean": float(accuracies.mean() * 100),
        "accuracy_std": float(accuracies.std() * 100),
        "pairs_tar": _table(metrics.pair_points(similarities, pairs.same)),
        "all_pairs_tar": _table(metrics.all_pairs_points(scores)),
        "rank1": float(scores.nearest_right.mean()) if len(scores.nearest_right) else None,
        "genuine_pairs": len(scores.genuine),
        "impostor_pairs": scores.impostors,
        "thresholds": _recipe_table(embeddings, labels, f"all pairs of {len(photos)} photographs"),
    }


def _recipe_table(embeddings: FloatArray, labels: IntArray, origin: str) -> dict[str, Any] | None:
    try:
        return asdict(measure_table(embeddings, labels, origin))
    except InputError:  # a handful of people: the figures stand, no rate can be promised from them
        return None


def _table(points: list[metrics.Operating]) -> dict[str, dict[str, Any]]:
    return {
        f"1e-{round(-np.log10(point.far))}": {
            "tar": point.tar,
            "similarity": point.similarity,
            "supported": point.supported,
        }
        for point in points
    }
