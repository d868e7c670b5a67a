"""The service of `edgeface.service`: recognises people before a camera and prints one line of JSON a person and frame.

Settings come from the environment: EDGEFACE_GALLERY, EDGEFACE_CAMERA (a number, an address or a GStreamer pipeline) and
EDGEFACE_RUNTIME (``auto`` or ``tensorrt``). It tells systemd that it is ready and, after every frame, that it lives; a
camera that is lost is opened again; a lost GPU context is reloaded, and where even that fails the process ends, for
systemd to start it anew.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from edgeface import FaceRecognizer
from edgeface.errors import EdgefaceError, InferenceError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("edgeface.kiosk")

CAMERA_PAUSE_S = 1.0
#: Cameras as GStreamer pipelines: width, height and frames a second are the camera's to change.
PIPELINES = {
    "csi": "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1 ! "
    "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
    "appsink drop=true max-buffers=1 sync=false",
    "usb": "v4l2src device=/dev/video0 ! image/jpeg,width=1280,height=720,framerate=30/1 ! nvv4l2decoder mjpeg=1 ! "
    "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
    "appsink drop=true max-buffers=1 sync=false",
    "rtsp": "rtspsrc location={address} latency=100 ! rtph264depay ! h264parse ! nvv4l2decoder ! nvvidconv ! "
    "video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false",
}


def notify(message: str) -> None:
    """Tell systemd, where it listens (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(address)
        channel.sendall(message.encode())


def open_camera(name: str) -> Any:
    """The camera of that name: ``csi``, ``usb``, a number, an address or a pipeline."""
    import cv2

    if name.startswith("rtsp://"):
        return cv2.VideoCapture(PIPELINES["rtsp"].format(address=name), cv2.CAP_GSTREAMER)
    if name in PIPELINES or "!" in name:
        return cv2.VideoCapture(PIPELINES.get(name, name), cv2.CAP_GSTREAMER)
    return cv2.VideoCapture(int(name) if name.isdigit() else name)


def watch(recognizer: FaceRecognizer, cameras: Callable[[], Any], stop: threading.Event) -> None:
    """Recognise frames until told to stop."""
    camera = cameras()
    while not stop.is_set():
        read, frame = camera.read()
        notify("WATCHDOG=1")
        if not read:
            logger.warning("the camera gives no frame; opening it again in %g s", CAMERA_PAUSE_S)
            camera.release()
            stop.wait(CAMERA_PAUSE_S)
            camera = cameras()
            continue
        for person in _recognize(recognizer, frame):
            line = {
                "name": person.name,
                "decision": str(person.decision),
                "similarity": round(person.similarity, 4),
                "box": [round(float(side), 1) for side in person.box],
            }
            print(json.dumps(line), flush=True)
    camera.release()


def _recognize(recognizer: FaceRecognizer, frame: Any) -> list[Any]:
    try:
        return list(recognizer.recognize(frame))
    except InferenceError as error:
        logger.error("a frame is lost: %s", error)
        engines = (recognizer.detector.engine, recognizer.embedder.engine)
        if any(getattr(getattr(engine, "current", None), "lost", None) for engine in engines):
            notify("STATUS=the GPU's context was lost; loading the engines again")
            recognizer.reload()
        return []


def main() -> int:
    """Run until SIGTERM. Exit code 1 on an error that only a new start may mend."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    gallery, camera = os.environ.get("EDGEFACE_GALLERY"), os.environ.get("EDGEFACE_CAMERA", "0")
    if not gallery:
        print("edgeface: set EDGEFACE_GALLERY to the path of the gallery", file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        with FaceRecognizer.open(gallery, runtime=os.environ.get("EDGEFACE_RUNTIME", "auto")) as recognizer:
            chosen = "; ".join(f"{role} on {choice.runtime}" for role, choice in recognizer.runtimes.items())
            notify(f"READY=1\nSTATUS={chosen}")
            watch(recognizer, lambda: open_camera(camera), stop)
            notify("STOPPING=1")
    except EdgefaceError as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
