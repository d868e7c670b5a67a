"""Plots for the build report as inline SVG: no library, no script, readable without a network."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, MARGIN = 620, 260, 46
COLOURS = ("#1b6ca8", "#d1495b", "#5b8c5a", "#8e6c8a")


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """Lines through points; on a logarithmic axis points at or below zero are left out."""
    kept = {
        name: [(a, b) for a, b in points if (a > 0 or not log_x) and (b > 0 or not log_y)]
        for name, points in series.items()
    }
    every = [point for points in kept.values() for point in points]
    if not every:
        return ""
    to_x = _axis([a for a, _ in every], MARGIN, WIDTH - 10, log=log_x)
    to_y = _axis([b for _, b in every], HEIGHT - MARGIN, 24, log=log_y)
    parts = []
    for number, points in enumerate(kept.values()):
        path = " ".join(f"{to_x(a):.1f},{to_y(b):.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[number % 4]}" stroke-width="1.6"/>')
    ends = ([a for a, _ in every], [b for _, b in every])
    return _frame(title, "".join(parts), list(series), x, y, ends)


def bars(title: str, values: Sequence[tuple[str, float]], *, y: str) -> str:
    """One bar a value, named on hover."""
    if not values:
        return ""
    low, high = min(0.0, *(v for _, v in values)), max(0.0, *(v for _, v in values))
    to_y = _axis([low, high], HEIGHT - MARGIN, 24)
    step = (WIDTH - 10 - MARGIN) / len(values)
    parts = []
    for number, (name, value) in enumerate(values):
        top, bottom = sorted((to_y(value), to_y(0.0)))
        parts.append(
            f'<rect x="{MARGIN + number * step:.1f}" y="{top:.1f}" width="{max(step - 1, 0.5):.1f}" '
            f'height="{max(bottom - top, 0.5):.1f}" fill="{COLOURS[0]}">'
            f"<title>{html.escape(name)}: {value:.4g}</title></rect>"
        )
    return _frame(
        title, "".join(parts), [], f"{len(values)} layers, input to output", y, ([1, len(values)], [low, high])
    )


def histogram_lines(histogram: Mapping[str, object]) -> list[tuple[float, float]]:
    """Points of a histogram of the report, as shares."""
    low, high, counts = histogram["low"], histogram["high"], histogram["counts"]
    assert isinstance(low, (int, float))
    assert isinstance(high, (int, float))
    assert isinstance(counts, list)
    total = max(sum(counts), 1)
    return [(low + (i + 0.5) * (high - low) / len(counts), count / total) for i, count in enumerate(counts)]


class _Axis:
    def __init__(self, low: float, high: float, start: float, end: float, log: bool) -> None:
        self._log = log
        self._low, self._start = (math.log10(low) if log else low), start
        span = (math.log10(high) if log else high) - self._low
        self._factor = (end - start) / (span or 1.0)

    def __call__(self, value: float) -> float:
        return self._start + ((math.log10(value) if self._log else value) - self._low) * self._factor


def _axis(values: Sequence[float], start: float, end: float, *, log: bool = False) -> _Axis:
    return _Axis(min(values), max(values), start, end, log)


def _frame(
    title: str, inside: str, names: Sequence[str], x: str, y: str, ends: tuple[Sequence[float], Sequence[float]]
) -> str:
    bottom, right = HEIGHT - MARGIN, WIDTH - 10
    text = [
        f'<text x="{MARGIN}" y="14" class="t">{html.escape(title)}</text>',
        f'<text x="{(MARGIN + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x)}</text>',
        f'<text x="12" y="{HEIGHT / 2}" transform="rotate(-90 12 {HEIGHT / 2})" text-anchor="middle">'
        f"{html.escape(y)}</text>",
        f'<text x="{MARGIN}" y="{bottom + 14}">{min(ends[0]):.3g}</text>',
        f'<text x="{right}" y="{bottom + 14}" text-anchor="end">{max(ends[0]):.3g}</text>',
        f'<text x="{MARGIN - 3}" y="{bottom}" text-anchor="end">{min(ends[1]):.3g}</text>',
        f'<text x="{MARGIN - 3}" y="32" text-anchor="end">{max(ends[1]):.3g}</text>',
    ]
    for number, name in enumerate(names):
        text.append(
            f'<text x="{right - 4}" y="{36 + 14 * number}" text-anchor="end" fill="{COLOURS[number % 4]}">'
            f"{html.escape(name)}</text>"
        )
    axes = f'<path d="M{MARGIN} 24V{bottom}H{right}" fill="none" stroke="#888"/>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" width="{WIDTH}">{axes}{inside}{"".join(text)}</svg>'
