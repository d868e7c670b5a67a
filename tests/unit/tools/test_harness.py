"""The benchmark harness: what it times, how it compares, and what a row says when the other side is lacking."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from edgeface.tools.bench import harness

if TYPE_CHECKING:
    from collections.abc import Callable


def waiting(milliseconds: float) -> Callable[[], None]:
    return lambda: time.sleep(milliseconds / 1e3)


def test_both_sides_are_timed_and_compared() -> None:
    row = harness.measure("wait", waiting(2), waiting(6), peer_name="slow", target=2.0, correctness="same", seconds=0.2)
    assert 2 <= row.ours_ms < 6
    assert row.peer_ms is not None
    assert row.peer_ms >= 6
    assert row.ratio is not None
    assert 1.5 < row.ratio < 4  # peer over ours: above 1 where ours is faster
    assert (row.name, row.peer, row.target, row.correctness) == ("wait", "slow", 2.0, "same")


def test_sides_alternate_and_fast_calls_are_repeated() -> None:
    calls: list[str] = []
    harness.measure("append", lambda: calls.append("a"), lambda: calls.append("b"), seconds=0.05, rounds=6)
    text = "".join(calls)
    blocks = [text[0]]
    for letter in text:
        if letter != blocks[-1]:
            blocks.append(letter)
    assert "".join(blocks).endswith("ab" * 6)
    assert len(calls) > 1000  # a call of a microsecond is timed many at once


def test_at_least_five_pairs_whatever_the_time() -> None:
    calls: list[int] = []

    def slow() -> None:
        calls.append(1)
        time.sleep(0.005)

    harness.measure("slow", slow, seconds=0.0)
    assert len(calls) == 1 + 3 + 5  # first use, warming up, five measured


def test_without_a_peer_there_is_no_ratio() -> None:
    row = harness.measure("alone", waiting(1), peer_name="lacking: dlib", seconds=0.02)
    assert (row.peer, row.peer_ms, row.ratio) == ("lacking: dlib", None, None)
    assert set(row.as_dict()) >= {"name", "ours_ms", "peer", "peer_ms", "ratio", "target", "correctness"}


def test_the_machine_is_described() -> None:
    facts = harness.machine_facts()
    assert facts["cores_used"] == len(os.sched_getaffinity(0))
    assert {"processor", "architecture", "memory_gb", "python", "numpy", "onnxruntime", "edgeface"} <= set(facts)
    assert facts["numpy"]
    json.dumps(facts, allow_nan=False)


def test_pinning_keeps_to_some_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: kept.append(cores))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    harness.pin(1)
    assert kept == [sorted(os.sched_getaffinity(0))[:1]]
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_peers_run_through_the_command_line(with_models: Any, edgeface: Any) -> None:
    ran = edgeface("bench", "peers", "--json", "--seconds", "0.5")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert set(found) == {"machine", "rows"}
    opencv = found["rows"][0]
    assert set(opencv) >= {"name", "ours_ms", "peer", "peer_ms", "ratio", "target", "correctness"}
    assert opencv["peer"].startswith("OpenCV 4.")
    assert opencv["ours_ms"] > 0
    assert opencv["ratio"] > 0
    # The same networks on the same photograph: the embeddings agree.
    assert float(opencv["correctness"].split()[-1]) > 0.99
