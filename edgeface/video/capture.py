"""Frames that OpenCV captures: cameras, network streams and GStreamer pipelines in a thread of their own, and files."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeface.errors import InputError, MissingDependencyError, install_extra
from edgeface.video.events import Event, EventKind
from edgeface.video.sources import Frame

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeface.types import ByteArray

log = logging.getLogger(__name__)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 5.0  # between attempts to open, doubled each time
OPEN_TIMEOUT_MS = 5_000  # OpenCV's own is 30 s: an unplugged network camera would hold the thread for that long
HANG_AFTER_S = 40.0  # OpenCV gives GStreamer 30 s for opening and for reading: a call that lasts longer never returns


class Capture(Protocol):
    """What `cv2.VideoCapture` offers of what is used here; tests give their own."""

    def isOpened(self) -> bool: ...  # noqa: N802 - OpenCV's name

    def read(self, image: Any = None) -> tuple[bool, Any]: ...

    def release(self) -> None: ...


def csi_pipeline(sensor: int, *, size: tuple[int, int], fps: float, pixel_format: str = "nv12") -> str:
    """The GStreamer pipeline of a camera at a Jetson's connector: the image processor's own NV12, or BGR made of it."""
    if pixel_format not in ("nv12", "bgr"):
        raise InputError(f"pixel_format: a CSI camera gives nv12 or bgr, not {pixel_format!r}")
    height, width = size
    raw = f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM), width={width}, height={height}, "
    raw += f"framerate={round(fps)}/1, format=NV12"
    made = "video/x-raw, format=NV12" if pixel_format == "nv12" else "video/x-raw, format=BGRx ! videoconvert ! "
    if pixel_format == "bgr":
        made += "video/x-raw, format=BGR"
    return f"{raw} ! nvvidconv ! {made} ! appsink drop=true max-buffers=1 sync=false"


def opener(
    place: int | str, *, size: tuple[int, int] | None, fps: float | None, pixel_format: str
) -> Callable[[], Capture]:
    """A call that opens a camera by its index, an address or a pipeline. Raises MissingDependencyError."""
    try:
        import cv2
    except ImportError as error:
        raise MissingDependencyError(
            f"cameras and streams need OpenCV ({error}); {install_extra('host')}, or jetson/setup.sh on a Jetson"
        ) from error

    def open_it() -> Capture:
        if isinstance(place, str) and " ! " in place:
            return cv2.VideoCapture(place, cv2.CAP_GSTREAMER)
        if isinstance(place, str):
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, OPEN_TIMEOUT_MS]
            return cv2.VideoCapture(place, cv2.CAP_FFMPEG, limits)
        camera = cv2.VideoCapture(place)
        if size is not None:
            camera.set(cv2.CAP_PROP_FRAME_HEIGHT, size[0])
            camera.set(cv2.CAP_PROP_FRAME_WIDTH, size[1])
        if fps is not None:
            camera.set(cv2.CAP_PROP_FPS, fps)
        if pixel_format != "bgr":
            camera.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        return camera

    return open_it


class CaptureSource:
    """The newest frame of a live source. A thread captures without pause; what nobody read in time is dropped.

    A source that cannot be opened, fails or stalls is opened again, at growing intervals, and says so in `notices`.

    Args:
        open_it: opens the source; called in the thread.
        name: of the source, for messages.
        pixel_format: of its frames.
        stall_after_s: without a frame for so long, the source counts as stalled.
        retry_for_s: it ends after so long without a frame; None is never.
    """

    def __init__(
        self,
        open_it: Callable[[], Capture],
        *,
        name: str,
        pixel_format: str = "bgr",
        stall_after_s: float = 2.0,
        retry_for_s: float | None = None,
    ) -> None:
        if not stall_after_s > 0 or (retry_for_s is not None and not retry_for_s >= 0):
            raise InputError(f"stall_after_s, retry_for_s: expected seconds, got {stall_after_s!r}, {retry_for_s!r}")
        self.ended = False
        self.notices: deque[Event] = deque(maxlen=1000)
        self._open = open_it
        self._name = re.sub(r"://[^/\s]*@", "://***@", name)  # messages go to logs and brokers: no password there
        self._format = pixel_format
        self._stall_after_s = stall_after_s
        self._retry_for_s = retry_for_s
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._stop = threading.Event()
        self._number = -1
        self._last_s = self._called_s = time.perf_counter()
        self._down = False
        self._stalled = False
        # Three buffers: the reader's, the newest one, and the one that is being written.
        self._buffers: list[ByteArray | None] = [None, None, None]
        self._held = self._waiting = -1
        self._thread = threading.Thread(target=self._work, name="edgeface-capture", daemon=True)
        self._thread.start()

    def read(self, timeout_s: float) -> Frame | None:
        """See `Source.read`."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self.ended, timeout_s)
            frame, self._newest = self._newest, None
            if frame is not None:
                self._held, self._waiting = self._waiting, -1
        waited = time.perf_counter() - self._last_s
        if frame is None and not self.ended and not self._down and not self._stalled and waited > self._stall_after_s:
            self._stalled = True  # the thread hangs inside OpenCV, and cannot say so itself
            self._say(EventKind.SOURCE_STALLED, f"no frame for {waited:.1f} s")
        return frame

    @property
    def waiting(self) -> bool:
        """Whether a frame waits to be read."""
        return self._newest is not None

    @property
    def retrying(self) -> bool:
        """Whether the source is lost and is being opened again, at intervals. False where a call of its driver hangs:
        from that only a new process may help.
        """
        return self._down and not self.ended and time.perf_counter() - self._called_s < HANG_AFTER_S

    def close(self) -> None:
        """Stop the thread and release the camera. A thread that hangs inside a driver is left to end by itself."""
        self._stop.set()
        with self._changed:
            self.ended = True
            self._changed.notify_all()
        self._thread.join(timeout=2.0)
        if self._thread.is_alive():
            log.warning("%s: the capture thread does not end; its driver holds it", self._name)

    def _work(self) -> None:
        try:
            self._keep_open()
        finally:  # for whatever reason: nobody would give frames any more
            with self._changed:
                self.ended = True
                self._changed.notify_all()

    def _keep_open(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stop.is_set():
            capture, why = self._try_open()
            if capture is not None:
                opened_s = time.perf_counter()
                try:
                    why = self._capture(capture)
                finally:
                    self._release(capture)
                if self._last_s - opened_s >= wait_s:  # a cable that gives a frame now and then must not flood the log
                    wait_s = FIRST_WAIT_S
            if self._stop.is_set():
                return
            if not self._down:
                self._down = True
                self._say(EventKind.SOURCE_LOST, why)
            if self._retry_for_s is not None and time.perf_counter() - self._last_s > self._retry_for_s:
                return
            self._called_s = time.perf_counter()
            self._stop.wait(wait_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    def _try_open(self) -> tuple[Capture | None, str]:
        self._called_s = time.perf_counter()
        try:
            capture = self._open()
            if capture.isOpened():
                return capture, ""
        except Exception as error:  # noqa: BLE001 - a driver's error of any kind means: try again later, and say so
            return None, f"{self._name}: cannot be opened: {error}"
        self._release(capture)
        return None, f"{self._name}: cannot be opened"

    def _release(self, capture: Capture) -> None:
        self._called_s = time.perf_counter()
        try:
            capture.release()
        except Exception as error:  # noqa: BLE001 - as above: it is opened again all the same
            log.warning("%s: cannot be released: %s", self._name, error)

    def _capture(self, capture: Capture) -> str:
        """Capture until the source fails; returns why it did."""
        while not self._stop.is_set():
            slot = self._free_slot()
            self._called_s = time.perf_counter()
            try:
                good, image = capture.read(self._buffers[slot])
            except Exception as error:  # noqa: BLE001 - as above
                return f"{self._name}: cannot be read: {error}"
            now = time.perf_counter()
            if not good or image is None:
                return f"{self._name}: gave no frame"
            self._number += 1
            frame = Frame(np.asarray(image), self._number, now, now, self._format)
            self._buffers[slot] = frame.image
            self._last_s = now
            if self._down or self._stalled:
                self._down = self._stalled = False
                self._say(EventKind.SOURCE_BACK, f"{self._name}: gives frames again")
            with self._changed:
                self._newest, self._waiting = frame, slot
                self._changed.notify_all()
        return "closed"

    def _free_slot(self) -> int:
        """A buffer that is neither in the reader's hands nor waiting for it."""
        with self._changed:
            return next(slot for slot in range(len(self._buffers)) if slot not in (self._held, self._waiting))

    def _say(self, kind: EventKind, why: str) -> None:
        log.warning("%s: %s", kind, why)
        self.notices.append(Event(kind, time.perf_counter(), self._number, reason=why))


class FileSource:
    """Every frame of a video file, with the file's own times.

    Raises:
        InputError: OpenCV cannot read the file. MissingDependencyError: no OpenCV.
    """

    def __init__(self, path: Path, *, fps: float | None = None) -> None:
        try:
            import cv2
        except ImportError as error:
            raise MissingDependencyError(f"video files need OpenCV ({error}); {install_extra('host')}") from error
        self.ended = False
        self.notices: deque[Event] = deque()
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise InputError(f"{path}: not a video that OpenCV {cv2.__version__} can read")
        rate = fps or self._capture.get(cv2.CAP_PROP_FPS)
        self._lock = threading.Lock()  # whoever closes it from another thread must not take the file out of a read
        self._fps = rate if 0 < rate < 10_000 else 30.0  # some containers state nonsense
        self._number = -1
        self._buffer: ByteArray | None = None

    def read(self, timeout_s: float) -> Frame | None:
        """See `Source.read`."""
        with self._lock:
            good, image = (False, None) if self.ended else self._capture.read(self._buffer)
        if not good:
            self.close()
            return None
        self._number += 1
        self._buffer = np.asarray(image, np.uint8)
        return Frame(self._buffer, self._number, self._number / self._fps, time.perf_counter())

    def close(self) -> None:
        self.ended = True
        with self._lock:
            self._capture.release()
