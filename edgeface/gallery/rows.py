"""The templates in memory: rows that never move under a running search.

Rows are only appended, and a removed row is only masked, so a search that began before a change finishes on
sound
memory. When more than a fifth is dead the rows are copied into new arrays; older views keep the old ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import kernels

if TYPE_CHECKING:
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]

#: Compact when more than this share of the rows is dead.
DEAD_SHARE = 0.2


@dataclass(frozen=True)
class View:
    """The rows at one moment, for a search without locks.

    Attributes:
        rows: (n, d) int8 or float32.
        template_ids, person_ids: (n,) int64; template ids rise.
        alive: (n,) uint8, or None where every row is.
        count: rows alive.
    """

    rows: npt.NDArray[Any]
    template_ids: IntArray
    person_ids: IntArray
    alive: npt.NDArray[np.uint8] | None
    count: int

    def best(self, probes: npt.NDArray[Any], k: int) -> IntArray:
        """(Q, k) rows nearest to each probe by the exact scan, best first; -1 where there are fewer."""
        scan = kernels.scan_int8 if self.rows.dtype == np.int8 else kernels.scan_float32
        return scan(self.rows, probes, k, mask=self.alive)[0]


class Rows:
    """Growing arrays of templates. One writer at a time (the caller's lock); views are for any thread."""

    def __init__(self, dimension: int, dtype: np.dtype[Any]) -> None:
        self._rows: npt.NDArray[Any] = np.empty((0, dimension), dtype)
        self._template_ids: IntArray = np.empty(0, np.int64)
        self._person_ids: IntArray = np.empty(0, np.int64)
        self._alive: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._used = 0
        self._dead = 0

    def __len__(self) -> int:
        return self._used - self._dead

    @property
    def nbytes(self) -> int:
        """Memory of the arrays in bytes, room for growth included."""
        return self._rows.nbytes + self._template_ids.nbytes + self._person_ids.nbytes + self._alive.nbytes

    def append(self, template_ids: IntArray, person_ids: IntArray, rows: npt.NDArray[Any]) -> None:
        """Add rows; `template_ids` rise and lie above every id added before."""
        end = self._used + len(rows)
        if end > len(self._rows):
            # A half more each time: the copies cost a constant per row, and at most a third of the memory is
            # spare.
            self._move(max(end, 64, self._used + self._used // 2), slice(0, self._used))
        self._rows[self._used : end] = rows
        self._template_ids[self._used : end] = template_ids
        self._person_ids[self._used : end] = person_ids
        self._alive[self._used : end] = 1
        self._used = end

    def remove(self, template_ids: IntArray) -> None:
        """Mask rows; ids that are not there are passed over."""
        at = np.searchsorted(self._template_ids[: self._used], template_ids)
        at = at[at < self._used]
        at = at[np.isin(self._template_ids[at], template_ids)]
        self._dead += int(self._alive[at].sum())
        self._alive[at] = 0
        if self._dead > DEAD_SHARE * self._used:
            alive = np.flatnonzero(self._alive[: self._used])
            self._move(len(alive), alive)

    def view(self) -> View:
        """The rows as they are now."""
        n = self._used
        return View(
            self._rows[:n],
            self._template_ids[:n],
            self._person_ids[:n],
            self._alive[:n] if self._dead else None,
            n - self._dead,
        )

    def _move(self, capacity: int, kept: slice | IntArray) -> None:
        count = kept.stop if isinstance(kept, slice) else len(kept)
        for name in ("_rows", "_template_ids", "_person_ids", "_alive"):
            old = getattr(self, name)
            new = np.empty((capacity, *old.shape[1:]), old.dtype)
            new[:count] = old[kept]
            setattr(self, name, new)
        if not isinstance(kept, slice):
            self._used, self._dead = count, 0
