"""What systemd is told, on sockets of our own: paths and abstract names, at the watchdog's rate, and nothing else."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeface.tools.systemd import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """NOTIFY_SOCKET, and a call for what came there since the last."""
    name = f"@edgeface-{uuid.uuid4()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + name[1:] if name.startswith("@") else name)
        channel.setblocking(False)

        def told() -> list[str]:
            messages = []
            while True:
                try:
                    messages.append(channel.recv(4096).decode())
                except BlockingIOError:
                    return messages

        yield name, told


def test_ready_with_the_first_frame_then_signs_of_life(systemd: tuple[str, Callable[[], list[str]]]) -> None:
    address, told = systemd
    now = [100.0]
    service = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "4000000"}, clock=lambda: now[0])
    service.status("waiting for\nthe camera")
    assert told() == ["STATUS=waiting for the camera"]
    service.frame_done("detector on onnxruntime")
    assert told() == ["READY=1\nSTATUS=detector on onnxruntime"]
    beats = []
    for step in range(1, 201):  # 20 s at 10 frames a second
        now[0] = 100.0 + step / 10
        service.frame_done("other")
        beats += [(step, message) for message in told()]
    assert beats == [(step, "WATCHDOG=1") for step in range(20, 201, 20)]
    now[0] += 60.0  # no frame for a minute: nothing is said, and the watchdog does its work
    assert told() == []
    service.frame_done("other")
    service.stopping()
    assert told() == ["WATCHDOG=1", "STOPPING=1"]


def test_waiting_is_a_sign_of_life_and_before_the_first_frame_more_time(
    systemd: tuple[str, Callable[[], list[str]]],
) -> None:
    address, told = systemd
    now = [100.0]
    service = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "4000000"}, clock=lambda: now[0])
    for step in range(50):  # 5 s, asked ten times a second
        now[0] = 100.0 + step / 10
        service.waiting()
    assert told() == ["EXTEND_TIMEOUT_USEC=4000000"] * 3  # at once, after 2 s, after 4 s: never READY
    service.frame_done("runs")
    assert told() == ["READY=1\nSTATUS=runs"]
    for step in range(50):
        now[0] = 105.0 + step / 10
        service.waiting()
    assert told() == ["WATCHDOG=1"] * 2


@pytest.mark.parametrize(
    "watchdog", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}]
)
def test_without_a_watchdog_of_ours_only_ready(
    systemd: tuple[str, Callable[[], list[str]]], watchdog: dict[str, str]
) -> None:
    address, told = systemd
    now = [0.0]
    service = ServiceManager({"NOTIFY_SOCKET": address, **watchdog}, clock=lambda: now[0])
    for _ in range(10):
        now[0] += 100.0
        service.frame_done("runs")
        service.waiting()
    assert told() == ["READY=1\nSTATUS=runs"]


def test_a_watchdog_for_this_process(systemd: tuple[str, Callable[[], list[str]]]) -> None:
    address, told = systemd
    now = [0.0]
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}
    service = ServiceManager(environment, clock=lambda: now[0])
    service.frame_done("runs")
    now[0] = 1.0
    service.frame_done("runs")
    assert told()[1:] == ["WATCHDOG=1"]


def test_where_systemd_is_not_or_is_gone_nothing_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager({}).frame_done("runs")
    assert caplog.text == ""
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).stopping()
    assert "systemd was not told 'STOPPING=1'" in caplog.text
    caplog.clear()
    service = ServiceManager({"NOTIFY_SOCKET": "vsock:2:1234"})
    assert "expected a path or an abstract socket, got 'vsock:2:1234'" in caplog.text
    caplog.clear()
    service.frame_done("runs")
    assert caplog.text == ""


def test_systemd_that_does_not_read_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edgeface.tools.systemd.SEND_TIMEOUT_S", 0.01)
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        service = ServiceManager({"NOTIFY_SOCKET": address})
        for _ in range(2000):  # more than any queue of datagrams takes
            service.status("x")
            if caplog.text:
                break
    assert "systemd was not told 'STATUS=x'" in caplog.text
