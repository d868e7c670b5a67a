"""TensorRT's messages, through Python's logging, and its last errors for our own messages."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

logger = logging.getLogger("edgeface.tensorrt")


class TensorRtLog:
    """Receives what TensorRT logs. One lives as long as the process: TensorRT keeps a pointer to it.

    Attributes:
        native: the `ILogger` that TensorRT gets.
    """

    def __init__(self, trt: Any) -> None:
        severity = trt.ILogger.Severity
        levels = {
            severity.INTERNAL_ERROR: logging.CRITICAL,
            severity.ERROR: logging.ERROR,
            severity.WARNING: logging.WARNING,
            severity.INFO: logging.DEBUG,  # memory figures of every engine: of no use to firmware
        }
        errors: deque[str] = deque(maxlen=3)
        lock = threading.Lock()

        class Native(trt.ILogger):  # type: ignore[misc]  # the bindings are untyped
            def __init__(self) -> None:
                trt.ILogger.__init__(self)  # pybind11 wants its own constructor called, not super()'s

            def log(self, severity: Any, msg: str) -> None:
                level = levels.get(severity)
                if level is None:
                    return
                if level >= logging.ERROR:
                    with lock:
                        errors.append(msg.strip())
                logger.log(level, "%s", msg.strip())

        self.native = Native()
        self._errors = errors
        self._lock = lock

    def said(self) -> str:
        """The last errors since this was last asked, for one line of a message."""
        with self._lock:
            lines = list(self._errors)
            self._errors.clear()
        return "; ".join(lines)[:400] or "it gave no reason"
