"""Sparklines: small inline SVG charts of one series, made only of paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Size in SVG units; the page scales it.
WIDTH, HEIGHT = 120, 28

#: Space above and below, so that lines are not clipped.
MARGIN = 2


@dataclass(frozen=True)
class Sparkline:
    """The paths of one chart, and its description in words."""

    line: str  #: empty if there are too few values
    area: str
    label: str


def sparkline(values: Sequence[float | None], label: str) -> Sparkline:
    """Draw the values from left to right as a line, scaled from zero to the largest; None repeats a value."""
    if sum(value is not None for value in values) < 2:
        return Sparkline("", "", label)
    top = max([value for value in values if value is not None] + [1])
    step = WIDTH / (len(values) - 1)
    points: list[tuple[float, float]] = []
    for index, value in enumerate(values):
        if value is not None:
            points.append((index * step, HEIGHT - MARGIN - value / top * (HEIGHT - 2 * MARGIN)))
        elif points:
            points.append((index * step, points[-1][1]))
    line = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    area = f"{line} L{points[-1][0]:.1f} {HEIGHT} L{points[0][0]:.1f} {HEIGHT} Z"
    return Sparkline(line, area, label)


def bars(values: Sequence[float], label: str) -> Sparkline:
    """Draw the values from left to right as bars; `line` stays empty."""
    if not values or not any(values):
        return Sparkline("", "", label)
    top = max(values)
    step = WIDTH / len(values)
    heights = [max(1.0, value / top * (HEIGHT - MARGIN)) if value else 0.0 for value in values]
    drawn = [
        f"M{index * step + 0.3:.1f} {HEIGHT} v{-height:.1f} h{step - 0.6:.1f} V{HEIGHT} Z"
        for index, height in enumerate(heights)
        if height
    ]
    return Sparkline("", " ".join(drawn), label)
