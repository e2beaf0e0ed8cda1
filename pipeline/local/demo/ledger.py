"""What the sweeps made of the documents: of each only what changed."""

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

#: A field of a document, before and after; None where it is not there.
Change = tuple[str, Any, Any]


def ledger(documents: Sequence[DemoDocument], progress: Mapping[str, Progress]) -> Table:
    """The table of all documents; neighbours to which the same happened share a place."""
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


def changes(document: DemoDocument) -> list[Change]:
    """What is not as it was: the fields of its images first."""
    before, after = flat(document.before), flat(document.after)
    ours = [name for field in document.swept.fields for name in (f"last_{field}", f"{field}_extra_images")]
    names = dict.fromkeys([*ours, *before, *after])
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _counted(progress: Progress) -> str:
    ended = {name: getattr(progress, name) for name in ("done", "invalid", "failed", "changed")}
    counts = [f"{count} {name}" for name, count in ended.items() if count] + ["not over"] * (not progress.over)
    return f"{progress.claimed} claimed: {', '.join(counts)}"


def _columns(changed: Sequence[Change]) -> Iterator[str]:
    if not changed:
        yield "[dim]as it was[/]"
        return
    names, before, after = zip(*changed, strict=True)
    yield "\n".join(names)
    yield "\n".join(map(_shown, before))
    yield "\n".join(map(_shown, after))


def _shown(value: Any) -> str:
    """The value in a word: a file's name for its URL, the code for an error."""
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
