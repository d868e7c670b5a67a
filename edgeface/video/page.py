"""A page on this machine for a person to look at: the annotated picture as MJPEG, and metrics for Prometheus.

Off unless it is asked for. It serves pictures of people without a password, so it listens on loopback only.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from edgeface.errors import ConfigurationError
from edgeface.video.metrics import prometheus_text

if TYPE_CHECKING:
    from edgeface.video.loop import RecognitionLoop

HOST = "127.0.0.1"
IDLE_S = 10.0  # a connection that asks nothing or takes nothing for so long is closed: each has a thread
WAIT_S = 1.0  # for the next picture, before the connection is looked at again
PAGE = (
    "<!doctype html><meta charset=utf-8><title>edgeface</title>"
    "<style>body{margin:0;background:#111;color:#eee;font:16px sans-serif}img{max-width:100%}</style>"
    "<img src=/stream alt='the camera'>"
)


class WatchPage:
    """Serves ``/`` and ``/stream`` (when pictures are shown) and ``/metrics`` on 127.0.0.1.

    Args:
        loop: whose metrics.
        port: 0 takes any free port; see `port`.
        pictures: whether pictures may be seen at all.

    Attributes:
        port: the one that is served.

    Raises:
        ConfigurationError: the port is taken or not allowed.
    """

    def __init__(self, loop: RecognitionLoop, *, port: int, pictures: bool) -> None:
        self._changed = threading.Condition()
        self._jpeg = b""
        self._number = 0
        self._closed = False
        self.watchers = 0  #: connections that wait for pictures: without any, none need be made
        page = self

        class Handler(BaseHTTPRequestHandler):
            timeout = IDLE_S

            def do_GET(self) -> None:
                # A page of another site could make the browser ask by a name that leads here: answer to our own only.
                name = self.headers.get("Host", "").rsplit(":", 1)[0]
                if name not in (HOST, "localhost"):
                    self.send_error(403)
                elif self.path == "/metrics":
                    self._answer(prometheus_text(loop).encode(), "text/plain; version=0.0.4; charset=utf-8")
                elif self.path == "/" and pictures:
                    self._answer(PAGE.encode(), "text/html; charset=utf-8")
                elif self.path == "/stream" and pictures:
                    page._stream(self)
                else:
                    self.send_error(404)

            def _answer(self, content: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Requests are not logged: events go to standard output, and nothing else."""

        try:
            self._server = ThreadingHTTPServer((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(f"port {port}: cannot serve there: {error}; give another one") from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="edgeface-page", daemon=True).start()

    def show(self, jpeg: bytes) -> None:
        """The newest picture, for everybody who looks."""
        with self._changed:
            self._jpeg = jpeg
            self._number += 1
            self._changed.notify_all()

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.send_header("Cache-Control", "no-store")
        handler.end_headers()
        with self._changed:
            self.watchers += 1
        seen = 0
        try:
            while not self._closed:
                with self._changed:
                    if self._number == seen:
                        self._changed.wait(WAIT_S)
                    jpeg, number = self._jpeg, self._number
                if number == seen or not jpeg:
                    continue
                seen = number
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                handler.wfile.write(head.encode() + jpeg + b"\r\n")
        except OSError:  # the browser went away
            return
        finally:
            with self._changed:
                self.watchers -= 1

    def close(self) -> None:
        """Stop serving. Closing twice is harmless."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
