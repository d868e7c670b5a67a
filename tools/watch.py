"""`edgeface watch`: who comes and goes in front of a camera."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeface.errors import EdgefaceError
from edgeface.tools.output import (
    decision_options,
    gallery_option,
    key_option,
    liveness_option,
    model_options,
    not_nan,
)
from edgeface.tools.session import open_recognizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface import FaceRecognizer
    from edgeface.tools.endure import EnduringLoop
    from edgeface.tools.systemd import ServiceManager
    from edgeface.tools.window import Window
    from edgeface.types import ByteArray
    from edgeface.video import Event, Frame, FrameResult, RecognitionLoop, Source
    from edgeface.video.page import WatchPage

#: A camera that is away for longer may be held up by what its driver keeps in this process, as Argus does after an
#: error: a service says no more that it lives, and systemd starts it anew, six times an hour.
PATIENCE_S = 600.0


@click.command("watch")
@click.argument("source", envvar="EDGEFACE_CAMERA")
@gallery_option
@key_option
@model_options
@decision_options
@liveness_option
@click.option("--require-live/--no-require-live", default=None,
              help="Give no name to a face that is not live. Default where --liveness is given.")
@click.option("--budget-ms", type=click.FloatRange(0, min_open=True), callback=not_nan, default=None,
              help="Milliseconds from a frame to its decisions; what does not fit is left out in a stated order.")
@click.option("--leave-after", "leave_after_s", type=click.FloatRange(0), callback=not_nan, default=2.0,
              show_default=True,
              help="Seconds without being seen after which a person has left.")
@click.option("--pixel-format", type=click.Choice(["bgr", "nv12"]), default="bgr", show_default=True,
              help="Of a camera's or pipeline's frames.")
@click.option("--frames", "most_frames", type=click.IntRange(1), default=None, help="Stop after so many frames.")
@click.option("--faces", "with_faces", is_flag=True, help="Also print a line for every frame with all faces.")
@click.option("--socket", "socket_path", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="Also serve the events on this Unix socket.")
@click.option("--mqtt", "mqtt_address", default=None, metavar="ADDRESS", envvar="EDGEFACE_MQTT",
              help="Also publish the events at this broker: mqtt://host:port/topic, or mqtts:// with TLS. With a "
              "password set EDGEFACE_MQTT instead: a command line is everybody's to read.")
@click.option("--page", "page_port", type=click.IntRange(0, 65535), default=None, metavar="PORT",
              help="Show the annotated pictures at http://127.0.0.1:PORT/, and metrics at /metrics.")
@click.option("--metrics", "metrics_port", type=click.IntRange(0, 65535), default=None, metavar="PORT",
              help="Serve metrics for Prometheus at http://127.0.0.1:PORT/metrics, and no pictures.")
@click.option("--window", "with_window", is_flag=True, help="Show the annotated pictures in a window; q ends.")
def command(
    source: str,
    gallery_path: Path,
    require_live: bool | None,
    budget_ms: float | None,
    leave_after_s: float,
    pixel_format: str,
    most_frames: int | None,
    with_faces: bool,
    socket_path: Path | None,
    mqtt_address: str | None,
    page_port: int | None,
    metrics_port: int | None,
    with_window: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Watch SOURCE and print an event a line, as JSON: who arrived, who left, strangers, a lost camera.

    SOURCE is a camera's number, csi, usb, a video file, a folder of pictures, an rtsp:// or http:// address, csi://0,
    or a GStreamer pipeline that ends in appsink; or set EDGEFACE_CAMERA. Ends with the source, or when interrupted.
    Started by systemd, it says when the first frame was processed, and that it lives: that frames are being processed,
    or that it waits for its camera.
    """
    from edgeface.tools.cameras import camera_place
    from edgeface.tools.endure import EnduringLoop
    from edgeface.tools.systemd import ServiceManager
    from edgeface.video import open_source

    if not gallery_path.exists():
        raise EdgefaceError(f"{gallery_path}: no such gallery; `edgeface enroll NAME PHOTO...` makes one")
    place = camera_place(source, pixel_format=pixel_format)
    if page_port is not None and metrics_port is not None:
        raise click.UsageError("--page serves the metrics too: give one of --page and --metrics")
    if require_live and options["liveness"] is None:
        raise click.UsageError("--require-live needs --liveness MODEL, your own: edgeface ships none")
    with ExitStack() as opened:
        recognizer = opened.enter_context(open_recognizer(gallery_path, options))
        loop = EnduringLoop(
            recognizer, budget_ms=budget_ms, require_live=require_live, leave_after_s=leave_after_s
        )
        _sinks(loop, opened, socket_path, mqtt_address)
        page = _page(loop, opened, page_port, metrics_port)
        service = ServiceManager()
        frames = Remembering(open_source(place, pixel_format=pixel_format), service)
        opened.callback(frames.close)
        if with_window:
            frames.window = _window(opened)
        printed = Printed(frames)
        loop.on(printed)
        _end_on_signals(frames, opened)
        loop.on(lambda event: _tell_of_source(service, event))
        opened.callback(service.stopping)
        for done, result in enumerate(_results(loop, frames), 1):
            service.frame_done(_runtimes(recognizer))
            if with_faces:
                click.echo(_line(result))
            _show(frames, result, page)
            if most_frames is not None and done >= most_frames:
                break
        if printed.unread is not None:
            raise printed.unread
        _summary(loop)


class Remembering:
    """A source that keeps its last frame, for those who want to see it, and ends when the window is closed. While its
    camera is away the service says that it waits, until only a new process may bring the camera back.
    """

    def __init__(self, source: Source, service: ServiceManager) -> None:
        self.source = source
        self.service = service
        self.last: Frame | None = None
        self.last_s = time.monotonic()
        self.notices = source.notices
        self.window: Window | None = None

    @property
    def ended(self) -> bool:
        return self.source.ended

    @ended.setter
    def ended(self, value: bool) -> None:
        self.source.ended = value

    def read(self, timeout_s: float) -> Frame | None:
        """See `Source.read`."""
        if self.window is not None and not self.window.wanted():  # here: the loop reads on where no frame comes
            self.ended = True
        frame = self.source.read(timeout_s)
        if frame is not None:
            self.last, self.last_s = frame, time.monotonic()
        elif getattr(self.source, "retrying", False) and time.monotonic() - self.last_s < PATIENCE_S:
            self.service.waiting()
        return frame

    def close(self) -> None:
        """See `Source.close`."""
        self.source.close()


class Printed:
    """Events on standard output. When nobody reads that any more the source ends: whoever started the process is gone,
    and the next one wants the camera.
    """

    def __init__(self, frames: Source) -> None:
        from edgeface.video.sinks import JsonLines

        self.unread: BrokenPipeError | None = None
        self._frames = frames
        self._lines = JsonLines(sys.stdout)

    def __call__(self, event: Event) -> None:
        if self.unread is None:
            try:
                self._lines(event)
            except BrokenPipeError as error:
                self.unread, self._frames.ended = error, True


def _page(loop: RecognitionLoop, opened: ExitStack, pictures: int | None, metrics: int | None) -> WatchPage | None:
    from edgeface.video.page import WatchPage

    port = metrics if pictures is None else pictures
    if port is None:
        return None
    page = WatchPage(loop, port=port, pictures=pictures is not None)
    opened.callback(page.close)
    click.echo(f"http://127.0.0.1:{page.port}{'/' if pictures is not None else '/metrics'}", err=True)
    return page


def _window(opened: ExitStack) -> Window:
    from edgeface.tools.window import Window

    window = Window()
    opened.callback(window.close)
    return window


def _show(frames: Remembering, result: FrameResult, page: WatchPage | None) -> None:
    """Show the annotated picture to everybody who looks; where nobody does, draw none."""
    from edgeface.tools.annotate import jpeg

    watched = page is not None and page.watchers
    if not watched and frames.window is None:
        return
    picture = _picture(frames, result)
    if frames.window is not None:
        frames.window.show(picture)
    if page is not None and watched:
        page.show(jpeg(picture))


def _picture(frames: Remembering, result: FrameResult) -> ByteArray:
    """The last frame with everybody's box and name."""
    import cv2
    import numpy as np

    from edgeface.tools.annotate import annotate

    assert frames.last is not None  # there was a result
    image = frames.last.image
    if frames.last.pixel_format == "nv12":
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_YUV2BGR_NV12), np.uint8)
    return annotate(image, result.faces)


def _runtimes(recognizer: FaceRecognizer) -> str:
    return "; ".join(f"{role} on {choice.runtime}" for role, choice in recognizer.runtimes.items())


def _tell_of_source(service: ServiceManager, event: Event) -> None:
    if event.kind.startswith("source_"):  # not the reason: it names the camera, which may be an address with a password
        service.status(event.kind.replace("_", " "))


def _results(loop: RecognitionLoop, frames: Source) -> Any:
    return (result for result in loop.run(frames) if result.number >= 0)


def _sinks(loop: RecognitionLoop, opened: ExitStack, socket_path: Path | None, mqtt: str | None) -> None:
    from edgeface.video.sinks import UnixSocket

    if socket_path is not None:
        served = UnixSocket(socket_path)
        opened.callback(served.close)
        loop.on(served)
    if mqtt is not None:
        from edgeface.video.mqtt import MqttSink

        broker = MqttSink(mqtt)
        opened.callback(broker.close)
        loop.on(broker)


def _end_on_signals(frames: Source, opened: ExitStack) -> None:
    """Let SIGINT and SIGTERM end the source, so that the loop tells who was there and everything is closed."""

    def stop(number: int, frame: object) -> None:
        frames.ended = True

    def restore(number: int, before: Callable[[int, Any], Any] | int | None) -> None:
        signal.signal(number, before)

    for number in (signal.SIGINT, signal.SIGTERM):
        opened.callback(restore, number, signal.signal(number, stop))


def _line(result: FrameResult) -> str:
    import json

    from edgeface.video.events import plain
    from edgeface.video.people import plain_face

    document = {
        "frame": result.number,
        "time_s": result.time_s,
        "latency_ms": result.latency_ms,
        "left_out": list(result.left_out),
        "faces": [plain_face(face) for face in result.faces],
    }
    return json.dumps(plain(document), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _summary(loop: EnduringLoop) -> None:
    """What was done, for a person. Raises EdgefaceError where every frame was lost."""
    counts, lost = loop.counts, f", {loop.lost} lost" if loop.lost else ""
    if counts.frames == 0 and loop.lost:
        raise EdgefaceError(
            f"every frame was lost ({loop.lost}): a network failed on each, as the log says; see `edgeface doctor`"
        )
    if counts.frames == 0:
        click.echo("0 frames: the source ended before the first", err=True)
        return
    p50, p99 = loop.budget.percentiles_ms(50, 99)
    looks = f", {counts.liveness_looks} looks for liveness" if loop.recognizer.liveness is not None else ""
    over = f", {loop.budget.frames_over} over the budget" if loop.budget.budget_ms is not None else ""
    click.echo(
        f"{counts.frames} frames{lost}, latency {p50:.1f} ms (median), {p99:.1f} ms (99th percentile){over}; "
        f"{counts.detections} detections, {counts.faces} faces, {counts.embeddings} embeddings{looks}",
        err=True,
    )
