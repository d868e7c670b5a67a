"""From rows to people: the best template of each, several templates a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.gallery.vectors import cosines
from edgeface.types import Matches

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeface.gallery.index import Searcher
    from edgeface.gallery.rows import View
    from edgeface.gallery.store import Store
    from edgeface.gallery.vectors import FloatArray

#: Rows fetched beyond those asked for: ranking is by int8 products, the result by exact cosines of these.
_SPARE = 8


def similarities_to(view: View, probes: FloatArray, person_id: int) -> FloatArray | None:
    """(n,) cosines of the probes to the best template of one person; None where the person has none."""
    own = view.person_ids == person_id
    if view.alive is not None:
        own &= view.alive.astype(bool)
    if not own.any():
        return None
    templates = view.rows[own]
    return np.array([cosines(probe, templates).max() for probe in probes], np.float32)


def named(found: list[tuple[npt.NDArray[np.int64], FloatArray]], store: Store) -> list[Matches]:
    """What `nearest_people` found, with names; a person removed since the scan is in nobody's result."""
    names = store.names(sorted({int(one) for person_ids, _ in found for one in person_ids}))
    results = []
    for person_ids, similarities in found:
        kept = [i for i, one in enumerate(person_ids) if int(one) in names]
        results.append(Matches(person_ids[kept], tuple(names[int(person_ids[i])] for i in kept), similarities[kept]))
    return results


def nearest_people(
    searcher: Searcher, probes: FloatArray, coded: npt.NDArray[Any], k: int
) -> list[tuple[npt.NDArray[np.int64], FloatArray]]:
    """(person ids, similarities) for each probe, best first, one row a person."""
    results: list[tuple[npt.NDArray[np.int64], FloatArray]] = []
    view = searcher.view
    for probe, row in zip(probes, coded, strict=True):
        wanted = min(view.count, k + _SPARE)
        while True:
            best = searcher.best(row, wanted) if wanted else np.empty(0, np.int64)
            people = view.person_ids[best].tolist()
            # Several templates may be one person's: fetch more until k people are among them, or all are.
            if len(set(people)) >= k or wanted >= view.count:
                break
            wanted = min(view.count, wanted * 4)
        similarities = cosines(probe, view.rows[best])
        # A few rows: plain Python is faster than numpy here. Where a person first comes up is their best template.
        first: dict[int, int] = {}
        for at in np.argsort(-similarities, kind="stable").tolist():
            first.setdefault(people[at], at)
            if len(first) == k:
                break
        results.append((np.array(list(first), np.int64), similarities[list(first.values())]))
    return results
