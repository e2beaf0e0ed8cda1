"""The command `image-pipeline drop`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from pipeline.cli.output.terminal import console, fail, new_app
from pipeline.clients import mongo
from pipeline.monitoring import orders
from pipeline.monitoring.orders import Drop
from pipeline.ops import drops
from pipeline.text import plural

app = new_app()


@app.command()
def drop(
    *,
    folder: Annotated[str, typer.Option("--folder", metavar="NAME", help="Jobs of this folder.")] = "",
    host: Annotated[str, typer.Option("--host", metavar="HOST", help="Sources on this host.")] = "",
    before: Annotated[
        str, typer.Option("--before", metavar="TIME", help="Jobs sent before this time, as 2026-12-31T23:59, in UTC.")
    ] = "",
    silent: Annotated[bool, typer.Option("--silent", help="Send no results.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be dropped, as far as known.")] = False,
    show: Annotated[bool, typer.Option("--list", help="List the filters.")] = False,
    remove: Annotated[str, typer.Option("--remove", metavar="ID", help="Remove a filter.")] = "",
) -> None:
    """Drop jobs that wait for fetch, by folder, host or time of sending. Needs the job log.

    The options together select the jobs that match all of them. The command stores a filter, and fetch ends each job
    that matches when it next takes it: its result has the error `dropped`, and it leaves no dead letter. Jobs that
    fetch has finished go on, and so do redriven ones. A job with one image on the host keeps the other image.

    A filter drops only jobs that were sent to fetch before it was made, so new jobs pass. It ends after 14 days, when
    no matching job can wait any more, or with `--remove`. Dropped jobs stay dropped.
    """
    with mongo.within():
        if show:
            _list()
        elif remove:
            if not orders.remove(remove):
                fail(f"There is no filter {remove!r}: `image-pipeline drop --list` shows them.", status=1)
            _say(f"The filter {remove} is removed: processes follow within seconds.")
        else:
            _drop(folder, host, before, silent=silent, dry_run=dry_run)


def _drop(folder: str, host: str, before: str, *, silent: bool, dry_run: bool) -> None:
    try:
        order = orders.drop(folder=folder, host=host, before=_time(before), silent=silent)
        known, waiting = plural(drops.known(order), "job"), plural(drops.waiting(), "message")
        if not dry_run:
            orders.keep(order)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _say(f"{'Would drop' if dry_run else 'Dropping'} {_words(order)}.")
    _say(f"The job log knows {known} under way in fetch that match. It does not know jobs that fetch never took.")
    _say(f"About {waiting} wait for fetch in all. SQS cannot tell which of them match.")
    if not dry_run:
        _say(f"Processes follow within seconds. `image-pipeline drop --remove {order.id}` ends it.")


def _list() -> None:
    for each in orders.read().drops:
        _say(f"{each.id}  {_words(each)}; ends {each.ends:%Y-%m-%d %H:%M} UTC")


def _words(order: Drop) -> str:
    folder = f" of the folder {order.folder}" if order.folder else ""
    host = f" with a source on {order.host}" if order.host else ""
    result = ", without results" if order.silent else ""
    return f"jobs{folder}{host} sent before {order.before:%Y-%m-%d %H:%M:%S} UTC{result}"


def _time(text: str) -> datetime | None:
    """Return a time as people write it, in UTC unless it names another offset."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time such as 2026-12-31T23:59") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False)
