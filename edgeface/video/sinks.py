"""Where events go: lines of JSON on a stream, or on a Unix socket that other programs connect to.

A sink is a callable that takes an `Event`: give it to `RecognitionLoop.on`.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edgeface.errors import ConfigurationError

if TYPE_CHECKING:
    import os

    from edgeface.video.events import Event

log = logging.getLogger(__name__)
#: Bytes that may wait for a client that does not read; then it is cut off, rather than the loop held up.
SEND_BUFFER_BYTES = 262_144
MOST_CLIENTS = 32  # connected at once: every one takes a file descriptor and a buffer


class JsonLines:
    """One line of JSON an event, on a text stream, flushed at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        self._stream.write(event.to_json() + "\n")
        self._stream.flush()


class UnixSocket:
    """One line of JSON an event, to everybody who is connected to a Unix socket.

    A client gets the events from its connection on. One that does not read is cut off, and the oldest of more than
    `MOST_CLIENTS`.

    Args:
        path: of the socket, which only this user may open. A socket that nobody serves any more is replaced.

    Raises:
        ConfigurationError: the path is in use, is no socket, or cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._clients: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._take_over()
            self._server.bind(str(self.path))
            self.path.chmod(0o600)
            self._server.listen(16)
        except (OSError, ValueError) as error:
            self._server.close()
            raise ConfigurationError(f"{self.path}: cannot serve events there: {error}") from error
        self._thread = threading.Thread(target=self._accept, name="edgeface-events", daemon=True)
        self._thread.start()

    def _take_over(self) -> None:
        """Remove a socket that a process left behind; leave one that is served, and files that are not sockets."""
        if not self.path.exists():
            return
        if not stat.S_ISSOCK(self.path.stat().st_mode):
            raise OSError("a file that is no socket is in the way")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink()
                return
        raise OSError("another process serves it")

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:  # closed
                return
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            with self._lock:
                self._clients = [known for known in self._clients if _connected(known)] + [client]
                if len(self._clients) > MOST_CLIENTS:
                    log.warning("%s: more than %d clients; the oldest is cut off", self.path, MOST_CLIENTS)
                    self._clients.pop(0).close()

    def __call__(self, event: Event) -> None:
        line = event.to_json().encode() + b"\n"
        with self._lock:
            for client in list(self._clients):
                gone = False
                try:
                    sent = client.send(line)
                except BlockingIOError:  # its buffer is full
                    sent = 0
                except OSError:
                    sent, gone = 0, True  # it hung up, which is its right
                if sent != len(line):  # a part of a line is worse than none: the next one could not be read
                    if not gone:
                        log.warning("%s: a client does not read its events and is cut off", self.path)
                    self._clients.remove(client)
                    client.close()

    def close(self) -> None:
        """Disconnect everybody and remove the socket. Closing twice is harmless."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._server.close()
        with self._lock:
            for client in self._clients:
                client.close()
            self._clients.clear()
        self.path.unlink(missing_ok=True)


def _connected(client: socket.socket) -> bool:
    """Whether a client is still there; one that hung up is closed. Without events nobody would notice for days.

    One that only ends its own side, as some tools do at the end of their input, still listens.
    """
    state = select.poll()
    state.register(client, 0)
    gone = bool(state.poll(0))  # asked for nothing: a hang-up or an error
    if gone:
        client.close()
    return not gone
