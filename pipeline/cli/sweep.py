"""The commands `image-pipeline sweep ...`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from pipeline.cli.output.terminal import confirmed, console, new_app
from pipeline.clients import mongo
from pipeline.net.http_errors import shown
from pipeline.ops import prices, rechecks
from pipeline.ops.sweeps import Progress, follow, sample, start, stop
from pipeline.settings import get_settings
from pipeline.sweeps import documents, sources
from pipeline.sweeps.documents import SWEPT, Swept
from pipeline.text import parse_age, printable

app = new_app(help="Find documents in MongoDB whose covers changed, and send them through the pipeline.")

#: Documents that `--dry-run` shows.
SHOWN = 10


#: Sources that `--failing` lists.
FAILING = 1000


class Collection(StrEnum):
    """The collections that can be swept."""

    CHANNELS = "channels"
    EPISODES = "episodes"


Dry = Annotated[bool, typer.Option("--dry-run", help="Only count the documents to sweep, and show ten of them.")]
Limit = Annotated[int | None, typer.Option(help="Maximum number of documents to sweep.", metavar="N", min=1)]
Wait = Annotated[bool, typer.Option("--wait", help="Show the progress until all documents have ended.")]


@app.command()
def channels(*, dry_run: Dry = False, limit: Limit = None, wait: Wait = False) -> None:
    """Start a sweep of the channels now. It runs in the workers, and continues if this command is stopped."""
    _sweep(SWEPT["channels"], dry_run=dry_run, limit=limit, wait=wait)


@app.command()
def episodes(*, dry_run: Dry = False, limit: Limit = None, wait: Wait = False) -> None:
    """Start a sweep of the episodes now. It runs in the workers, and continues if this command is stopped."""
    _sweep(SWEPT["episodes"], dry_run=dry_run, limit=limit, wait=wait)


@app.command(name="recheck")
def recheck_(
    collection: Annotated[Collection | None, typer.Argument(help="The collection; default: both.")] = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count the covers that are due, and show ten.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Maximum number of covers to ask for.", metavar="N", min=1)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show the progress until the run has ended.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also covers that are not due yet.")] = False,
    outdated: Annotated[
        bool, typer.Option("--outdated", help="Only covers whose pictures were made by another recipe, due or not.")
    ] = False,
    failing: Annotated[bool, typer.Option("--failing", help="Only list the covers whose re-checks fail.")] = False,
    days: Annotated[float, typer.Option(help="With --failing: for at least this many days.", metavar="N", min=0)] = 0,
) -> None:
    """Ask now whether covers were replaced under an unchanged URL. The workers do the work.

    Each distinct URL is asked once in RECHECK_DAYS days, by a conditional request. --outdated downloads covers again
    after RENDITIONS, RESIZE_FIT or OUTPUT_FORMATS changed.
    """
    mongo.reach()
    if failing:
        _show_failing(days)
        return
    if not (everything or outdated or get_settings().recheck_days):
        raise typer.BadParameter("RECHECK_DAYS is 0, so no cover is ever due. Set it, or pass --all or --outdated.")
    names = [collection.value] if collection else list(SWEPT)
    if dry_run:
        _show_due(names, limit, everything=everything, outdated=outdated)
        return
    run = rechecks.start(names, limit=limit, everything=everything, outdated=outdated)
    console.print(f"The run [bold]{run}[/] has begun.", highlight=False)
    if wait:
        _follow(progress.text for progress in rechecks.follow(run))


def _show_failing(days: float) -> None:
    found = sources.failing(days, FAILING)
    table = Table(Column("Source", overflow="fold"), "Failures", "Since", "Error")
    for each in found:
        since = f"{each.failing:%Y-%m-%d %H:%M}" if each.failing else ""
        table.add_row(escape(printable(shown(each.url))), str(each.failures), since, escape(each.error))
    if found:
        console.print(table)
    console.print(f"{len(found):,} sources fail{', or more' if len(found) == FAILING else ''}.", highlight=False)


def _show_due(names: list[str], limit: int | None, *, everything: bool, outdated: bool) -> None:
    found = list(rechecks.due(names, everything=everything, outdated=outdated).items())
    chosen = found[:limit]
    are = "outdated" if outdated else "due"
    console.print(f"{len(chosen):,} covers would be asked for, of {len(found):,} that are {are}.", highlight=False)
    if outdated:
        _show_cost(rechecks.cost(each for _, each in chosen))
    table = Table(Column("Source", overflow="fold"), "Documents")
    for url, each in chosen[:SHOWN]:
        table.add_row(escape(printable(shown(url))), f"{each.documents:,}")
    if table.rows:
        console.print(table)


def _show_cost(requests: dict[str, int]) -> None:
    console.print(
        f"That takes at most {requests['put']:,} PUT and {requests['get']:,} GET requests to S3, and about "
        f"{requests['sqs']:,} requests to SQS: ${sum(prices.dollars(requests).values()):,.2f} at the list prices of "
        f"{prices.REGION} in {prices.DATE}.",
        highlight=False,
    )


@app.command(name="stop")
def stop_(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="The id of a run. The default is all that take documents.")
    ] = None,
) -> None:
    """Stop a run: it takes no more documents. The jobs that it has sent already go on.

    The exit status is 1 if the run does not exist or has taken its last document.
    """
    mongo.reach()
    stopped = stop(run)
    for each in stopped:
        console.print(f"The run [bold]{escape(each)}[/] takes no more documents.", highlight=False)
    if not stopped:
        console.print("No such run takes documents." if run else "No run takes documents.")
        raise typer.Exit(1 if run else 0)


@app.command()
def retry(
    collection: Annotated[Collection, typer.Argument(help="The collection to search.")],
    *,
    code: Annotated[str | None, typer.Option(help="Only errors with this code, as http_404.", metavar="CODE")] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Only errors older than this: 90s, 30m, 12h, 7d or 2w.", metavar="AGE")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Clear them without asking.")] = False,
) -> None:
    """Clear the error marks of documents, so that the next sweep takes them again.

    Shows the number of marks for each code first. Changes nothing without --yes or your confirmation.
    """
    swept = SWEPT[collection.value]
    try:
        before = datetime.now(UTC) - parse_age(older_than) if older_than else None
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error), param_hint="--older-than") from None
    mongo.reach()
    query = documents.marked(code, before)
    counts = documents.count_marks(swept, query)
    total = sum(counts.values())
    if not total:
        console.print(f"No {swept.name} have such a mark.")
        return
    for name, number in counts.items():
        console.print(f"{number:>9,}  {escape(str(name)) if name else '[dim]without a code[/]'}", highlight=False)
    if not confirmed(yes, f"Clear the marks of {total:,} {swept.name}?", "--yes clears them"):
        return
    cleared = documents.clear_marks(swept, query)
    console.print(f"Cleared the marks of {cleared:,} {swept.name}: the next sweep takes them.", highlight=False)


def _sweep(swept: Swept, *, dry_run: bool, limit: int | None, wait: bool) -> None:
    mongo.reach()
    if dry_run:
        _show_sample(swept, limit)
        return
    run = start(swept, limit)
    console.print(f"The run [bold]{run}[/] has begun.", highlight=False)
    if wait:
        _follow(map(_counts, follow(run)))


def _show_sample(swept: Swept, limit: int | None) -> None:
    total = documents.count_stale(swept)
    count = min(total, limit or total)
    console.print(
        f"{count:,} {swept.name} would be swept{f', of {total:,}' if count < total else ''}.", highlight=False
    )
    table = Table(Column("_id", no_wrap=True, overflow="fold"), "Title", "Folder", Column("Changed", overflow="fold"))
    for document, folder in sample(swept, min(SHOWN, limit or SHOWN)):
        changed = "\n".join(f"{field}: {shown(url)}" for field, url in document.urls.items())
        cells = (str(document.id), str(document.title or ""), folder, changed)
        table.add_row(*(escape(printable(cell, keep="\n")) for cell in cells))
    if table.rows:
        console.print(table)


def _follow(progress: Iterable[str]) -> None:
    """Show the progress of a run until it has ended, then its result."""
    text = ""
    try:
        with console.status("") as status:
            for text in progress:
                status.update(text)
    except KeyboardInterrupt:
        console.print("The run continues without this command.")
        raise
    console.print(f"The run has ended: {text}.", highlight=False)


def _counts(progress: Progress) -> str:
    counts = f"{progress.done:,} done, {progress.invalid:,} invalid, {progress.failed:,} failed"
    return counts + (f", {progress.changed:,} changed meanwhile" if progress.changed else "")
