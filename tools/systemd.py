"""What a service tells systemd: that it is ready, that it lives, that it ends (sd_notify(3), without its library)."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)
SEND_TIMEOUT_S = 1.0  # systemd that does not read must not hold up recognition


class ServiceManager:
    """The service manager that started this process; where there is none, every call does nothing.

    Args:
        environment: with NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID as systemd sets them.
        clock: seconds that never go back.
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        if address and address[0] not in "/@":
            log.warning("NOTIFY_SOCKET: expected a path or an abstract socket, got %r: nothing is told", address)
            address = ""
        # An abstract socket is written with @ for the zero byte that its name begins with.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._beat_s = _beat_s(environment)
        self._next_s = 0.0
        self._clock = clock
        self._ready = False

    def frame_done(self, status: str) -> None:
        """A frame was processed. The first one makes the service ready, with `status`; then it is a sign of life, at
        twice the rate that the watchdog asks for and no more often.
        """
        now = self._clock()
        if not self._ready:
            self._ready, self._next_s = True, now + (self._beat_s or 0.0)
            self._tell(f"READY=1\nSTATUS={_line(status)}")
        elif self._beat_s is not None and now >= self._next_s:
            self._next_s = now + self._beat_s
            self._tell("WATCHDOG=1")

    def waiting(self) -> None:
        """No frame comes, and that is no fault of this process: as `frame_done`, but it does not make the service
        ready. Before the first frame it asks for more time to start, for as long as a watchdog waits.
        """
        now = self._clock()
        if self._beat_s is not None and now >= self._next_s:
            self._next_s = now + self._beat_s
            self._tell("WATCHDOG=1" if self._ready else f"EXTEND_TIMEOUT_USEC={round(self._beat_s * 2e6)}")

    def status(self, text: str) -> None:
        """A line for `systemctl status`."""
        self._tell(f"STATUS={_line(text)}")

    def stopping(self) -> None:
        """The service ends by itself or was told to."""
        self._tell("STOPPING=1")

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(SEND_TIMEOUT_S)
                channel.sendto(message.encode(), self._address)
        except OSError as error:  # systemd gone or busy: people are recognised all the same
            log.warning("systemd was not told %r: %s", message.partition("\n")[0], error)


def _beat_s(environment: Mapping[str, str]) -> float | None:
    """Seconds between signs of life, half of what the watchdog waits (sd_watchdog_enabled(3)); None without one."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not (usec.isascii() and usec.isdigit()) or int(usec) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(usec) / 2e6


def _line(text: str) -> str:
    return " ".join(text.split())
