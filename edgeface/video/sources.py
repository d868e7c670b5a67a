"""Where frames come from: cameras, streams, pipelines, files, folders and whatever a caller iterates over."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeface import kernels
from edgeface.errors import InputError
from edgeface.numbers import real
from edgeface.photos import SUFFIXES, find_photos, read_photo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from edgeface.types import ByteArray
    from edgeface.video.events import Event

FOLDER_FPS = 10.0  # the clock of a folder of pictures, which have no time of their own


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a stream.

    Attributes:
        image: uint8, (H, W, 3) BGR or what `pixel_format` says. A camera or file writes into it again after the
            next frame is read: copy it to keep it.
        number: counts from 0, frames that were dropped included.
        time_s: when it was captured, on the source's clock, rising from frame to frame.
        arrived_s: `time.perf_counter` when it came from the source: latencies count from here.
        pixel_format: ``bgr``, ``nv12`` and so on, as `edgeface.kernels.letterbox` takes them.
    """

    image: ByteArray
    number: int
    time_s: float
    arrived_s: float
    pixel_format: str = "bgr"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return kernels.frame_size(self.image, pixel_format=self.pixel_format)


class Source(Protocol):
    """Anything that gives frames. A source is read from one thread.

    Attributes:
        ended: no frame will come any more.
        notices: events of the source itself, such as a lost camera; the reader takes them out.
    """

    ended: bool
    notices: deque[Event]

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame; None when none came in time, or the source has ended."""
        ...

    def close(self) -> None:
        """Give the camera or file back. Closing twice is harmless."""
        ...


class IterableSource:
    """Frames from any Python iterable of arrays; every one of them is given.

    Args:
        frames: uint8 arrays in `pixel_format`, or ready `Frame` objects.
        fps: the clock: frame n is of time n / fps.
        pixel_format: of the arrays.
    """

    def __init__(self, frames: Iterable[Any], *, fps: float = 30.0, pixel_format: str = "bgr") -> None:
        fps = real(fps, "fps", "frames a second above 0", above=0.0, most=10_000)
        self.ended = False
        self.notices: deque[Event] = deque()
        self._frames: Iterator[Any] = iter(frames)
        self._fps = fps
        self._format = pixel_format
        self._number = -1

    def read(self, timeout_s: float) -> Frame | None:
        """See `Source.read`; waits for the iterable however long it takes."""
        if self.ended:
            return None
        try:
            given = next(self._frames)
        except StopIteration:
            self.ended = True
            return None
        self._number += 1
        if isinstance(given, Frame):
            return given
        if not isinstance(given, np.ndarray):
            raise InputError(f"frame {self._number}: expected an array, got {type(given).__name__}")
        return Frame(given, self._number, self._number / self._fps, time.perf_counter(), self._format)

    def close(self) -> None:
        self.ended = True


def open_source(
    place: Any,
    *,
    pixel_format: str = "bgr",
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    stall_after_s: float = 2.0,
    retry_for_s: float | None = None,
) -> Source:
    """A source for whatever `place` is.

    Args:
        place: a camera's index (0, or "0"); the path of a video file; an ``rtsp://`` or ``http://`` address; a
            GStreamer pipeline that ends in ``appsink`` (anything with " ! " in it); ``csi://0`` for a sensor at the
            camera connector of a Jetson; a folder of pictures, by their names' order; any iterable of arrays.
            Cameras and streams give the newest frame only, everything else gives every frame.
        pixel_format: of the frames of an iterable, a camera or a pipeline, ``bgr`` or ``nv12`` above all.
        fps: frames a second to ask a camera for; the clock of iterables (30) and folders (10).
        size: (height, width) to ask a camera for.
        stall_after_s: a live source that gives nothing for so long is reported.
        retry_for_s: how long a live source is opened again and again before it ends; None is for ever.

    Raises:
        InputError: no such file or folder, or an option is out of range. MissingDependencyError: no OpenCV.
    """
    from edgeface.video.capture import CaptureSource, csi_pipeline, opener

    if isinstance(place, (str, Path)):
        text = str(place)
        if text.isdecimal():
            place = int(text)
        elif text.startswith("csi://"):
            sensor = text[len("csi://") :] or "0"
            if not sensor.isdecimal():
                raise InputError(f"{text}: expected csi:// and the sensor's number, such as csi://0")
            place = csi_pipeline(int(sensor), size=size or (1080, 1920), fps=fps or 30.0, pixel_format=pixel_format)
        elif "://" not in text and " ! " not in text:
            return _from_disk(Path(text), fps)
    if isinstance(place, (int, str)) and not isinstance(place, bool):
        return CaptureSource(
            opener(place, size=size, fps=fps, pixel_format=pixel_format),
            name=f"camera {place}" if isinstance(place, int) else place,
            pixel_format=pixel_format,
            stall_after_s=stall_after_s,
            retry_for_s=retry_for_s,
        )
    if hasattr(place, "__iter__"):
        return IterableSource(place, fps=fps or 30.0, pixel_format=pixel_format)
    raise InputError(f"source: expected a camera, file, address, pipeline, folder or iterable, got {place!r}")


def _from_disk(path: Path, fps: float | None) -> Source:
    from edgeface.video.capture import FileSource

    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        photos = find_photos([path])
        return IterableSource((read_photo(photo) for photo in photos), fps=fps or FOLDER_FPS)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    return FileSource(path, fps=fps)
