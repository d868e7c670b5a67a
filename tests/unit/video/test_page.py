"""The page on loopback: pictures only where they were asked for, metrics, and no answer to other names."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from edgeface import FaceRecognizer
from edgeface.errors import ConfigurationError
from edgeface.video import RecognitionLoop
from edgeface.video.page import WatchPage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def page(recognizer: FaceRecognizer) -> Iterator[WatchPage]:
    served = WatchPage(RecognitionLoop(recognizer), port=0, pictures=True)
    yield served
    served.close()


def get(port: int, path: str, host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_page_and_the_metrics(page: WatchPage) -> None:
    status, html = get(page.port, "/")
    assert status == 200
    assert b"/stream" in html
    status, text = get(page.port, "/metrics")
    assert status == 200
    assert b"edgeface_frames_total 0" in text
    assert get(page.port, "/etc/passwd")[0] == 404


def test_pictures_arrive_while_somebody_looks(page: WatchPage) -> None:
    assert page.watchers == 0
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=5)
    connection.request("GET", "/stream")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("multipart/x-mixed-replace")

    def feed() -> None:
        for number in range(50):
            page.show(b"\xff\xd8picture %d" % number)
            time.sleep(0.01)

    feeder = threading.Thread(target=feed)
    feeder.start()
    got = answer.read(200)
    feeder.join()
    assert got.startswith(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: ")
    assert b"\xff\xd8picture" in got
    assert page.watchers == 1
    answer.close()
    connection.close()
    end = time.perf_counter() + 5
    while page.watchers and time.perf_counter() < end:
        page.show(b"\xff\xd8more")
        time.sleep(0.01)
    assert page.watchers == 0


def test_who_takes_no_picture_and_who_asks_nothing_is_let_go(
    recognizer: FaceRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every connection has a thread, and pictures are made as long as one waits for them."""
    monkeypatch.setattr("edgeface.video.page.IDLE_S", 0.3)
    served = WatchPage(RecognitionLoop(recognizer), port=0, pictures=True)
    try:
        with socket.create_connection(("127.0.0.1", served.port)) as lazy:
            lazy.sendall(b"GET /stream HTTP/1.0\r\nHost: localhost\r\n\r\n")
            end = time.perf_counter() + 10
            while not served.watchers and time.perf_counter() < end:
                time.sleep(0.01)
            assert served.watchers == 1
            while served.watchers and time.perf_counter() < end:
                served.show(b"\xff\xd8" + bytes(4_000_000))
                time.sleep(0.02)
            assert served.watchers == 0
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as silent:
            assert silent.recv(1) == b""
    finally:
        served.close()


def test_another_site_s_name_is_refused(page: WatchPage) -> None:
    assert get(page.port, "/", "evil.example:80")[0] == 403
    assert get(page.port, "/metrics", f"localhost:{page.port}")[0] == 200


def test_without_pictures_there_are_none(recognizer: FaceRecognizer) -> None:
    served = WatchPage(RecognitionLoop(recognizer), port=0, pictures=False)
    try:
        assert [get(served.port, path)[0] for path in ("/", "/stream", "/metrics")] == [404, 404, 200]
        with pytest.raises(ConfigurationError, match="cannot serve"):
            WatchPage(RecognitionLoop(recognizer), port=served.port, pictures=False)
    finally:
        served.close()
        served.close()
