"""Sparklines: small inline SVG drawings of one series, drawn by paths alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: The drawing's own units; the page stretches it.
WIDTH, HEIGHT = 120, 28

#: Kept free above and below, so that no line is cut.
MARGIN = 2


@dataclass(frozen=True)
class Sparkline:
    """The paths of one drawing, and what it says in words."""

    line: str  #: empty where there is too little to draw
    area: str
    label: str


def sparkline(values: Sequence[float | None], label: str) -> Sparkline:
    """The series from left to right, from zero to its largest; a None carries the value before it."""
    if sum(value is not None for value in values) < 2:
        return Sparkline("", "", label)
    top = max([value for value in values if value is not None] + [1])
    step = WIDTH / (len(values) - 1)
    points: list[tuple[float, float]] = []
    for place, value in enumerate(values):
        if value is not None:
            points.append((place * step, HEIGHT - MARGIN - value / top * (HEIGHT - 2 * MARGIN)))
        elif points:
            points.append((place * step, points[-1][1]))
    line = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    area = f"{line} L{points[-1][0]:.1f} {HEIGHT} L{points[0][0]:.1f} {HEIGHT} Z"
    return Sparkline(line, area, label)


def bars(values: Sequence[float], label: str) -> Sparkline:
    """The series as bars that stand on the ground; `line` stays empty."""
    if not values or not any(values):
        return Sparkline("", "", label)
    top = max(values)
    step = WIDTH / len(values)
    heights = [max(1.0, value / top * (HEIGHT - MARGIN)) if value else 0.0 for value in values]
    drawn = [
        f"M{place * step + 0.3:.1f} {HEIGHT} v{-height:.1f} h{step - 0.6:.1f} V{HEIGHT} Z"
        for place, height in enumerate(heights)
        if height
    ]
    return Sparkline("", " ".join(drawn), label)
