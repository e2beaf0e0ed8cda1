"""Shows inspected covers: for a terminal, as JSON, and as a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from io import BytesIO
from typing import Any

from PIL import Image
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.ops.inspect import Inspection, Rendition, Step
from pipeline.ops.sheet import MOST, Card, draw
from pipeline.text import format_duration, shorten

CONDITIONAL = {True: "the host confirms that nothing changed", False: "not supported", None: "not known"}

SHEET_REMARKS = ("Left: the largest rendition.", f"Right: up to {MOST} others,", "reduced if they do not fit.")

#: Maximum characters of a title and of a caption on the sheet.
TITLE, CAPTION = 36, 50


def drawn(found: Inspection) -> RenderableType:
    """Draw an inspected cover: a heading, its facts, and its renditions or the reason of a refusal."""
    mark, style = ("✗", "bold red") if found.refusal else ("✓", "bold green")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=11, style="dim", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for label, value in _rows(found):
        table.add_row(label, value)
    heading = Text.assemble((f"{mark} ", style), (found.source, "bold"), overflow="fold")
    return Group(heading, Padding(table, (0, 0, 1, 2)))


def _rows(found: Inspection) -> Iterator[tuple[str, RenderableType]]:
    if found.way:
        yield "Way", Group(*map(_step, found.way))
    if found.bytes is not None:
        declared = f", declared as {found.declared_type}" if found.declared_type else ""
        yield "Type", Text(f"{found.format or 'unknown'}{declared}")
        yield "Bytes", f"{found.bytes:,}"
    if found.refusal:
        yield "Refused", Text.assemble((found.refusal.code, "bold red"), f": {found.refusal.message}")
        return
    yield "Size", f"{found.width} x {found.height} pixels"
    yield "Colours", Text(f"{found.colours}, {f'profile: {found.profile}' if found.profile else 'no profile'}")
    yield "Orientation", f"{found.orientation}"
    yield "Warnings", Text(", ".join(found.warnings) or "none", "yellow" if found.warnings else "")
    if found.way:
        yield "Conditional", CONDITIONAL[found.conditional]
    yield "Renditions", "\n".join(map(_rendition, found.renditions))
    memory = f", {found.memory_bytes / 1e6:.0f} MB of memory" if found.memory_bytes else ""
    yield "Cost", f"{format_duration(found.cpu_seconds or 0)} of CPU{memory}"


def _step(step: Step) -> RenderableType:
    headers = "\n".join(f"{name}: {value}" for name, value in step.headers.items())
    line = Text(f"{step.status} {step.url}", overflow="fold")
    return Group(line, Padding(Text(headers, "dim", overflow="fold"), (0, 0, 0, 4))) if headers else line


def _rendition(rendition: Rendition) -> str:
    quality = f", quality {rendition.quality:g}" if rendition.quality else ""
    return f"{rendition.name}: {len(rendition.data):,} bytes, {rendition.format}{quality}"


def as_json(found: Inspection) -> dict[str, Any]:
    """Return an inspected cover as JSON types. Each cover has the same keys; facts that are not known are null."""
    fields = asdict(found)
    for each in fields["renditions"]:
        each["bytes"] = len(each.pop("data"))
    return fields


def contact_sheet(found: Sequence[Inspection]) -> Image.Image:
    """Draw the renditions of all covers as one picture."""
    return draw([_card(each) for each in found], "Renditions", SHEET_REMARKS)


def _card(found: Inspection) -> Card:
    title = shorten(found.source.rpartition("/")[2] or found.source, TITLE)
    if found.refusal:
        return Card(title, shorten(found.source, CAPTION), error=(found.refusal.code, found.refusal.message))
    facts = f"{found.format}, {found.width} x {found.height}, {found.bytes:,} bytes"
    return Card(title, facts, [(each.name, _opened(each)) for each in found.renditions])


def _opened(rendition: Rendition) -> Image.Image:
    """Open a rendition with the one decoder of its format, because the sandbox that made it is not trusted."""
    return Image.open(BytesIO(rendition.data), formats=[rendition.format.upper()])
