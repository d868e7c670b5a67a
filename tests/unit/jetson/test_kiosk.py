"""The service's program with a made-up camera and systemd's socket: lines out, signs of life, recovery, a clean end."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeface import FaceRecognizer
from edgeface.errors import InferenceError

KIOSK = Path(__file__).parents[3] / "jetson" / "kiosk.py"


@pytest.fixture
def kiosk(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("edgeface_kiosk", KIOSK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CAMERA_PAUSE_S", 0.0)
    return module


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """`systemd()`: what it was told so far."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(address))
        channel.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))

        def told() -> list[str]:
            messages = []
            while True:
                try:
                    messages.append(channel.recv(4096).decode())
                except BlockingIOError:
                    return messages

        yield told


@dataclasses.dataclass
class Camera:
    """Gives these frames, None where it gives none; at the end the service is asked to stop."""

    frames: list[Any]
    opened: int = 0

    def open(self, name: str) -> Camera:
        self.opened += 1
        return self

    def read(self) -> tuple[bool, Any]:
        if not self.frames:
            os.kill(os.getpid(), signal.SIGTERM)
            return False, None
        frame = self.frames.pop(0)
        return frame is not None, frame

    def release(self) -> None:
        pass


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The test runner's own handlers come back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_day_of_a_kiosk(
    kiosk: ModuleType,
    systemd: Callable[[], list[str]],
    with_models: Path,
    photos: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gallery = tmp_path / "kiosk.gallery"
    with FaceRecognizer.open(gallery) as recognizer:
        recognizer.enroll("ardern", photos["jacinda_ardern_2018"])
    empty = np.zeros((240, 320, 3), np.uint8)
    camera = Camera([photos["jacinda_ardern_2022"], empty, None, photos["barack_obama_2005"]])
    monkeypatch.setattr(kiosk, "open_camera", camera.open)
    monkeypatch.setenv("EDGEFACE_GALLERY", str(gallery))
    assert kiosk.main() == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["name"], line["decision"]) for line in lines] == [("ardern", "match"), (None, "unknown")]
    assert camera.opened == 3  # at the start, after the frame that did not come, after the one at the end
    told = systemd()
    assert told[0] == "READY=1\nSTATUS=detector on onnxruntime; embedder on onnxruntime"
    assert told.count("WATCHDOG=1") == 5
    assert told[-1] == "STOPPING=1"


def test_a_failed_frame_does_not_stop_it_and_a_lost_context_is_reloaded(
    kiosk: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    engine = SimpleNamespace(current=SimpleNamespace(lost=None))
    reloads = []

    def fail(frame: Any) -> list[Any]:
        raise InferenceError("CUDA call cuStreamSynchronize failed")

    recognizer = SimpleNamespace(
        recognize=fail,
        reload=lambda: reloads.append(1),
        detector=SimpleNamespace(engine=engine),
        embedder=SimpleNamespace(engine=engine),
    )
    assert kiosk._recognize(recognizer, None) == []
    assert reloads == []
    engine.current.lost = "an illegal memory access was encountered"
    assert kiosk._recognize(recognizer, None) == []
    assert reloads == [1]
    assert caplog.text.count("a frame is lost") == 2


def test_without_a_gallery_or_models(
    kiosk: ModuleType, monkeypatch: pytest.MonkeyPatch, empty_home: Path, tmp_path: Path
) -> None:
    monkeypatch.delenv("EDGEFACE_GALLERY", raising=False)
    assert kiosk.main() == 1
    monkeypatch.setenv("EDGEFACE_GALLERY", str(tmp_path / "a.gallery"))
    assert kiosk.main() == 1


@pytest.mark.parametrize(
    ("name", "source", "kind"),
    [
        ("0", 0, None),
        ("/dev/video2", "/dev/video2", None),
        ("csi", "nvarguscamerasrc", 1800),
        ("usb", "v4l2src", 1800),
        ("rtsp://host/stream", "rtspsrc location=rtsp://host/stream", 1800),
        ("videotestsrc ! appsink", "videotestsrc ! appsink", 1800),
    ],
)
def test_cameras(kiosk: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, source: Any, kind: int | None) -> None:
    import cv2

    monkeypatch.setattr(cv2, "VideoCapture", lambda *given: given)
    opened = kiosk.open_camera(name)
    assert opened[1:] == (() if kind is None else (cv2.CAP_GSTREAMER,))
    if kind is None:
        assert opened[0] == source
    else:
        assert opened[0].startswith(source)
        assert opened[0].split("!")[-1].strip().startswith("appsink")


def test_a_system_without_systemd(kiosk: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    kiosk.notify("READY=1")
