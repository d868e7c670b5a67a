"""`edgeface watch` and `edgeface enroll --camera` in processes of their own, on streams from disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeface.types import ByteArray


@pytest.fixture
def clip(tmp_path: Path, photos: dict[str, ByteArray]) -> Path:
    """Two seconds of one person who moves a little, then one second of nobody."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (640, 480))
    portrait = cv2.resize(photos["emmanuel_macron_2025"], (300, 400))
    for step in range(60):
        frame = np.full((480, 640, 3), 100, np.uint8)
        if step < 40:
            frame[40:440, 100 + 3 * step : 400 + 3 * step] = portrait
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def gallery(with_models: Path, tmp_path: Path, cli: Callable[..., Any], photos: dict[str, ByteArray]) -> Path:
    path, photo = tmp_path / "w.gallery", tmp_path / "em.png"
    cv2.imwrite(str(photo), photos["emmanuel_macron_2014"])
    assert cli("enroll", "--gallery", path, "Emmanuel", photo).code == 0
    return path


def test_a_clip_becomes_events(cli: Callable[..., Any], clip: Path, gallery: Path) -> None:
    ran = cli("watch", clip, "--gallery", gallery, "--leave-after", "0.4")
    assert ran.code == 0, ran.err
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert [(event["event"], event.get("name")) for event in events] == [("arrived", "Emmanuel"), ("left", "Emmanuel")]
    assert events[0]["similarity"] > 0.4
    assert 2.2 < events[1]["time_s"] < 2.6
    assert "60 frames" in ran.err


def test_faces_and_what_was_left_out_are_printed_on_request(
    cli: Callable[..., Any], clip: Path, gallery: Path
) -> None:
    ran = cli("watch", clip, "--gallery", gallery, "--faces", "--frames", "20", "--budget-ms", "0.5")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    frames = [line for line in lines if "faces" in line]
    assert len(frames) == 20
    assert any("detection" in frame["left_out"] for frame in frames)
    assert frames[0]["faces"][0]["track_id"] == 1


def test_every_frame_lost_is_a_failure(
    cli: Callable[..., Any], clip: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeface import Detector
    from edgeface.errors import InferenceError

    def detect(*_: Any, **__: Any) -> None:
        raise InferenceError("the network gave NaN")

    monkeypatch.setattr(Detector, "detect", detect)
    ran = cli("watch", clip, "--gallery", gallery)
    assert ran.code == 1
    assert "every frame was lost (60)" in ran.err
    assert "nan ms" not in ran.err


def test_an_empty_camera_is_refused(cli: Callable[..., Any], gallery: Path) -> None:
    ran = cli("watch", "", "--gallery", gallery)
    assert ran.code == 1
    assert "the camera's name is empty" in ran.err


def test_a_fpir_can_be_asked_for(cli: Callable[..., Any], clip: Path, gallery: Path) -> None:
    assert cli("watch", clip, "--gallery", gallery, "--fpir", "1e-3", "--frames", "5").code == 0
    ran = cli("watch", clip, "--gallery", gallery, "--fpir", "1e-9", "--frames", "5")
    assert ran.code == 1
    assert "not supported" in ran.err


def test_what_cannot_be_watched_is_one_clear_line(cli: Callable[..., Any], tmp_path: Path, gallery: Path) -> None:
    ran = cli("watch", tmp_path / "no.avi", "--gallery", gallery)
    assert (ran.code, ran.out) == (1, "")
    assert "no such file" in ran.err
    assert "no such gallery" in cli("watch", "0", "--gallery", tmp_path / "none").err


def test_an_interrupted_watch_tells_who_was_there(
    with_models: Path, tmp_path: Path, gallery: Path, photos: dict[str, ByteArray]
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    photo = cv2.resize(photos["emmanuel_macron_2025"], (360, 480))
    for number in range(3000):
        (folder / f"{number:05d}.jpg").symlink_to(folder / "first.png")
    cv2.imwrite(str(folder / "first.png"), photo)
    with subprocess.Popen(
        [sys.executable, "-m", "edgeface.tools", "watch", str(folder), "--gallery", str(gallery)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "arrived"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["left"]


def test_a_watch_that_nobody_reads_ends(gallery: Path, clip: Path) -> None:
    """Whoever started it is gone: the camera must be free for the next one."""
    with subprocess.Popen(
        [sys.executable, "-m", "edgeface.tools", "watch", str(clip), "--gallery", str(gallery)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read().decode()
    assert process.returncode == 1
    assert told == ""


def test_enrolment_does_not_wait_for_ever_for_a_camera(
    cli: Callable[..., Any], with_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeface.tools.enroll_camera.PATIENCE_S", 0.5)
    ran = cli("enroll", "--gallery", tmp_path / "new.gallery", "Nobody", "--camera", "97")
    assert ran.code == 1
    assert "camera 97: cannot be opened" in ran.err
    assert "the camera gave no frame" in ran.err


def test_enrolment_in_front_of_a_camera(
    cli: Callable[..., Any], clip: Path, with_models: Path, tmp_path: Path
) -> None:
    place = ["--gallery", tmp_path / "new.gallery", "--camera", clip]
    ran = cli("enroll", *place, "--json", "--metadata", '{"badge": 7}', "Emmanuel")
    assert ran.code == 0, ran.err
    assert "good, 3 of 3" in ran.err
    assert (ran.document["person"]["templates"], ran.document["person"]["metadata"]) == (3, {"badge": 7})
    ran = cli("enroll", *place, "Far", "--min-size-px", "900")
    assert ran.code == 1
    assert "come closer" in ran.err
