"""The options of `load_engine`: checked before the model says on which runtime it runs, so on every machine alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeface.errors import InputError
from edgeface.frames import MAX_PX, MIN_PX
from edgeface.numbers import whole

if TYPE_CHECKING:
    from edgeface.runtime.frame import Size

WORDS = {
    "memory": ("auto", "copied", "mapped"),
    "prepare": ("auto", "cpu", "gpu"),
    "graphs": ("auto", "off", "on"),
}


def check_options(*, threads: int | None, workers: int, frame_size: Size, **words: str) -> None:
    """Refuse an option that is out of range. Raises InputError."""
    whole(1 if threads is None else threads, "threads", 1, 256)
    whole(workers, "workers", 1, 16)
    for name, word in words.items():
        if word not in WORDS[name]:
            raise InputError(f"{name}: expected one of {', '.join(WORDS[name])}, got {word!r}")
    sides = tuple(frame_size) if isinstance(frame_size, (tuple, list)) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and MIN_PX <= side <= MAX_PX for side in sides):
        raise InputError(
            f"frame_size: expected (height, width), whole numbers from {MIN_PX} to {MAX_PX} px, got {frame_size!r}"
        )
