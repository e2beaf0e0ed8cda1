"""The results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from figures import Figures, goals
from rich.table import Table


def summary(figures: Figures) -> Iterable[Table]:
    """One table of all figures for each side, one of CPU by process type, and the goals."""
    for side in figures.sides:
        shown = Table(title=f"JPEG covers of {side} x {side}: of each image, medians of {figures.rounds} rounds")
        shown.add_column("", no_wrap=True)
        columns = [figures.of(key, side) for key in figures.contenders]
        for key in figures.contenders:
            shown.add_column(key, justify="right", no_wrap=True)
        for name in _merged(columns):
            shown.add_row(name, *(each.get(name, "") for each in columns))
        yield shown
    rows = list(goals(figures))
    if rows:
        shown = Table("what it must show", title="goals")
        for heading in ("goal", "measured", "met"):
            shown.add_column(heading, justify="right")
        for row in rows:
            shown.add_row(
                row.what, row.goal, row.shown, f"[bold red]{row.verdict}[/]" if row.is_met is False else row.verdict
            )
        yield shown


def _merged(columns: Iterable[Iterable[str]]) -> list[str]:
    """The names of all columns, each once, behind the one that it follows in its own column."""
    merged: list[str] = []
    for names in columns:
        place = 0
        for name in names:
            if name not in merged:
                merged.insert(place, name)
            place = merged.index(name) + 1
    return merged
