"""A window for a person to look at what `edgeface watch` sees."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING

from edgeface.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeface.types import ByteArray

TITLE = "edgeface (q ends)"
END_KEYS = (ord("q"), ord("Q"), 27)  # 27 is Escape
TRY_S = 60.0  # a process that opens a window takes one second, on a busy board some more


class Window:
    """Shows pictures on this machine's display. To be made, used and closed in the main thread, as OpenCV asks.

    Raises:
        MissingDependencyError: there is no OpenCV, or it was built without windows. ConfigurationError: there is
            no display.
    """

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise MissingDependencyError(
                f"--window needs OpenCV ({error}); install opencv-python, or use JetPack's own OpenCV on a Jetson"
            ) from error

        if re.search(r"\bGUI:\s+NONE\b", cv2.getBuildInformation()):
            raise MissingDependencyError(
                f"--window: this OpenCV ({cv2.__version__}) was built without windows, as opencv-python-headless is; "
                "install opencv-python in its place, or use --page PORT"
            )
        with _tried_elsewhere():
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        self._shown = False

    def show(self, picture: ByteArray) -> None:
        """Show a picture, (H, W, 3) uint8 BGR."""
        import cv2

        if not self._shown:
            cv2.resizeWindow(TITLE, picture.shape[1], picture.shape[0])
            self._shown = True
        cv2.imshow(TITLE, picture)

    def wanted(self) -> bool:
        """Let the window work, and say whether it shall stay: false after q, Escape, or when it was closed."""
        import cv2

        if cv2.waitKey(1) in END_KEYS:
            return False
        try:
            # Of a closed window Qt says that it is not visible. GTK, which JetPack's OpenCV has, never knows that (-1),
            # and says -1 of the size instead.
            visible = cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE)
            sized = cv2.getWindowProperty(TITLE, cv2.WND_PROP_AUTOSIZE)
        except cv2.error:  # Qt's answer once its last window is closed
            return False
        return visible != 0 and sized >= 0

    def close(self) -> None:
        """Take the window away. Closing twice is harmless."""
        import cv2

        with contextlib.suppress(cv2.error):  # Qt's answer where it was closed already
            cv2.destroyAllWindows()


@contextlib.contextmanager
def _tried_elsewhere() -> Iterator[None]:
    """Open a window in another process first: without a display Qt ends the whole process, and no error comes. It stays
    until ours is open: an X server starts anew when its last client leaves, and refuses those who come meanwhile.
    """
    code = "import cv2; cv2.namedWindow('edgeface'); cv2.waitKey(1); print('open', flush=True); input()"
    words = [sys.executable, "-c", code]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said) as tried,
    ):
        assert tried.stdout is not None  # asked for
        late = threading.Timer(TRY_S, tried.kill)
        late.start()
        try:
            if tried.stdout.readline().strip() != b"open":
                if tried.wait() == -signal.SIGKILL:
                    raise _not_opened(f"no answer in {TRY_S:g} s")
                said.seek(0)
                text = said.read().decode(errors="replace").strip()
                raise _not_opened(text or f"a trial ended with exit code {tried.returncode}")
            late.cancel()
            yield
        finally:
            late.cancel()
            tried.kill()


def _not_opened(said: str) -> ConfigurationError:
    display = os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY") or "none"
    reason = next((line for line in said.splitlines() if "display" in line.lower()), said).strip()[-200:]
    return ConfigurationError(
        f"--window: no window can be opened on the display {display}: {reason}; set DISPLAY to one that this user "
        "may use, or use --page PORT"
    )
