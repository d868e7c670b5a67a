"""How long each stage of a build takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.engines.quantize import Stage


class Clock:
    """Passes stages on and keeps the seconds of each."""

    def __init__(self, stage: Stage | None) -> None:
        self._given = stage
        self._marks: list[tuple[str, float]] = []

    def stage(self, title: str, steps: int) -> Callable[[int], None]:
        self._marks.append((title, time.perf_counter()))
        return self._given(title, steps) if self._given else lambda done: None

    def seconds(self) -> dict[str, float]:
        ends = [mark[1] for mark in self._marks[1:]] + [time.perf_counter()]
        total: dict[str, float] = {}
        for (title, start), end in zip(self._marks, ends, strict=True):
            total[title] = round(total.get(title, 0.0) + end - start, 2)
        return total | {"total": round(time.perf_counter() - self._marks[0][1], 2)} if self._marks else {}
