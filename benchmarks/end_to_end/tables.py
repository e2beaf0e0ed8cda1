"""The results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from entrants import ENTRANTS
from figures import Figures, goals
from rich.table import Table


def summary(results: list[dict[str, Any]]) -> Iterable[Table]:
    """One table of all figures for each side, one of CPU by process type, and the goals."""
    figures = Figures(results)
    for side in figures.sides:
        shown = Table(title=f"JPEG covers of {side} x {side}: of each image, medians of {figures.rounds} rounds")
        shown.add_column("")
        columns = [figures.of(key, side) for key in figures.contenders]
        for key in figures.contenders:
            shown.add_column(ENTRANTS[key].title, justify="right")
        for name in dict.fromkeys(name for each in columns for name in each):
            shown.add_row(name, *(each.get(name, "") for each in columns))
        yield shown
    rows = list(goals(figures))
    if rows:
        shown = Table("what it must show", title="goals")
        for heading in ("goal", "measured", "met"):
            shown.add_column(heading, justify="right")
        for row in rows:
            shown.add_row(row.what, row.goal, row.shown, "yes" if row.is_met else "[bold red]no[/]")
        yield shown
