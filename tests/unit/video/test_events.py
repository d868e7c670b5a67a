"""Events as the lines of JSON that other programs read."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeface.types import Liveness
from edgeface.video import Event, EventKind


@pytest.mark.parametrize("time_s", [1.23456, 99.99996, 12_345.67891, 98_765.43219, 8_765_432.12345])
def test_times_stay_fine_however_long_a_board_runs(time_s: float) -> None:
    assert json.loads(Event(EventKind.LEFT, time_s).to_json())["time_s"] == pytest.approx(time_s, abs=1e-3)


def test_events_are_one_line_of_json() -> None:
    before = datetime.now(timezone.utc)
    event = Event(EventKind.ARRIVED, 1.23456, 7, 3, 'new\n"line" 李', 1, float(np.float32(0.5)), float("inf"), None,
                  "match", {"box": np.array([1.0, 2.0])})  # fmt: skip
    assert before <= event.utc <= datetime.now(timezone.utc)
    line = event.to_json()
    assert "\n" not in line
    document: dict[str, Any] = json.loads(line)
    assert document["name"] == 'new\n"line" 李'
    assert document["margin"] is None
    assert document["details"] == {"box": [1.0, 2.0]}
    assert "quality" not in document
    moment = datetime(2026, 3, 1, 12, 30, 0, 999_999, timezone(timedelta(hours=1)))
    assert json.loads(Event(EventKind.LEFT, 1.0, utc=moment).to_json())["utc"] == "2026-03-01T11:30:00.999Z"


def test_the_page_on_events_names_every_kind_and_key() -> None:
    page = (Path(__file__).parents[3] / "docs" / "formats" / "events.md").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in re.findall(r"(?m)^\{.*\}$", page)]
    assert [line["event"] for line in lines] == [str(kind) for kind in EventKind]
    rows = set(re.findall(r"`([a-z_]+)`", " ".join(re.findall(r"(?m)^\| (`[^|]*) \|", page))))
    whole = Event(
        EventKind.ARRIVED, 1.0, 1, 1, "ada", 1, 0.5, 0.1, 0.9, "match", {"box": [1]}, Liveness.LIVE
    ).to_json()
    assert rows >= {str(kind) for kind in EventKind} | set(json.loads(whole))
    for line in lines:
        assert set(line) <= set(json.loads(whole))
