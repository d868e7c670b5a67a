"""The window that `edgeface watch --window` opens, on a display in memory; what it says where it cannot open."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from edgeface.errors import ConfigurationError, MissingDependencyError
from edgeface.tools.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgeface.types import ByteArray

XVFB, XDOTOOL = shutil.which("Xvfb"), shutil.which("xdotool")
BLUE = (200, 60, 60)  # nothing else on the display is


@pytest.fixture
def gallery(with_models: Path, tmp_path: Path, cli: Callable[..., Any], photos: dict[str, ByteArray]) -> Path:
    path, photo = tmp_path / "w.gallery", tmp_path / "em.png"
    cv2.imwrite(str(photo), photos["emmanuel_macron_2014"])
    assert cli("enroll", "--gallery", path, "Emmanuel", photo).code == 0
    return path


@pytest.fixture
def film(tmp_path: Path, photos: dict[str, ByteArray]) -> Path:
    """A folder that shows one picture for minutes."""
    folder = tmp_path / "many"
    folder.mkdir()
    frame = np.full((480, 640, 3), BLUE, np.uint8)
    frame[40:440, 160:460] = cv2.resize(photos["emmanuel_macron_2025"], (300, 400))
    cv2.imwrite(str(folder / "00000.png"), frame)
    for number in range(1, 6000):
        (folder / f"{number:05d}.png").symlink_to(folder / "00000.png")
    return folder


@pytest.fixture
def display(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The name of a display without a screen, and the file that holds its pixels."""
    if XVFB is None:
        pytest.skip("Xvfb is not installed (apt-get install xvfb)")
    read, write = os.pipe()
    words = [XVFB, "-displayfd", str(write), "-screen", "0", "800x600x24", "-nolisten", "tcp", "-fbdir", str(tmp_path)]
    with subprocess.Popen(words, pass_fds=[write], stderr=subprocess.DEVNULL) as server:
        os.close(write)
        with os.fdopen(read) as said:
            number = said.readline().strip()
        assert number, "Xvfb did not start"
        yield f":{number}", tmp_path / "Xvfb_screen0"
        server.terminate()


def screen(file: Path) -> ByteArray:
    """What the display shows, (H, W, 3) BGR: an X window dump (XWDFile.h of the X.Org protocol headers)."""
    content = file.read_bytes()
    header = np.frombuffer(content[:100], ">u4")
    height, width, row_bytes = int(header[5]), int(header[4]), int(header[12])
    start = int(header[0]) + 12 * int(header[19])
    rows = np.frombuffer(content, np.uint8, row_bytes * height, start).reshape(height, row_bytes // 4, 4)
    shown: ByteArray = rows[:, :width, :3]
    return shown


def near(picture: ByteArray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - colour) < 25).all(axis=2).sum())


def shows(pixels: Path, process: subprocess.Popen[str]) -> bool:
    """Whether the frame comes within 20 seconds, and on it the green box and label of somebody who was recognised."""
    end = time.perf_counter() + 20
    while time.perf_counter() < end and process.poll() is None:
        if near(screen(pixels), BLUE) > 5000 and near(screen(pixels), (80, 190, 60)) > 200:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(XDOTOOL is None, reason="xdotool, which presses the key, is not installed")
def test_the_window_shows_who_is_there_and_q_ends(gallery: Path, film: Path, display: tuple[str, Path]) -> None:
    name, pixels = display
    environment = {**os.environ, "DISPLAY": name, "QT_QPA_PLATFORM": "xcb"}
    environment.pop("WAYLAND_DISPLAY", None)
    words = [sys.executable, "-m", "edgeface.tools", "watch", str(film), "--gallery", str(gallery), "--window"]
    told: list[object] = []
    # Of a hundred windows that OpenCV's Qt opens one stays black, of a busy machine ten: Qt misses that the window was
    # mapped. Ten lines of OpenCV do the same, with a window manager too.
    for _ in range(6):
        with subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                if not shows(pixels, process):
                    code = process.poll()
                    process.kill()
                    told.append((code, process.communicate()))
                    assert code is None, told  # it may be black, but nothing may end it
                    continue
                rows, columns = np.nonzero((np.abs(screen(pixels).astype(int) - BLUE) < 25).all(axis=2))
                where = (str(int(np.median(columns))), str(int(np.median(rows))))  # keys go there: no window manager
                subprocess.run([str(XDOTOOL), "mousemove", *where, "key", "q"], env=environment, check=True)
                out, err = process.communicate(timeout=30)
                break
            finally:
                process.kill()
    else:
        pytest.fail(f"no window showed a frame: {told}")
    assert process.returncode == 0, err
    assert '"event":"left"' in out  # the loop told who was there, as after an interrupt
    assert "latency" in err


def test_without_a_display_it_says_so_and_lives(
    cli: Callable[..., Any], gallery: Path, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(variable, raising=False)
    ran = cli("watch", film, "--gallery", gallery, "--window")
    assert (ran.code, ran.out) == (1, "")
    assert "no window can be opened on the display none" in ran.err
    assert "--page PORT" in ran.err


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("import os; os.abort()", "a trial ended with exit code -6"),
        ("import time; time.sleep(60)", "no answer in 0.5 s"),
        ("import sys; sys.exit('x' * 99999 + ' could not connect to display :7')", "could not connect to display :7"),
    ],
)
def test_a_trial_that_dies_hangs_or_says_much_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, does: str, told: str
) -> None:
    (tmp_path / "cv2.py").write_text(does)  # what the trial imports; this process has its own
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("edgeface.tools.window.TRY_S", 0.5 if "sleep" in does else 60.0)
    before = threading.active_count()
    with pytest.raises(ConfigurationError, match="no window can be opened on the display") as refused:
        Window()
    assert told in str(refused.value)
    assert len(str(refused.value)) < 500
    assert threading.active_count() <= before + 1  # a timer that was called off may be ending


def test_opencv_without_windows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "General\n  GUI:                           NONE\n")
    with pytest.raises(MissingDependencyError, match="install opencv-python in its place, or use --page PORT"):
        Window()


def test_no_opencv_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match="--window needs OpenCV"):
        Window()


@pytest.mark.parametrize(
    ("key", "visible", "sized", "stays"),
    [
        (-1, 1.0, 0.0, True),  # Qt
        (-1, 0.0, 0.0, False),  # Qt, closed
        (-1, -1.0, 0.0, True),  # GTK
        (-1, -1.0, -1.0, False),  # GTK, closed
        (ord("x"), 1.0, 0.0, True),
        (ord("q"), 1.0, 0.0, False),
        (27, 1.0, 0.0, False),
        (-1, None, 0.0, False),  # Qt, after its last window
    ],
)
def test_a_closed_window_and_a_key_end_it(
    monkeypatch: pytest.MonkeyPatch, key: int, visible: float | None, sized: float, stays: bool
) -> None:
    def property_of(title: str, what: int) -> float:
        if visible is None:
            raise cv2.error("NULL guiReceiver")
        return visible if what == cv2.WND_PROP_VISIBLE else sized

    monkeypatch.setattr(cv2, "waitKey", lambda ms: key)
    monkeypatch.setattr(cv2, "getWindowProperty", property_of)
    assert Window.__new__(Window).wanted() is stays  # no display is needed to ask
