"""The made-up Jetson for the tests of this folder."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("fake_jetson")

from fake_jetson import batch, engines, jetson, models  # noqa: E402 - after the rewriting is asked for

__all__ = ["batch", "engines", "jetson", "models"]
