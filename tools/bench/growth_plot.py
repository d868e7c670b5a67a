"""How each cost of the gallery grows with its size, as an SVG: what `edgeface bench gallery --plot` writes."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeface.tools.bench.harness import Row

WIDTH_PX, HEIGHT_PX, MARGIN_PX = 640, 360, 60
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by everybody

#: Row of the benchmark, key of its `extra` or None for the time itself, words in the plot.
_TIMES = (
    ("search", None, "search, median"),
    ("search", "p99_ms", "search, p99"),
    ("add one durably", None, "add one, durable"),
    ("open", None, "open"),
    ("build", None, "enrol all, durable"),
)
_BYTES = (("memory", "ours_bytes", "memory a template"), ("memory", "disk_bytes", "disk a template"))


def growth_svg(rows: Sequence[Row]) -> str:
    """Two charts with logarithmic axes: milliseconds, and bytes a template, over the number of templates."""
    charts = (("ms", _TIMES), ("bytes", _BYTES))
    parts = [chart(unit, series(rows, wanted), index * HEIGHT_PX) for index, (unit, wanted) in enumerate(charts)]
    height = HEIGHT_PX * len(charts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX + 160} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def series(
    rows: Sequence[Row], wanted: Sequence[tuple[str, str | None, str]]
) -> dict[str, list[tuple[float, float]]]:
    """Points (templates, value) of each line."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for start, key, words in wanted:
        for row in rows:
            size = re.fullmatch(re.escape(start) + r", ([\d,]+) templates", row.name)
            value = row.ours_ms if key is None else (row.extra or {}).get(key, 0.0)
            if size and value > 0:
                lines.setdefault(words, []).append((float(size[1].replace(",", "")), value))
    return lines


def chart(unit: str, lines: Mapping[str, Sequence[tuple[float, float]]], top_px: int) -> str:
    """One chart as SVG elements."""
    xs = [math.log10(x) for points in lines.values() for x, _ in points] or [0.0]
    ys = [math.log10(y) for points in lines.values() for _, y in points] or [0.0]
    left, right = math.floor(min(xs)), max(math.ceil(max(xs)), math.floor(min(xs)) + 1)
    low, high = math.floor(min(ys)), max(math.ceil(max(ys)), math.floor(min(ys)) + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        across = MARGIN_PX + (math.log10(x) - left) / (right - left) * (WIDTH_PX - 2 * MARGIN_PX)
        up = (math.log10(y) - low) / (high - low) * (HEIGHT_PX - 2 * MARGIN_PX)
        return across, top_px + HEIGHT_PX - MARGIN_PX - up

    parts = []
    for power in range(left, right + 1):
        x, y = place(10.0**power, 10.0**low)
        parts.append(f'<path d="M{x:.1f} {y:.1f}V{place(1, 10.0**high)[1]:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{10**power:,}</text>')
    for power in range(low, high + 1):
        x, y = place(10.0**left, 10.0**power)
        parts.append(f'<path d="M{x:.1f} {y:.1f}H{place(10.0**right, 1)[0]:.1f}" stroke="#ddd"/>')
        label = f"{10.0**power:g} {unit}"
        parts.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for number, (words, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [place(x, y) for x, y in sorted(points)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        at = top_px + MARGIN_PX + 20 * number
        parts.append(f'<path d="M{WIDTH_PX - 40} {at}h20" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH_PX - 14}" y="{at + 4}">{escape(words)}</text>')
    middle = WIDTH_PX / 2
    parts.append(f'<text x="{middle}" y="{top_px + HEIGHT_PX - 14}" text-anchor="middle">templates</text>')
    return "".join(parts)
