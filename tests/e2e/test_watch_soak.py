"""A short soak: memory stays, a camera that is lost comes back every time, every crash of a callback is reported."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from edgeface.tools.bench import soak

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_a_short_soak(with_models: Path) -> None:
    (row,) = soak.rows(frames=10_000, losses=30)
    pattern = r"(\d+) frames .* lost (\d+) and back (\d+) times; (\d+) callbacks crashed, (\d+) reported"
    said = re.search(pattern, row.correctness)
    assert said is not None, row.correctness
    frames, lost, back, crashed, reported = (int(number) for number in said.groups())
    assert frames > 9_900  # a frame that waits while the camera is lost may be replaced by a newer one
    assert back >= 30
    assert lost == back + 1  # and the end
    assert crashed == reported > 0
    assert row.extra is not None
    assert row.extra["growth_mb"] < 20
