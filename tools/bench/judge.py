"""Results of a recognition loop held against a composed stream's truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeface.video.tracks import overlaps

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from edgeface.tools.bench.stream import Truth
    from edgeface.types import FloatArray

LEAST_VISIBLE = 0.7  # share of a face that must be seen before it counts as missed when it has no name
LEAST_OVERLAP = 0.3


@dataclass(frozen=True, eq=False)
class Named:
    """One face of a result: its box, the name it was given if any, and its track if there are tracks."""

    box: FloatArray
    name: str | None
    track_id: int | None = None


@dataclass
class Judge:
    """Counts over a stream.

    Attributes:
        enrolled: names of the people in the gallery.
        due: appearances of enrolled people's faces, a frame each, that were visible well enough.
        right: of those, with the right name.
        wrong: faces with a wrong name, strangers among them.
        strangers: appearances of strangers' faces; `strangers_named` those that were given a name.
        switches: changes of the track of one person during one stay, while visible.
        named_after_s: time from the first good view of each enrolled person's stay to the first right name.
    """

    enrolled: Collection[str]
    due: int = 0
    right: int = 0
    wrong: int = 0
    strangers: int = 0
    strangers_named: int = 0
    switches: int = 0
    named_after_s: dict[int, float] = field(default_factory=dict)
    _first_s: dict[int, float] = field(default_factory=dict)
    _track: dict[int, int] = field(default_factory=dict)

    def frame(self, time_s: float, truths: Sequence[Truth], found: Sequence[Named]) -> None:
        """Take in one frame."""
        partner = self._pair(truths, found)
        for index, truth in enumerate(truths):
            seen = partner.get(index)
            name = seen.name if seen is not None else None
            known = truth.person in self.enrolled
            if name is not None and name != truth.person:
                self.wrong += 1
            if truth.visible < LEAST_VISIBLE:
                continue
            if known:
                self.due += 1
                self._first_s.setdefault(truth.actor, time_s)
                if name == truth.person:
                    self.right += 1
                    self.named_after_s.setdefault(truth.actor, time_s - self._first_s[truth.actor])
            else:
                self.strangers += 1
                self.strangers_named += name is not None
            if seen is not None and seen.track_id is not None:
                if self._track.setdefault(truth.actor, seen.track_id) != seen.track_id:
                    self.switches += 1
                self._track[truth.actor] = seen.track_id

    @staticmethod
    def _pair(truths: Sequence[Truth], found: Sequence[Named]) -> dict[int, Named]:
        """The result of each truth: best overlaps first, each used once."""
        if not truths or not found:
            return {}
        alike = overlaps(np.stack([truth.box for truth in truths]), np.stack([one.box for one in found]))
        # Of two people at one place the one in front is the one that is seen.
        alike = alike * np.array([[0.5 + 0.5 * truth.visible] for truth in truths], np.float32)
        pairs: dict[int, Named] = {}
        while alike.max() >= LEAST_OVERLAP:
            row, column = (int(value) for value in np.unravel_index(int(alike.argmax()), alike.shape))
            pairs[row] = found[column]
            alike[row, :] = 0
            alike[:, column] = 0
        return pairs

    @property
    def right_share(self) -> float:
        return self.right / self.due if self.due else float("nan")
