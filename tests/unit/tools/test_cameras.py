"""Names of cameras and the sources that they stand for, on a board and elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeface.errors import InputError
from edgeface.tools import cameras
from edgeface.tools.cameras import camera_place

SINK = "appsink drop=true max-buffers=1 sync=false"


@pytest.mark.parametrize("hardware", [True, False])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("csi", "csi://0"), ("csi://1", "csi://1"), ("0", "0"), ("3", "3"), ("/dev/video2", "2"),
        ("videotestsrc ! appsink", "videotestsrc ! appsink"), ("http://camera/stream", "http://camera/stream"),
        ("clip.mp4", "clip.mp4"), ("/dev/no-camera", "/dev/no-camera"),
    ],
)  # fmt: skip
def test_names_that_mean_the_same_everywhere(name: str, place: str, hardware: bool) -> None:
    assert camera_place(name, hardware=hardware) == place


def test_elsewhere_opencv_decodes() -> None:
    assert camera_place("usb", hardware=False) == "0"
    assert camera_place("rtsp://host/stream", hardware=False) == "rtsp://host/stream"


@pytest.mark.parametrize(("pixel_format", "caps"), [("bgr", "format=BGR"), ("nv12", "format=NV12")])
def test_a_board_decodes_in_hardware(pixel_format: str, caps: str) -> None:
    usb = camera_place("usb", hardware=True, pixel_format=pixel_format)
    rtsp = camera_place("rtsp://user:pw@host/stream?a=1&b=2", hardware=True, pixel_format=pixel_format)
    assert usb.startswith("v4l2src device=/dev/video0 ! ")
    assert rtsp.startswith("rtspsrc location=rtsp://user:pw@host/stream?a=1&b=2 latency=100 ! ")
    for made in (usb, rtsp):
        *_, converted, sink = made.split(" ! ")
        assert converted == f"video/x-raw, {caps}"
        assert sink == SINK
        assert "nvv4l2decoder" in made


@pytest.mark.parametrize("address", ["rtsp://h/a ! filesink location=/etc/x", 'rtsp://h/"a', "rtsp://h/a\nb", "rtsp://h/!"])
def test_an_address_is_no_pipeline(address: str) -> None:
    with pytest.raises(InputError, match="without blanks, quotes and exclamation marks"):
        camera_place(address, hardware=True)


@pytest.mark.parametrize("name", ["", "  "])
def test_no_name_is_not_the_working_folder(name: str) -> None:
    with pytest.raises(InputError, match=r"name is empty: .*EDGEFACE_CAMERA"):
        camera_place(name)


def test_enrolment_takes_the_same_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgeface.enrolment import EnrolmentLimits
    from edgeface.tools.enroll_camera import enroll_from_camera

    def opened(place: str) -> None:
        raise InputError(f"opened {place}")

    monkeypatch.setattr("edgeface.video.open_source", opened)
    with pytest.raises(InputError, match="opened csi://0"):
        enroll_from_camera("em", "csi", tmp_path / "g.gallery", {}, EnrolmentLimits())


def test_a_link_to_a_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "resolve", lambda self: Path("/dev/video7"))
    assert camera_place("/dev/v4l/by-id/usb-maker-video-index0") == "7"


def test_which_machine_decodes_in_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    monkeypatch.setattr("edgeface.runtime.board.read_board", lambda: None)
    assert not cameras.on_board()
    monkeypatch.setattr("edgeface.runtime.board.read_board", lambda: object())
    for built in (True, False):
        monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend, built=built: built)
        assert cameras.on_board() is built
        assert camera_place("rtsp://host/s").startswith("rtspsrc" if built else "rtsp://")
