"""What commands print: JSON that strict parsers read, tables that a pipe does not cut."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface import Decision
from edgeface.tools.build import _stages
from edgeface.tools.output import print_json, print_table, progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    Printed = Callable[[object], Any]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    def parse(document: object) -> Any:
        print_json(document)
        return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)

    return parse


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]], np.uint8), [[1, 2], [3, 4]]),
        (np.array([0.5, np.nan], np.float32), [0.5, None]),
        (math.inf, None),
        (-math.inf, None),
        (np.float32(np.nan), None),
        (Path("/a b/é"), "/a b/é"),
        (("x", 1), ["x", 1]),
        ({1: Path("a")}, {"1": "a"}),
        (Decision.MATCH, "match"),
        ("Łukasz 李 \udce9", "Łukasz 李 \udce9"),
        (None, None),
    ],
)
def test_values_become_plain_json(value: object, plain: object, printed: Printed) -> None:
    assert printed({"value": value}) == {"value": plain}


def test_a_table_in_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "/a/very/long/path/" + "x" * 120 + ".jpg"
    print_table("faces", ("photo", "score"), [(long, 0.91234), ("[bold]none[/bold]", None)])
    out = capsys.readouterr().out
    assert long in out
    assert "0.91" in out
    assert "[bold]none[/bold]" in out  # names are text, not markup
    print_table("faces", ("photo", "score"), [])
    assert "photo" in capsys.readouterr().out


def test_small_numbers_keep_their_digits(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("", ("rate",), [(1e-4,), (0.0,)])
    out = capsys.readouterr().out
    assert "0.0001" in out
    assert "0.00" in out


class Terminal(io.StringIO):
    """Standard error of somebody who watches."""

    def isatty(self) -> bool:
        return True


def test_progress_goes_to_standard_error_of_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", seen := Terminal())
    with progress_bar("photographs", 3) as update:
        for done in (1, 2, 3, 4):  # more than was announced is no error
            update(done)
    assert capsys.readouterr().out == ""
    assert "photographs" in seen.getvalue()
    assert "3/3" in seen.getvalue()


def test_progress_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("photographs", 3) as update:
        update(2)
    assert capsys.readouterr() == ("", "")


def test_progress_of_work_that_fails_does_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", seen := Terminal())

    def work() -> None:
        with progress_bar("photographs", 3) as update:
            update(1)
            raise ValueError("no good")

    with pytest.raises(ValueError, match="no good"):
        work()
    assert "1/3" in seen.getvalue()
    assert "3/3" not in seen.getvalue()


def test_a_build_stage_that_fails_leaves_its_bar_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", seen := Terminal())

    def work() -> None:
        with _stages("yunet") as stage:
            stage("calibrate", 4)(4)
            stage("verify", 7)(2)
            raise ValueError("no good")

    with pytest.raises(ValueError, match="no good"):
        work()
    assert "4/4" in seen.getvalue()
    assert "2/7" in seen.getvalue()
    assert "7/7" not in seen.getvalue()
