"""Markdown tables, and the pages that hold them between marks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Row = list[str]


def rows(heading: Row, body: Iterable[Row]) -> str:
    """Format a table whose first column is text and whose other columns are numbers."""
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replace_marked(page: Path, name: str, text: str) -> None:
    """Replace the text between the marks of that name.

    Raises:
        ValueError: the page has no such marks.
    """
    mark, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    head, found, rest = page.read_text(encoding="utf-8").partition(mark)
    if not found or end not in rest:
        raise ValueError(f"{page} has no marks {mark.strip()} and {end}")
    page.write_text(f"{head}{mark}{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
