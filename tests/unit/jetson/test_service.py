"""The service: `edgeface watch` with a made-up camera and systemd's socket, and the unit that starts it."""

from __future__ import annotations

import fnmatch
import json
import logging
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeface import FaceRecognizer
from edgeface.errors import InferenceError, InputError
from edgeface.tools import endure
from edgeface.tools.endure import EnduringLoop
from edgeface.video import FrameResult, RecognitionLoop
from edgeface.video.sources import Frame

UNIT = Path(__file__).parents[3] / "jetson" / "edgeface.service"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """`systemd()`: what it was told so far."""
    address, closing = tmp_path / "notify", threading.Event()
    messages: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(address))
        channel.settimeout(0.05)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setenv("WATCHDOG_USEC", "2000")  # a sign of life with every frame

        def listen() -> None:  # all the time: the queue of a socket holds ten messages
            while True:
                try:
                    messages.append(channel.recv(4096).decode())
                except TimeoutError:
                    if closing.is_set():
                        return

        thread = threading.Thread(target=listen)
        thread.start()

        def told() -> list[str]:
            closing.set()
            thread.join()
            return messages

        yield told
        told()


class Camera:
    """Gives these pictures, one in 30 ms, and fails where there is None; then it gives the last one for ever."""

    def __init__(self, pictures: list[Any]) -> None:
        self.pictures = pictures
        self.opened = 0

    def open(self) -> Camera:
        self.opened += 1
        return self

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def read(self, image: Any = None) -> tuple[bool, Any]:
        time.sleep(0.03)
        picture = self.pictures.pop(0) if len(self.pictures) > 1 else self.pictures[0]
        return picture is not None, picture

    def release(self) -> None:
        pass


def test_a_day_of_a_kiosk(
    systemd: Callable[[], list[str]],
    with_models: Path,
    photos: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., Any],
) -> None:
    gallery = tmp_path / "kiosk.gallery"
    with FaceRecognizer.open(gallery) as recognizer:
        recognizer.enroll("ardern", photos["jacinda_ardern_2018"])
    empty = np.zeros((240, 320, 3), np.uint8)
    face = photos["jacinda_ardern_2022"]
    camera = Camera([empty, face, face, face, None, None, None, face])
    monkeypatch.setattr("edgeface.video.capture.opener", lambda place, **_: camera.open)
    monkeypatch.setenv("EDGEFACE_GALLERY", str(gallery))
    monkeypatch.setenv("EDGEFACE_CAMERA", "csi")
    ran = cli("watch", "--runtime", "auto", "--precision", "fp32", "--frames", "8")
    assert ran.code == 0, ran.err
    events = [json.loads(line)["event"] for line in ran.out.splitlines()]
    assert events.index("source_lost") < events.index("source_back")
    assert "arrived" in events
    assert camera.opened == 4
    told = systemd()
    assert told[0] == "READY=1\nSTATUS=detector on onnxruntime; embedder on onnxruntime"
    lost, back = told.index("STATUS=source lost"), told.index("STATUS=source back")
    assert told[lost:back].count("WATCHDOG=1") >= 3  # the camera is away for 0.25 + 0.5 + 1 s, asked for in 0.2 s each
    assert told[back:].count("WATCHDOG=1") >= 3
    assert told[-1] == "STOPPING=1"


@pytest.mark.parametrize("patient", [True, False])
def test_a_camera_that_gives_nothing_is_never_ready(
    systemd: Callable[[], list[str]],
    with_models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., Any],
    patient: bool,
) -> None:
    from edgeface.video.capture import CaptureSource

    gallery = tmp_path / "kiosk.gallery"
    FaceRecognizer.open(gallery).close()
    monkeypatch.setattr("edgeface.video.capture.opener", lambda place, **_: Camera([None]).open)
    original = CaptureSource.__init__
    monkeypatch.setattr(
        CaptureSource, "__init__", lambda self, *a, **k: original(self, *a, **{**k, "retry_for_s": 0.6})
    )
    if not patient:  # only a new process may help now
        monkeypatch.setattr("edgeface.tools.watch.PATIENCE_S", 0.0)
    assert cli("watch", "0", "--gallery", gallery).code == 0
    told = [message for message in systemd() if not message.startswith("STATUS=")]
    assert told.pop() == "STOPPING=1"
    assert set(told) == ({"EXTEND_TIMEOUT_USEC=2000"} if patient else set())


def frame(number: int) -> Frame:
    return Frame(np.zeros((64, 64, 3), np.uint8), number, number / 30, time.perf_counter())


@pytest.fixture
def failing(recognizer: FaceRecognizer, monkeypatch: pytest.MonkeyPatch) -> tuple[EnduringLoop, SimpleNamespace]:
    """A loop, and `state`: whether runs fail, whether the context is lost, how often engines were loaded again."""
    state = SimpleNamespace(fails=True, lost=None, reloads=0)

    def step(self: Any, given: Frame) -> FrameResult:
        if state.fails:
            raise InferenceError("CUDA call cuStreamSynchronize failed")
        return FrameResult(given.number, given.time_s, (), (), (), 1.0, {})

    def reload() -> None:
        state.reloads += 1
        state.lost = None

    engine = SimpleNamespace(current=state, manifest=recognizer.detector.engine.manifest)
    made = SimpleNamespace(
        detector=SimpleNamespace(
            engine=engine, max_side_px=640, min_score=0.5, max_overlap=0.3, max_faces=10, points="best"
        ),
        embedder=SimpleNamespace(engine=engine),
        liveness=None,
        reload=reload,
    )
    monkeypatch.setattr(RecognitionLoop, "step", step)
    monkeypatch.setattr("edgeface.video.loop.Detector", lambda *_, **__: None)
    loop = EnduringLoop(made)  # type: ignore[arg-type]  # what the loop uses of it
    return loop, state


def test_a_failed_frame_does_not_end_it_and_a_lost_context_is_reloaded(
    failing: tuple[EnduringLoop, SimpleNamespace], caplog: pytest.LogCaptureFixture
) -> None:
    loop, state = failing
    assert loop.step(frame(0)).number == -1  # `edgeface watch` tells systemd of frames from 0 on
    assert state.reloads == 0
    state.lost = "an illegal memory access was encountered"
    assert loop.step(frame(1)).number == -1
    assert state.reloads == 1
    state.fails = False
    assert loop.step(frame(2)).number == 2
    assert caplog.text.count("is lost: CUDA call") == 2
    assert "loading the engines again" in caplog.text


def test_a_frame_that_came_in_part_is_lost_and_a_wrong_camera_is_an_error(
    recognizer: FaceRecognizer, caplog: pytest.LogCaptureFixture
) -> None:
    whole, part = np.zeros((64, 64, 3), np.uint8), np.zeros((1, 700), np.uint8)
    with pytest.raises(InputError, match="700"):
        list(EnduringLoop(recognizer).run([part, whole]))
    loop = EnduringLoop(recognizer)
    assert [result.number for result in loop.run([whole, part, whole])] == [0, -1, 2]
    assert loop.lost == 1
    assert "frame 1 is lost: frame: expected" in caplog.text
    with pytest.raises(InputError, match="700"):
        list(loop.run([part] * endure.MOST_FAILURES))


def test_a_frame_lost_now_and_then_for_a_month_does_not_fill_the_log(
    failing: tuple[EnduringLoop, SimpleNamespace], caplog: pytest.LogCaptureFixture
) -> None:
    loop, state = failing
    for number in range(2000):
        state.fails = number % 2 == 0
        loop.step(frame(number))
    assert loop.lost == 1000
    assert len(caplog.records) == endure.LOGGED + 1000 // endure.LOGGED - 1
    assert "(1000 in all)" in caplog.text


def test_failures_without_end_end_it(
    failing: tuple[EnduringLoop, SimpleNamespace], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(endure, "MOST_FAILURES", 3)
    loop, state = failing
    with caplog.at_level(logging.CRITICAL):
        for number in range(2):
            loop.step(frame(number))
        state.fails = False
        loop.step(frame(2))  # one good frame, and the count begins anew
        state.fails = True
        for number in range(3, 5):
            loop.step(frame(number))
        with pytest.raises(InferenceError):
            loop.step(frame(5))


def test_the_unit_starts_a_command_that_is_there(cli: Callable[..., Any]) -> None:
    lines = UNIT.read_text().splitlines()
    settings = dict(
        pair.split("=", 1)
        for line in lines
        if line.startswith("Environment=")
        for pair in shlex.split(line.removeprefix("Environment="))
    )
    (start,) = (line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart="))
    program, *words = start.split()
    assert program == "/opt/edgeface/venv/bin/edgeface"
    for name, value in settings.items():  # as systemd does: ${NAME} stays one word, $NAME is cut at its blanks
        words = [word.replace(f"${{{name}}}", value) for word in words]
        words = [part for word in words for part in (value.split() if word == f"${name}" else [word])]
    assert not any("$" in word for word in words)
    assert words[-2:] == ["--fpir", "1e-3"]  # a service searches: the rate of one comparison would promise too much
    ran = cli(*words, "--gallery", "/nowhere/no.gallery", "0")
    assert ran.code == 1  # not 2: the options are understood
    assert "no such gallery" in ran.err
    ran = cli(*words, "--no-such-option", "--gallery", "/nowhere/no.gallery", "0")
    assert f"RestartPreventExitStatus={ran.code}" in lines
    assert {"EDGEFACE_GALLERY", "EDGEFACE_CAMERA", "EDGEFACE_HOME"} <= settings.keys()


#: What the drivers of Orin (nvgpu, host1x; JetPack 6) and of Thor and desktops call their nodes in /proc/devices.
#: nvgpu calls alloc_chrdev_region with dev_name(): its log says "nvgpu: 17000000.gpu".
GROUPS = ("17000000.gpu", "nvhost", "host1x-fence", "nvidia", "nvidia-uvm", "nvidia-caps", "drm", "video4linux")


def test_the_unit_lets_the_gpu_and_the_cameras_through() -> None:
    lines = UNIT.read_text().splitlines()
    allowed = [line.removeprefix("DeviceAllow=").split()[0] for line in lines if line.startswith("DeviceAllow=")]
    patterns = [each.removeprefix("char-") for each in allowed if each.startswith("char-")]
    shut = [group for group in GROUPS if not any(fnmatch.fnmatch(group, pattern) for pattern in patterns)]
    assert shut == []
    assert "/dev/nvmap" in allowed  # misc_register: its group is "misc", with the disk encryption's and others
    for group in ("misc", "mem", "input", "tty", "i2c", "rtc"):
        assert not any(fnmatch.fnmatch(group, pattern) for pattern in patterns)


def test_the_units_own_tmp_has_the_way_to_csi_cameras() -> None:
    lines = UNIT.read_text().splitlines()
    assert "PrivateTmp=yes" in lines
    assert "BindPaths=-/tmp/argus_socket" in lines  # the minus: a board without such a camera starts all the same
