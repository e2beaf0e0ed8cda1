"""The commands `image-pipeline sweep ...`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from pipeline.cli.durations import parse_age

if TYPE_CHECKING:
    from pipeline.ops.sweeps import Progress
    from pipeline.sweeps.documents import Swept

app = typer.Typer(
    no_args_is_help=True,
    help="Look for documents in MongoDB whose covers changed, and send them through the pipeline.",
)
console = Console()

#: Documents that `--dry-run` shows.
SHOWN = 10


class Collection(StrEnum):
    """What can be swept."""

    CHANNELS = "channels"
    EPISODES = "episodes"


Dry = Annotated[bool, typer.Option("--dry-run", help="Only count what would be swept, and show ten.")]
Limit = Annotated[int | None, typer.Option(help="Documents to sweep at the most.", metavar="N", min=1)]
Wait = Annotated[bool, typer.Option("--wait", help="Look on until all of them have ended.")]


@app.command()
def channels(*, dry_run: Dry = False, limit: Limit = None, wait: Wait = False) -> None:
    """Start a sweep of the channels now. The workers do it: this command may end before, or be ended."""
    _sweep(Collection.CHANNELS, dry_run=dry_run, limit=limit, wait=wait)


@app.command()
def episodes(*, dry_run: Dry = False, limit: Limit = None, wait: Wait = False) -> None:
    """Start a sweep of the episodes now. The workers do it: this command may end before, or be ended."""
    _sweep(Collection.EPISODES, dry_run=dry_run, limit=limit, wait=wait)


@app.command()
def retry(
    collection: Annotated[Collection, typer.Argument(help="Where to look.")],
    *,
    code: Annotated[str | None, typer.Option(help="Only errors of this code, as http_404.", metavar="CODE")] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Only errors from before that: 90s, 30m, 12h, 7d or 2w ago.", metavar="AGE")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Clear them without asking.")] = False,
) -> None:
    """Clear the error marks of documents, so that the next sweep takes them again.

    Shows first how many there are of each code. Changes nothing without --yes or your word.
    """
    from pipeline.sweeps import documents  # noqa: PLC0415 - slow to import

    swept = _swept(collection)
    try:
        before = datetime.now(UTC) - parse_age(older_than) if older_than else None
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error), param_hint="--older-than") from None
    query = documents.marked(code, before)
    counts = documents.count_marks(swept, query)
    total = sum(counts.values())
    if not total:
        console.print(f"No {swept.name} have such a mark.")
        return
    for name, number in counts.items():
        console.print(f"{number:>9,}  {escape(str(name)) if name else '[dim]without a code[/]'}", highlight=False)
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Clear the marks of {total:,} {swept.name}?")):
        console.print("Nothing was changed." if sys.stdin.isatty() else "Nothing was changed: --yes clears them.")
        return
    cleared = documents.clear_marks(swept, query)
    console.print(f"Cleared the marks of {cleared:,} {swept.name}: the next sweep takes them.", highlight=False)


def _sweep(collection: Collection, *, dry_run: bool, limit: int | None, wait: bool) -> None:
    from pipeline.ops import sweeps as sweeping  # noqa: PLC0415 - slow to import
    from pipeline.sweeps import documents  # noqa: PLC0415 - slow to import

    swept = _swept(collection)
    if dry_run:
        _show(swept, limit)
        return
    total = documents.count_stale(swept) if wait else 0
    run = sweeping.start(swept, limit)
    console.print(f"The run [bold]{run}[/] has begun.", highlight=False)
    if wait:
        try:
            _look_on(run, min(total, limit or total))
        except KeyboardInterrupt:
            console.print("The run goes on without this command.")
            raise


def _show(swept: Swept, limit: int | None) -> None:
    from pipeline.net.http_errors import shown  # noqa: PLC0415
    from pipeline.ops import sweeps as sweeping  # noqa: PLC0415
    from pipeline.sweeps import documents  # noqa: PLC0415
    from pipeline.text import printable  # noqa: PLC0415

    total = documents.count_stale(swept)
    count = min(total, limit or total)
    console.print(
        f"{count:,} {swept.name} would be swept{f', of {total:,}' if count < total else ''}.", highlight=False
    )
    table = Table(Column("_id", no_wrap=True, overflow="fold"), "Title", "Folder", Column("Changed", overflow="fold"))
    for document, folder in sweeping.sample(swept, min(SHOWN, limit or SHOWN)):
        changed = "\n".join(f"{field}: {shown(url)}" for field, url in document.urls.items())
        cells = (str(document.id), str(document.title or ""), folder, changed)
        table.add_row(*(escape(printable(cell, but="\n")) for cell in cells))
    if table.rows:
        console.print(table)


def _look_on(run: str, total: int) -> None:
    """A bar that moves with the run, where this is a terminal; how it ended."""
    from pipeline.ops import sweeps as sweeping  # noqa: PLC0415

    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[counts]}"))
    bar = Bar(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("", total=total, counts="")
        for progress in sweeping.follow(run):
            speed = bar.tasks[0].speed
            rate = f"{speed:.1f}/s, " if speed else ""
            remaining = max(0, total - progress.ended)
            bar.update(task, completed=progress.ended, counts=f"{rate}{_counts(progress)}, {remaining:,} remaining")
    console.print(f"The run has ended: {_counts(progress)}.", highlight=False)


def _counts(progress: Progress) -> str:
    counts = f"{progress.done:,} done, {progress.invalid:,} invalid, {progress.failed:,} failed"
    return counts + (f", {progress.changed:,} changed meanwhile" if progress.changed else "")


def _swept(collection: Collection) -> Swept:
    from pipeline.sweeps.documents import SWEPT  # noqa: PLC0415 - slow to import

    return SWEPT[collection.value]
