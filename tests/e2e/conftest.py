"""Fixtures for the tests of this folder: a folder of photographs, the made-up embedder, the made-up Jetson."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

pytest.register_assert_rewrite("fake_jetson", "build_bench")

from build_bench import bench, pixels  # noqa: E402 - after the rewriting is asked for
from fake_jetson import board  # noqa: E402

from edgeface.tools.demo import demo_photo  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["bench", "board", "pixels"]


@pytest.fixture
def folder(tmp_path: Path, with_models: Path) -> Path:
    """A good photograph, one without a face, a broken one and a text; with the models at hand."""
    place = tmp_path / "some photos"
    place.mkdir()
    shutil.copy(demo_photo("barack_obama_2005.jpg"), place / "barack.jpg")
    assert cv2.imwrite(str(place / "wall.png"), np.full((200, 300, 3), 128, np.uint8))
    (place / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a photograph")
    (place / "notes.txt").write_text("no picture")
    return place
