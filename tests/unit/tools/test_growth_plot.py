"""The plot of the gallery's costs."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from edgeface.tools.bench.growth_plot import growth_svg, series
from edgeface.tools.bench.harness import Row


def row(name: str, ms: float, **extra: float) -> Row:
    return Row(name, ms, "", None, None, None, "", extra or None)


ROWS = [
    row("simulated faces", 0.0),
    row("search, 1,000 templates", 0.1, p99_ms=0.2),
    row("search, 100,000 templates", 0.4, p99_ms=0.9),
    row("memory, 1,000 templates", 0.0, ours_bytes=300.0, disk_bytes=250.0),
]


def test_points_are_read_from_the_rows() -> None:
    found = series(ROWS, [("search", None, "median"), ("search", "p99_ms", "p99"), ("open", None, "open")])
    assert found == {"median": [(1000, 0.1), (100_000, 0.4)], "p99": [(1000, 0.2), (100_000, 0.9)]}


def test_the_plot_is_well_formed_and_has_a_line_for_each_cost() -> None:
    tree = ElementTree.fromstring(growth_svg(ROWS))
    words = {text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {"search, median", "search, p99", "memory a template", "100,000"} <= words
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}circle"))) == 6


def test_no_rows_make_an_empty_plot() -> None:
    assert ElementTree.fromstring(growth_svg([])).tag.endswith("svg")
