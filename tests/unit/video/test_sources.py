"""Where frames come from: every kind, the newest frame only where it is live, and what happens when it dies."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from edgeface.errors import InputError
from edgeface.video import EventKind, Frame, open_source
from edgeface.video.capture import CaptureSource, FileSource, csi_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class FakeCamera:
    """Gives frames whose level counts up; fails when told."""

    def __init__(self, count: int | None = None, every_s: float = 0.001, opens: bool = True) -> None:
        self.count, self.every_s, self.opens, self.released = count, every_s, opens, False
        self.given = 0

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.opens

    def read(self, image: Any = None) -> tuple[bool, Any]:
        time.sleep(self.every_s)
        if self.count is not None and self.given >= self.count:
            return False, None
        self.given += 1
        target = np.empty((48, 64, 3), np.uint8) if image is None else image
        target[:] = self.given % 256
        return True, target

    def release(self) -> None:
        self.released = True


def wait_for(done: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.perf_counter() + seconds
    while not done():
        assert time.perf_counter() < end, "it did not happen in time"
        time.sleep(0.005)


def test_an_iterable_gives_every_frame_with_a_clock() -> None:
    source = open_source((np.full((32, 32, 3), level, np.uint8) for level in range(3)), fps=10)
    frames = [source.read(0.1) for _ in range(3)]
    assert [frame.number for frame in frames if frame] == [0, 1, 2]
    assert [frame.time_s for frame in frames if frame] == pytest.approx([0, 0.1, 0.2])
    assert source.read(0.1) is None
    assert source.ended


def test_frames_of_a_camera_format_keep_it() -> None:
    source = open_source([np.zeros((72, 64), np.uint8)], pixel_format="nv12")
    frame = source.read(0.1)
    assert frame is not None
    assert (frame.pixel_format, frame.size) == ("nv12", (48, 64))


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name, level in (("b.png", 20), ("a.png", 10), ("c.png", 30)):
        cv2.imwrite(str(tmp_path / name), np.full((40, 40, 3), level, np.uint8))
    source = open_source(tmp_path)
    levels = []
    while (frame := source.read(0.1)) is not None:
        levels.append(int(frame.image[0, 0, 0]))
    assert levels == [10, 20, 30]


def test_a_video_file_gives_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for level in range(0, 250, 10):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    source = open_source(path)
    frames = []
    while (frame := source.read(0.1)) is not None:
        frames.append((frame.number, round(frame.time_s * 20), int(frame.image.mean())))
    assert [(number, tick) for number, tick, _ in frames] == [(index, index) for index in range(25)]
    assert all(abs(level - 10 * number) < 6 for number, _, level in frames)


def test_a_file_that_is_closed_while_it_is_read_is_released_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV ends the process otherwise."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    source = FileSource(path)
    reading, order = threading.Event(), []

    class Slow(FakeCamera):
        def read(self, image: Any = None) -> tuple[bool, Any]:
            reading.set()
            time.sleep(0.1)
            order.append("read")
            return super().read(image)

        def release(self) -> None:
            order.append("released")

    monkeypatch.setattr(source, "_capture", Slow())
    thread = threading.Thread(target=lambda: source.read(0.1))
    thread.start()
    assert reading.wait(5.0)
    source.close()
    thread.join()
    assert order == ["read", "released"]
    assert source.read(0.1) is None


@pytest.mark.parametrize("place", ["no/such/file.avi", "csi://front", 3.5, None])
def test_what_is_no_source_is_refused(place: Any) -> None:
    with pytest.raises(InputError):
        open_source(place)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_text("not a video")
    with pytest.raises(InputError, match=r"clip\.mp4"):
        open_source(tmp_path / "clip.mp4")


def test_only_the_newest_frame_of_a_camera_is_kept_and_not_overwritten_while_held() -> None:
    camera = FakeCamera()
    source = CaptureSource(lambda: camera, name="fake")
    try:
        first = source.read(1.0)
        assert first is not None
        level = int(first.image[0, 0, 0])
        wait_for(lambda: camera.given > level + 20)
        assert (first.image == level).all()  # the reader still holds it
        second = source.read(1.0)
        assert second is not None
        assert second.number >= first.number + 10
        assert second.time_s > first.time_s
    finally:
        source.close()
    assert camera.released


def test_a_camera_that_is_lost_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeface.video.capture.FIRST_WAIT_S", 0.01)
    cameras = [FakeCamera(5), FakeCamera(opens=False), FakeCamera(5), FakeCamera()]
    queue = list(cameras)
    source = CaptureSource(lambda: queue.pop(0), name="fake")
    try:
        wait_for(lambda: sum(event.kind is EventKind.SOURCE_BACK for event in source.notices) == 2)
        kinds = [event.kind for event in source.notices]
        assert kinds == [EventKind.SOURCE_LOST, EventKind.SOURCE_BACK] * 2
        wait_for(lambda: cameras[3].given > 3)
        assert all(camera.released for camera in cameras[:3])
    finally:
        source.close()


def test_an_error_while_opening_is_reported_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeface.video.capture.FIRST_WAIT_S", 0.01)
    tries: list[int] = []

    def open_it() -> FakeCamera:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("the driver is busy")
        return FakeCamera()

    source = CaptureSource(open_it, name="fake")
    try:
        assert source.read(5.0) is not None
        assert "the driver is busy" in source.notices[0].reason
    finally:
        source.close()


def test_a_stall_is_reported_once() -> None:
    gate = threading.Event()

    class Hanging(FakeCamera):
        def read(self, image: Any = None) -> tuple[bool, Any]:
            if self.given >= 2:
                gate.wait(5.0)
            return super().read(image)

    source = CaptureSource(lambda: Hanging(), name="fake", stall_after_s=0.05)
    try:
        wait_for(lambda: source.read(0.02) is None and bool(source.notices))
        for _ in range(5):
            source.read(0.02)
        assert [event.kind for event in source.notices] == [EventKind.SOURCE_STALLED]
        gate.set()
        wait_for(lambda: source.notices[-1].kind is EventKind.SOURCE_BACK)
    finally:
        gate.set()
        source.close()


def test_a_source_that_stays_away_ends_when_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeface.video.capture.FIRST_WAIT_S", 0.01)
    source = CaptureSource(lambda: FakeCamera(opens=False), name="fake", retry_for_s=0.1)
    wait_for(lambda: source.ended)
    assert source.read(0.1) is None
    source.close()


def test_a_lost_camera_is_waited_for_and_a_driver_that_hangs_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeface.video.capture.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("edgeface.video.capture.LONGEST_WAIT_S", 0.01)
    monkeypatch.setattr("edgeface.video.capture.HANG_AFTER_S", 0.3)
    gate, hangs = threading.Event(), threading.Event()
    cameras = [FakeCamera(3)]

    def open_it() -> FakeCamera:
        if hangs.is_set():
            gate.wait(10.0)
        return cameras.pop() if cameras else FakeCamera(opens=False)

    source = CaptureSource(open_it, name="fake")
    try:
        assert not source.retrying
        wait_for(lambda: source.retrying)
        time.sleep(0.5)  # longer than a hang, but no call of the driver is
        assert source.retrying
        hangs.set()
        wait_for(lambda: not source.retrying)
        time.sleep(0.1)
        assert not source.retrying
        hangs.clear()
        gate.set()
        wait_for(lambda: source.retrying)
    finally:
        gate.set()
        source.close()
    assert not source.retrying


def test_a_read_that_hangs_after_a_loss_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeface.video.capture.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("edgeface.video.capture.HANG_AFTER_S", 0.2)
    gate = threading.Event()

    class Hanging(FakeCamera):
        def read(self, image: Any = None) -> tuple[bool, Any]:
            gate.wait(10.0)
            return False, None

    cameras = [Hanging(), FakeCamera(3)]
    source = CaptureSource(lambda: cameras.pop(), name="fake")
    try:
        wait_for(lambda: len(cameras) == 0 and source.retrying)
        wait_for(lambda: not source.retrying)
        assert not source.ended
    finally:
        gate.set()
        source.close()


def test_a_source_whose_thread_dies_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", died.append)

    def broken(self: CaptureSource) -> int:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(CaptureSource, "_free_slot", broken)
    source = CaptureSource(FakeCamera, name="fake")
    wait_for(lambda: source.ended)
    assert not source.retrying
    assert source.read(0.1) is None
    source.close()
    assert [str(each.exc_value) for each in died] == ["a fault of ours"]


@pytest.mark.parametrize("call", ["isOpened", "release"])
def test_a_driver_that_fails_in_any_call_is_opened_again(call: str) -> None:
    opened: list[FakeCamera] = []

    def open_it() -> FakeCamera:
        opened.append(FakeCamera(2))
        if len(opened) == 1:
            setattr(opened[0], call, lambda: int("a driver's error"))
        return opened[-1]

    source = CaptureSource(open_it, name="fake")
    try:
        wait_for(lambda: len(opened) >= 2)
        assert source.notices.popleft().kind == "source_lost"
        assert not source.ended
    finally:
        source.close()


def test_a_camera_that_gives_a_frame_now_and_then_is_opened_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeface.video.capture.FIRST_WAIT_S", 0.05)
    opened: list[float] = []

    def open_it() -> FakeCamera:
        opened.append(time.perf_counter())
        return FakeCamera(1)

    source = CaptureSource(open_it, name="fake")
    try:
        wait_for(lambda: len(opened) == 5)
    finally:
        source.close()
    assert opened[4] - opened[0] > 0.05 + 0.1 + 0.2 + 0.4


@pytest.mark.parametrize("name", ["rtsp://ada:s3cr@t@cam/live", "rtspsrc location=rtsp://ada:s3cr@t@cam/live ! sink"])
def test_no_password_in_what_is_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    source = CaptureSource(lambda: FakeCamera(opens=False), name=name)
    try:
        wait_for(lambda: bool(source.notices))
        told = source.notices[0].reason + caplog.text
        assert "rtsp://***@cam/live" in told
        assert "s3cr" not in told
        assert "ada" not in told
    finally:
        source.close()


def test_csi_pipelines_ask_for_what_the_kernels_take() -> None:
    nv12 = csi_pipeline(1, size=(1080, 1920), fps=30, pixel_format="nv12")
    assert "sensor-id=1" in nv12
    assert nv12.endswith("appsink drop=true max-buffers=1 sync=false")
    assert "video/x-raw, format=NV12 !" in nv12
    assert "format=BGR !" in csi_pipeline(0, size=(720, 1280), fps=30, pixel_format="bgr")
    with pytest.raises(InputError):
        csi_pipeline(0, size=(720, 1280), fps=30, pixel_format="gray")


def test_frames_know_their_size() -> None:
    assert Frame(np.zeros((48, 64, 3), np.uint8), 0, 0.0, 0.0).size == (48, 64)
