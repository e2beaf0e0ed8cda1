"""Re-checks the covers of the swept documents, after one of them was replaced under its URL."""

from __future__ import annotations

import time
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from pipeline.clients import mongo
from pipeline.local.demo.board import renditions
from pipeline.local.demo.samples import Sample
from pipeline.local.demo.sweeps import DemoDocument
from pipeline.ops.rechecks import RecheckProgress, follow, start

#: The file that is replaced, and the file that has its new bytes.
REPLACED, REPLACEMENT = "paper-boats.png", "high-ground.jpg"

#: The expected counts: one cover is gone from two URLs, and three covers are unchanged.
EXPECTED = {"not_modified": 3, "changed": 1, "failed": 2}


@dataclass
class Rechecked:
    """The result: the progress of the run, and each document before and after it."""

    progress: RecheckProgress | None = None
    documents: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)


def recheck(documents: Sequence[DemoDocument], served: MutableMapping[str, Sample], timeout: float) -> Rechecked:
    """Replace a cover, re-check everything as `image-pipeline sweep recheck --all` does, and wait."""
    deadline, found = time.monotonic() + timeout, Rechecked()
    served[REPLACED] = served[REPLACEMENT]
    for found.progress in follow(start(everything=True)):
        if time.monotonic() > deadline:
            break
    for each in documents:
        after = mongo.database()[each.swept.name].find_one({"_id": each.before["_id"]}) or {}
        found.documents.append((each.after, after))
    return found


def table(found: Rechecked) -> Table:
    """Show the counts, and the documents that changed."""
    shown = Table(box=box.SIMPLE_HEAD, padding=0)
    shown.add_column("Re-check", no_wrap=True)
    shown.add_column("Before", overflow="fold")
    shown.add_column("After", overflow="fold")
    shown.add_row("covers", f"[dim]{found.progress.text if found.progress else 'not finished'}[/]")
    for before, after in found.documents:
        if before != after:
            name = "itunes_image_extra_images"
            shown.add_row(str(after.get("title")), renditions(before[name]), renditions(after[name]))
    return shown


def differences(found: Rechecked, documents: Sequence[DemoDocument]) -> Iterator[str]:
    """Yield the differences from the expected outcome."""
    if not found.progress or not found.progress.over or found.progress.counts != EXPECTED:
        yield f"The re-check should count {EXPECTED}, but counts {found.progress}"
    for document, (before, after) in zip(documents, found.documents, strict=True):
        changed = {name for name in after.keys() | before.keys() if after.get(name) != before.get(name)}
        is_replaced = any(url.endswith(f"/{REPLACED}") for url in document.urls.values())
        if changed != ({"itunes_image_extra_images"} if is_replaced else set()):
            yield f"{document.title}: the re-check changed {', '.join(sorted(changed)) or 'nothing'}"
