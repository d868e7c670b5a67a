"""Changes to a gallery whose outcome can be told one by one. Shared by the crash tests; a plain module, no
test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeface.gallery import Gallery

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

MODEL, DIMENSION = "crash-model", 32


def rows_of(name: str, count: int) -> npt.NDArray[np.float32]:
    """The templates of a made-up person: the same for the same name."""
    random = np.random.default_rng(list(name.encode()))
    rows = random.standard_normal((count, DIMENSION))
    unit: npt.NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


@dataclass(frozen=True)
class Step:
    """One change: `add` a person with `count` templates, `remove` one, or `rename` one to NAME-new."""

    kind: str
    name: str
    count: int = 1

    def run(self, gallery: Gallery) -> None:
        """Make the change; it is acknowledged when this returns."""
        if self.kind == "add":
            gallery.add(self.name, rows_of(self.name, self.count))
        elif self.kind == "remove":
            gallery.remove(self.name)
        else:
            gallery.rename(self.name, f"{self.name}-new")

    def apply(self, state: dict[str, int]) -> dict[str, int]:
        """The people and their numbers of templates after the change."""
        after = dict(state)
        if self.kind == "add":
            after[self.name] = after.get(self.name, 0) + self.count
        elif self.kind == "remove":
            after.pop(self.name, None)
        elif self.name in after:
            after[f"{self.name}-new"] = after.pop(self.name)
        return after


STEPS = (
    Step("add", "first", 2),
    Step("add", "to remove", 3),
    Step("add", "to rename", 1),
    Step("rename", "to rename"),
    Step("remove", "to remove"),
    Step("add", "several", 20),
    Step("add", "last", 1),
)


def open_gallery(path: Path) -> Gallery:
    """The gallery under test, created when absent."""
    return Gallery.open(path, model_id=MODEL, dimension=DIMENSION, busy_timeout_ms=2000)


def inspect(path: Path) -> dict[str, int]:
    """Open, check every row and every answer, and give the people with their numbers of templates."""
    with open_gallery(path) as gallery:
        state = {person.name: person.templates for person in gallery.people()}
        for name, count in state.items():
            rows = rows_of(name.removesuffix("-new"), count)
            for match in gallery.search(rows, k=1):
                if match.names[0] != name or match.similarities[0] < 0.99:
                    raise AssertionError(f"{name!r} is enrolled but a search of their own face gives {match}")
        with gallery._store.database.reading() as connection:
            verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
            if verdict != "ok":
                raise AssertionError(f"integrity_check: {verdict}")
    return state
