"""The table of the swept documents, with the fields that changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pipeline.local.demo.board import renditions
from pipeline.local.demo.sweeps import DemoDocument, flat
from pipeline.ops.sweeps import Progress

#: Name, old value and new value of a field; None if it is missing.
FieldChange = tuple[str, Any, Any]


def ledger(documents: Sequence[DemoDocument], progress: Mapping[str, Progress]) -> Table:
    """Make the table; adjacent documents with the same changes share a row."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("Document", no_wrap=True)
    table.add_column("Field", no_wrap=True)
    table.add_column("Before", overflow="fold")
    table.add_column("After", overflow="fold")
    for name, swept in groupby(documents, key=lambda document: document.swept.name):
        table.add_row(f"[bold]{name}[/]", f"[dim]{_counted(progress[name])}[/]")
        for (about, changed), alike in groupby(swept, key=lambda document: (document.about, changes(document))):
            titles = [escape(document.title) for document in alike]
            table.add_row("\n".join([*titles, f"[dim]{about}[/]"]), *_columns(changed), end_section=True)
    return table


def changes(document: DemoDocument) -> list[FieldChange]:
    """Return the changed fields of a document, those of its images first."""
    before, after = flat(document.before), flat(document.after)
    ours = [name for field in document.swept.fields for name in (f"last_{field}", f"{field}_extra_images")]
    names = dict.fromkeys([*ours, *before, *after])
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _counted(progress: Progress) -> str:
    ended = {name: getattr(progress, name) for name in ("done", "invalid", "failed", "changed")}
    counts = [f"{count} {name}" for name, count in ended.items() if count] + ["not finished"] * (not progress.over)
    return f"{progress.claimed} claimed: {', '.join(counts)}"


def _columns(changed: Sequence[FieldChange]) -> Iterator[str]:
    if not changed:
        yield "[dim]unchanged[/]"
        return
    names, before, after = zip(*changed, strict=True)
    yield "\n".join(names)
    yield "\n".join(map(_shown, before))
    yield "\n".join(map(_shown, after))


def _shown(value: Any) -> str:
    """Shorten a value: a URL to its file name, an error to its code."""
    match value:
        case None:
            return "[dim]-[/]"
        case bool():
            return str(value).lower()
        case {"code": code}:
            return f"[red]{escape(str(code))}[/]"
        case dict() if all(isinstance(each, dict) and "url" in each for each in value.values()):
            return renditions(value)
        case _:
            return escape(str(value).rpartition("/")[2])
