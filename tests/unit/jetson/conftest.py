"""A made-up Jetson for `jetson/accept.py`."""

from __future__ import annotations

from fake_jetson import engines, jetson, models

__all__ = ["engines", "jetson", "models"]
