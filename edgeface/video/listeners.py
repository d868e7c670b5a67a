"""Who hears of events: callbacks and sinks, none of which can stop the loop."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edgeface.video.events import Event, EventKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.video.metrics import LoopCounts

log = logging.getLogger(__name__)


class Listeners:
    """Calls every callback with every event; one that raises is reported to the others, and logged.

    Args:
        counts: where events and failures are counted.
    """

    def __init__(self, counts: LoopCounts) -> None:
        self._counts = counts
        self._callbacks: list[Callable[[Event], None]] = []

    def add(self, callback: Callable[[Event], None]) -> None:
        self._callbacks.append(callback)

    def tell(self, events: list[Event]) -> list[Event]:
        """Call the callbacks; returns the events and, after them, those about callbacks that failed."""
        failures: list[Event] = []
        for event in events:
            self._counts.events += 1
            for callback in self._callbacks:
                failure = self._call(callback, event)
                if failure is not None:
                    failures.append(failure)
                    for other in self._callbacks:
                        if other is not callback:
                            self._call(other, failure)
        return events + failures

    def _call(self, callback: Callable[[Event], None], event: Event) -> Event | None:
        try:
            callback(event)
        except Exception as error:
            self._counts.callback_failures += 1
            name = getattr(callback, "__qualname__", type(callback).__name__)
            log.exception("callback %s failed on %s", name, event.kind)
            reason = f"{name}: {type(error).__name__}: {error}"
            return Event(EventKind.CALLBACK_FAILED, event.time_s, event.frame, reason=reason)
        return None
