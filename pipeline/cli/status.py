"""The command `image-pipeline status`: the stages as a table, or the story of one job."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from pipeline.errors import PipelineError

console = Console()
complaints = Console(stderr=True)

#: Seconds between two looks of `--watch`.
EVERY = 2.0

#: Ids that are shown where more than one begins as it was asked for.
MANY = 10


def status(
    job: Annotated[
        str | None, typer.Argument(help="The id of a job, or its beginning: tells this job's story.", metavar="JOB")
    ] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every two seconds, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch, a line for each look.")] = False,
) -> None:
    """Show what is going on: for each stage what waits, is in flight, delayed and dead, its rate and its oldest job.

    Counts are SQS's own, approximate and a few seconds old. Rates (jobs a minute that passed a stage, in the last two),
    the oldest job due in a stage and the failures of the last hour come from the job log: without JOBS_MONGO_URL they
    are not known. The log knows a job from its first turn on, so one that only waits for fetch has no age here.

    With JOB, tell its story: when each stage worked on it, how long, how it ended and why, and the URLs.
    """
    from pipeline.cli import status_view as view  # noqa: PLC0415 - boto3 is slow to import
    from pipeline.monitoring.job_log.reader import history  # noqa: PLC0415
    from pipeline.monitoring.status import read_status  # noqa: PLC0415

    if not job:
        _show(read_status, view.of_stages, watch=watch, as_json=as_json)
    else:
        job_id = _id_of(job)
        _show(lambda: history(job_id), view.of_history, watch=watch, as_json=as_json)


def _id_of(asked: str) -> str:
    """The one job whose id is `asked`, or begins so."""
    from pipeline.monitoring.job_log.reader import history, matching  # noqa: PLC0415

    if found := history(asked):
        return found.id
    ids = matching(asked, MANY + 1)
    if len(ids) == 1:
        return ids[0]
    if ids:
        shown = "\n".join(f"  {each}" for each in ids[:MANY]) + ("\n  …" if len(ids) > MANY else "")
        _complain(f"More than one job's id begins with {asked!r}:\n{shown}")
    else:
        _complain(
            f"The job log knows no job {asked!r}. It has a job from its first turn on, for 30 days after its last."
        )
    raise typer.Exit(1)


def _show(look: Callable[[], Any], draw: Callable[[Any], RenderableType], *, watch: bool, as_json: bool) -> None:
    """Show what `look` finds, once or again and again. While watching, trouble is shown and waited out."""

    def say(drawing: RenderableType) -> None:
        console.print(drawing, crop=False)  # a long URL stays one line, which can be copied

    def once(say: Callable[[RenderableType], None]) -> RenderableType:
        found = look()
        if as_json:
            typer.echo(json.dumps(asdict(found), default=_plain))
            return ""
        drawing = draw(found)
        say(drawing)
        return drawing

    if not watch:
        once(say)
        return
    live = Live(console=console, auto_refresh=False) if console.is_terminal and not as_json else None
    with suppress(KeyboardInterrupt):
        if live is None:
            _again_and_again(lambda: once(say), say)
            return
        with live:
            refresh = lambda drawing: live.update(drawing, refresh=True)  # noqa: E731
            _again_and_again(lambda: once(refresh), refresh)


def _again_and_again(once: Callable[[], RenderableType], say: Callable[[RenderableType], None]) -> None:
    last = once()
    while True:
        time.sleep(EVERY)
        try:
            last = once()
        except PipelineError as trouble:
            say(Group(last, Text(f"\n{trouble.message} Looking again.", style="red")))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _complain(sentence: str) -> None:
    complaints.print("[bold red]error:[/]", Text(sentence), highlight=False, soft_wrap=True)
