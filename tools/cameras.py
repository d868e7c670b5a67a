"""Names of cameras, as people write them into a service's settings, and the sources that they stand for."""

from __future__ import annotations

import re
from pathlib import Path

from edgeface.errors import InputError

#: Decoded by the Jetson's own hardware (NVIDIA's "Accelerated GStreamer" guide). Size and rate are the camera's: change
#: them by giving the whole pipeline.
USB = "v4l2src device=/dev/video0 ! image/jpeg, width=1280, height=720, framerate=30/1 ! nvv4l2decoder mjpeg=1"
RTSP = "rtspsrc location={address} latency=100 ! rtph264depay ! h264parse ! nvv4l2decoder"
BGR = "nvvidconv ! video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR"
NV12 = "nvvidconv ! video/x-raw, format=NV12"
SINK = "appsink drop=true max-buffers=1 sync=false"


def camera_place(name: str, *, pixel_format: str = "bgr", hardware: bool | None = None) -> str:
    """What `open_source` takes for a camera's name.

    Args:
        name: ``csi``; ``usb`` (the first); ``/dev/video2`` or a link to one; an ``rtsp://`` address; anything else is
            `open_source`'s own.
        hardware: decode by the Jetson's hardware; None does so on a Jetson whose OpenCV has GStreamer.

    Raises:
        InputError: nothing, which as a path would be the working folder; an address with blanks or quotes, which would
            be more than an address in a pipeline.
    """
    if not name.strip():
        raise InputError(
            "the camera's name is empty: expected a number, csi, usb, a device, a file, an address or a pipeline; "
            "correct the argument, or EDGEFACE_CAMERA"
        )
    if name == "csi":
        return "csi://0"
    if name.startswith("/dev/"):
        number = re.fullmatch(r"/dev/video(\d+)", str(Path(name).resolve()))
        return number[1] if number else name
    if name != "usb" and not name.startswith("rtsp://"):
        return name
    if not (on_board() if hardware is None else hardware):
        return "0" if name == "usb" else name
    if re.search(r"[\s\"'\\!]", name):
        raise InputError(f"{name}: expected an rtsp:// address without blanks, quotes and exclamation marks")
    decoded = USB if name == "usb" else RTSP.format(address=name)
    return f"{decoded} ! {NV12 if pixel_format == 'nv12' else BGR} ! {SINK}"


def on_board() -> bool:
    """Whether this is a Jetson whose OpenCV takes GStreamer pipelines."""
    from edgeface.runtime.board import read_board

    if read_board() is None:
        return False
    try:
        import cv2
    except ImportError:
        return False  # whoever opens the camera says what is missing

    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))
