"""Fixtures of the made-up embedder and of the made-up Jetson for the tests of this folder."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("fake_jetson", "build_bench")

from build_bench import bench, pixels  # noqa: E402 - after the rewriting is asked for
from fake_jetson import board  # noqa: E402

__all__ = ["bench", "board", "pixels"]
