"""Charts as SVG paths."""

from __future__ import annotations

import re

import pytest

from pipeline.dashboard.views.charts import HEIGHT, WIDTH, bars, sparkline


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]


def test_a_sparkline_runs_from_zero_at_the_bottom_to_its_maximum_at_the_top() -> None:
    drawn = points(sparkline([0, None, 50, 100], "").line)
    assert [x for x, _ in drawn] == pytest.approx([0, WIDTH / 3, WIDTH * 2 / 3, WIDTH], abs=0.1)
    ground, carried, half, top = (y for _, y in drawn)
    assert ground == carried > half > top
    assert half == pytest.approx((ground + top) / 2)
    assert all(0 <= y <= HEIGHT for _, y in drawn)


@pytest.mark.parametrize("values", [[], [1], [None, None], [None, 3, None]])
def test_too_few_points_are_not_drawn(values: list[float | None]) -> None:
    assert sparkline(values, "words") == sparkline([], "words")


def test_bars_are_proportional_and_never_invisible() -> None:
    heights = [-float(v) for v in re.findall(r"v(-?[\d.]+)", bars([0, 1, 1000, 500], "").area)]
    assert len(heights) == 3
    assert heights[0] == 1.0
    assert heights[1] == pytest.approx(2 * heights[2])
    assert bars([0, 0], "").area == ""
