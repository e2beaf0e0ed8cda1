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
from pipeline.ops.sheet import Card, draw
from pipeline.text import format_duration

#: Sentences about conditional requests; `{}` is the header that they were made with.
CONDITIONAL = {
    "confirmed": "yes, by {}: a re-check of an unchanged cover downloads nothing",
    "ignored": "no: the host sends {}, but also sends the whole cover again",
    "no_validators": "no: the host sends neither a usable ETag nor Last-Modified",
    "failed": "not known: the second request, by {}, failed",
}

#: How a viewer turns a picture, by its orientation in EXIF.
ORIENTATIONS = {
    1: "upright",
    2: "stored mirrored",
    3: "stored upside down",
    4: "stored upside down and mirrored",
    5: "stored on its side and mirrored",
    6: "stored on its left side",
    7: "stored on its side and mirrored",
    8: "stored on its right side",
}

SHEET_REMARKS = ("Left: the largest rendition.", "Right: the others. Those that", "do not fit are reduced.")


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
        yield "Bytes", _size(found.bytes)
        yield "Type", _type(found)
    if found.width and found.height:
        yield "Size", f"{found.width} x {found.height} pixels"
        yield "Colours", f"{found.colours}, {f'profile “{found.profile}”' if found.profile else 'no profile'}"
        yield "Orientation", f"{found.orientation}, {ORIENTATIONS[found.orientation or 1]}"
        yield "Warnings", Text(", ".join(found.warnings) or "none", "yellow" if found.warnings else "")
    if found.conditional:
        yield "Conditional", CONDITIONAL[found.conditional].format(found.validator)
    if found.renditions:
        yield "Renditions", _renditions(found.renditions)
        yield "Id", f"{found.content_id}"
    if found.cpu_seconds is not None:
        memory = f", {_size(found.memory_bytes)} of memory" if found.memory_bytes else ""
        yield "Cost", f"{format_duration(found.cpu_seconds)} of CPU{memory}"
    if found.refusal:
        yield "Refused", Text.assemble((found.refusal.code, "bold red"), f": {found.refusal.message}")
        if found.refusal.advice:
            yield "", Text(f"→ {found.refusal.advice}", "cyan")


def _step(step: Step) -> RenderableType:
    style = "green" if 200 <= step.status < 300 else "red" if step.status >= 400 else "yellow"
    headers = "\n".join(f"{name}: {value}" for name, value in step.headers.items() if value != "0")  # an empty body
    line = Text.assemble((str(step.status), style), f" {step.url}", overflow="fold")
    return Group(line, Padding(Text(headers, "dim", overflow="fold"), (0, 0, 0, 4))) if headers else line


def _type(found: Inspection) -> Text:
    kind = Text(found.format.upper() if found.format else "unknown")
    if not found.way:
        return kind
    is_wrong = "wrong_content_type" in found.warnings
    declared = f"declared as {found.declared_type}" if found.declared_type else "without a Content-Type"
    return kind + Text(f", {declared}", "yellow" if is_wrong else "")


def _renditions(renditions: Sequence[Rendition]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    for each in renditions:
        quality = f"quality {each.quality:g}" if each.quality else ""
        table.add_row(each.name, _size(len(each.data)), each.format.upper(), quality)
    return table


def _size(count: int) -> str:
    """Format a number of bytes: `812 bytes`, `4.1 kB`, `76 MB`."""
    for unit, size in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= size:
            return f"{count / size:.{1 if count < 10 * size else 0}f} {unit}"
    return f"{count} byte{'' if count == 1 else 's'}"


def as_json(found: Inspection) -> dict[str, Any]:
    """Return an inspected cover as JSON types. Each cover has the same keys; facts that are not known are null."""
    fields = asdict(found) | {"declared_type": found.declared_type}
    fields["renditions"] = [
        {**{name: value for name, value in asdict(each).items() if name != "data"}, "bytes": len(each.data)}
        for each in found.renditions
    ]
    return fields


def contact_sheet(found: Sequence[Inspection]) -> Image.Image:
    """Draw the renditions of all covers as one picture."""
    return draw([_card(each) for each in found], "Renditions", SHEET_REMARKS)


def _card(found: Inspection) -> Card:
    title = found.source.rpartition("/")[2] or found.source
    if found.refusal:
        return Card(title, found.source, error=(found.refusal.code, found.refusal.message))
    facts = f"{(found.format or '').upper()}, {found.width} x {found.height}, {_size(found.bytes or 0)}"
    return Card(title, facts, [(each.name, _opened(each)) for each in found.renditions])


def _opened(rendition: Rendition) -> Image.Image:
    """Decode a rendition by the one decoder of its format. The sandbox that made it is not trusted.

    Raises:
        ValueError: it has another size than it should have.
    """
    image = Image.open(BytesIO(rendition.data), formats=[rendition.format.upper()])
    if image.size != (rendition.width, rendition.height):
        raise ValueError(f"the rendition {rendition.name} has another size")
    return image
