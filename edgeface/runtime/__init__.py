"""Runtimes behind one protocol: `Engine`. `load_engine(path)` picks the one that the model file was made for."""

from __future__ import annotations

from edgeface.runtime.engine import Engine, load_engine

__all__ = ["Engine", "load_engine"]
