"""The page that `edgeface watch --page` serves, in a real browser; skipped where Chromium is not installed."""

from __future__ import annotations

import re
import shutil
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

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_the_annotated_picture(
    with_models: Path, tmp_path: Path, cli: Callable[..., Any], photos: dict[str, ByteArray]
) -> None:
    gallery, folder = tmp_path / "w.gallery", tmp_path / "many"
    cv2.imwrite(str(tmp_path / "em.png"), photos["emmanuel_macron_2014"])
    assert cli("enroll", "--gallery", gallery, "Emmanuel", tmp_path / "em.png").code == 0
    folder.mkdir()
    frame = np.full((480, 640, 3), (200, 60, 60), np.uint8)  # blue: nothing else on the page is
    frame[40:440, 160:460] = cv2.resize(photos["emmanuel_macron_2025"], (300, 400))
    cv2.imwrite(str(folder / "00000.png"), frame)
    for number in range(1, 6000):
        (folder / f"{number:05d}.png").symlink_to(folder / "00000.png")
    with subprocess.Popen(
        [sys.executable, "-m", "edgeface.tools", "watch", str(folder), "--gallery", str(gallery), "--page", "0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            address = process.stderr.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
            shot = tmp_path / "shot.png"
            seen = None
            end = time.perf_counter() + 60
            while seen is None and time.perf_counter() < end:
                subprocess.run(
                    [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
                     f"--user-data-dir={tmp_path}/profile", "--window-size=700,520",
                     "--virtual-time-budget=3000", f"--screenshot={shot}", address],
                    capture_output=True, timeout=60, check=False,
                )  # fmt: skip
                picture = cv2.imread(str(shot)) if shot.exists() else None
                if picture is not None and (np.abs(picture.astype(int) - (200, 60, 60)) < 30).all(axis=2).mean() > 0.1:
                    seen = picture
        finally:
            process.terminate()
            process.wait(30)
    assert seen is not None, "the browser never showed a frame"
    green = (np.abs(seen.astype(int) - (80, 190, 60)) < 25).all(axis=2)
    assert green.sum() > 200  # the box and the label of a person who was recognised
