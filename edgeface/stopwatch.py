"""How long each step of a call took, for callers who ask."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping


class Stopwatch:
    """Milliseconds between laps, written into a mapping when there is one."""

    def __init__(self, stages_ms: MutableMapping[str, float] | None) -> None:
        self._stages_ms = stages_ms
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        if self._stages_ms is not None:
            self._stages_ms[stage] = (now - self._last) * 1e3
        self._last = now
