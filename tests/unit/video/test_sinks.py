"""Events on a stream and on a Unix socket: whole lines, several clients, and clients that do not read."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgeface.errors import ConfigurationError
from edgeface.video import Event, EventKind, sinks
from edgeface.video.sinks import JsonLines, UnixSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENT = Event(EventKind.ARRIVED, 1.0, 5, 2, "ada", 1, 0.6, 0.3, 0.9, "match")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[UnixSocket]:
    sink = UnixSocket(tmp_path / "events.sock")
    yield sink
    sink.close()


def connect(sink: UnixSocket) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(5)
    known = list(sink._clients)
    client.connect(str(sink.path))
    end = time.perf_counter() + 5
    while sink._clients == known and time.perf_counter() < end:
        time.sleep(0.002)
    return client


def test_a_stream_gets_a_line_an_event() -> None:
    stream = io.StringIO()
    sink = JsonLines(stream)
    sink(EVENT)
    sink(EVENT)
    lines = stream.getvalue().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["ada", "ada"]


def test_every_client_gets_every_event_from_its_connection_on(
    served: UnixSocket, caplog: pytest.LogCaptureFixture
) -> None:
    served(EVENT)
    one, two = connect(served), connect(served)
    served(EVENT)
    for client in (one, two):
        assert json.loads(client.makefile().readline())["event"] == "arrived"
        client.close()
    served(EVENT)  # nobody listens any more
    served(EVENT)
    assert not served._clients
    assert caplog.text == ""  # to hang up is no fault


def test_a_client_that_does_not_read_is_cut_off_and_holds_nobody_up(
    served: UnixSocket, caplog: pytest.LogCaptureFixture
) -> None:
    lazy, busy = connect(served), connect(served)
    reader = busy.makefile()
    start = time.perf_counter()
    for _ in range(5000):
        served(EVENT)
        assert json.loads(reader.readline())["name"] == "ada"
        if len(served._clients) == 1:
            break
    assert len(served._clients) == 1
    assert "a client does not read its events and is cut off" in caplog.text
    assert time.perf_counter() - start < 30
    lazy.close()
    busy.close()


def test_who_ends_only_its_own_side_still_listens_and_who_spoke_before_hanging_up_does_not(served: UnixSocket) -> None:
    listens, spoke = connect(served), connect(served)
    listens.shutdown(socket.SHUT_WR)
    spoke.sendall(b"hello")
    spoke.close()
    third = connect(served)  # those who hung up are found when somebody comes
    assert len(served._clients) == 2
    served(EVENT)
    for client in (listens, third):
        assert json.loads(client.makefile().readline())["event"] == "arrived"
        client.close()


def test_clients_that_hung_up_are_let_go_without_an_event(served: UnixSocket) -> None:
    """A monitor that connects every second, and a night without an event, took all file descriptors."""
    stays = connect(served)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        known = list(served._clients)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(served.path))
            end = time.perf_counter() + 5
            while served._clients == known and time.perf_counter() < end:
                time.sleep(0.001)
    assert len(os.listdir("/proc/self/fd")) < before + 10
    served(EVENT)
    assert json.loads(stays.makefile().readline())["event"] == "arrived"
    stays.close()


def test_only_so_many_clients(served: UnixSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "MOST_CLIENTS", 2)
    clients = [connect(served), connect(served)]
    last = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    last.connect(str(served.path))
    clients[0].settimeout(5)
    assert clients[0].recv(1) == b""  # the oldest
    served(EVENT)
    for client in (clients[1], last):
        assert json.loads(client.makefile().readline())["event"] == "arrived"
    for client in (*clients, last):
        client.close()


def test_only_this_user_may_connect(served: UnixSocket) -> None:
    assert served.path.stat().st_mode & 0o077 == 0


def test_a_socket_left_behind_is_replaced_but_a_served_one_and_a_file_are_not(tmp_path: Path) -> None:
    left = tmp_path / "left.sock"
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(left))
    dead.close()
    sink = UnixSocket(left)
    with pytest.raises(ConfigurationError, match="another process serves it"):
        UnixSocket(left)
    sink.close()
    assert not left.exists()
    plain = tmp_path / "notes.txt"
    plain.write_text("mine")
    with pytest.raises(ConfigurationError, match="no socket"):
        UnixSocket(plain)
    assert plain.read_text() == "mine"
