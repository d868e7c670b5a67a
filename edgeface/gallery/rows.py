"""The templates in memory: rows that never move under a running search.

Rows are only appended, and a removed row is only masked, so a search that began before a change finishes on sound
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

_ARRAYS = ("_rows", "_template_ids", "_person_ids", "_checksums", "_alive")


@dataclass(frozen=True)
class View:
    """The rows at one moment, for a search without locks.

    Attributes:
        rows: (n, d) int8 or float32.
        template_ids, person_ids: (n,) int64; template ids rise.
        checksums: (n,) uint32 as stored with the templates.
        alive: (n,) uint8, or None where every row is.
        count: rows alive.
    """

    rows: npt.NDArray[Any]
    template_ids: IntArray
    person_ids: IntArray
    checksums: npt.NDArray[np.uint32]
    alive: npt.NDArray[np.uint8] | None
    count: int

    def best(self, probes: npt.NDArray[Any], k: int) -> IntArray:
        """(Q, k) rows nearest to each probe by the exact scan, best first; -1 where there are fewer."""
        scan = kernels.scan_int8 if self.rows.dtype == np.int8 else kernels.scan_float32
        return scan(self.rows, probes, k, mask=self.alive)[0]

    def after(self, first: int) -> View:
        """The rows from number `first` on; `count` is then the most that can be alive."""
        alive = None if self.alive is None else self.alive[first:]
        return View(
            self.rows[first:],
            self.template_ids[first:],
            self.person_ids[first:],
            self.checksums[first:],
            alive,
            len(self.rows) - first,
        )


class Rows:
    """Growing arrays of templates. One writer at a time (the caller's lock); views are for any thread."""

    def __init__(self, dimension: int, dtype: np.dtype[Any]) -> None:
        self._rows: npt.NDArray[Any] = np.empty((0, dimension), dtype)
        self._template_ids: IntArray = np.empty(0, np.int64)
        self._person_ids: IntArray = np.empty(0, np.int64)
        self._checksums: npt.NDArray[np.uint32] = np.empty(0, np.uint32)
        self._alive: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self.used = 0
        self._dead = 0

    def __len__(self) -> int:
        return self.used - self._dead

    @property
    def array(self) -> npt.NDArray[Any]:
        """The whole array of components, room for growth included."""
        return self._rows

    @property
    def nbytes(self) -> int:
        """Memory of the arrays in bytes, room for growth included."""
        return sum(int(getattr(self, name).nbytes) for name in _ARRAYS)

    def append(
        self, template_ids: IntArray, person_ids: IntArray, checksums: npt.NDArray[np.uint32], rows: npt.NDArray[Any]
    ) -> None:
        """Add rows; `template_ids` rise and lie above every id added before."""
        if len(self._rows) == 0:  # the first ones are taken over as they are
            self._rows, self._template_ids = rows, template_ids
            self._person_ids, self._checksums = person_ids, checksums
            self._alive, self.used = np.ones(len(rows), np.uint8), len(rows)
            return
        end = self.used + len(rows)
        if end > len(self._rows):
            # A quarter more each time: the copies cost a constant per row, and at most a fifth of the memory is spare.
            self._move(max(end, 64, self.used + self.used // 4), slice(0, self.used))
        added = slice(self.used, end)
        self._rows[added] = rows
        self._template_ids[added] = template_ids
        self._person_ids[added] = person_ids
        self._checksums[added] = checksums
        self._alive[added] = 1
        self.used = end

    def remove(self, template_ids: IntArray) -> IntArray:
        """Mask rows and wipe their components; returns their numbers. Ids that are not there are passed over."""
        at = np.searchsorted(self._template_ids[: self.used], template_ids)
        at = at[at < self.used]
        at = at[np.isin(self._template_ids[at], template_ids)]
        at = at[self._alive[at] == 1]
        self._alive[at] = 0
        self._rows[at] = 0  # biometric data of somebody who was removed: gone from memory too
        self._dead += len(at)
        found: IntArray = at.astype(np.int64)
        return found

    def dead_between(self, first: int, last: int) -> IntArray:
        """Numbers of the masked rows among first to last - 1."""
        return np.flatnonzero(self._alive[first:last] == 0) + first

    def should_compact(self) -> bool:
        """Is more than a fifth dead?"""
        return self._dead > DEAD_SHARE * self.used

    def compact(self) -> None:
        """Copy the living rows into new arrays; their numbers change."""
        if self._dead:
            alive = np.flatnonzero(self._alive[: self.used])
            self._move(len(alive), alive)
            self.used, self._dead = len(alive), 0

    def view(self) -> View:
        """The rows as they are now."""
        n = self.used
        return View(
            self._rows[:n],
            self._template_ids[:n],
            self._person_ids[:n],
            self._checksums[:n],
            self._alive[:n] if self._dead else None,
            n - self._dead,
        )

    def _move(self, capacity: int, kept: slice | IntArray) -> None:
        count = kept.stop if isinstance(kept, slice) else len(kept)
        for name in _ARRAYS:
            old = getattr(self, name)
            new = np.empty((capacity, *old.shape[1:]), old.dtype)
            new[:count] = old[kept]
            setattr(self, name, new)
