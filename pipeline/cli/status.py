"""The command `image-pipeline status`: the stages as a table, or the history of one job."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from pipeline.cli.output import status_view
from pipeline.cli.output.terminal import console, fail, interruptible, new_app
from pipeline.clients import mongo
from pipeline.errors import PipelineError
from pipeline.monitoring.job_log.reader import JobHistory, history, matching
from pipeline.monitoring.status import read_status

app = new_app()

#: Seconds between two refreshes of `--watch`.
INTERVAL = 2.0

#: Ids to list when the given beginning matches more than one job.
MAX_MATCHES = 10


@app.command()
def status(
    job: Annotated[
        str | None, typer.Argument(help="A job id or its beginning: show the history of this job.", metavar="JOB")
    ] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every two seconds, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch, one line per refresh.")] = False,
) -> None:
    """Show waiting, in-flight, delayed and dead messages of each stage, its rate and its oldest job.

    Counts come from SQS; they are approximate and a few seconds old. The job log provides the rates (jobs per minute
    that passed a stage in the last two minutes), the oldest job due in a stage and the failures of the last hour.
    Without JOBS_MONGO_URL these are unknown. The job log contains a job from its first attempt on, so a job that only
    waits for fetch has no age here.

    With JOB, show its history: when each stage worked on it, how long it took, the outcome with its reason, and the
    URLs.
    """
    if not job:
        _show(read_status, status_view.of_stages, watch=watch, as_json=as_json)
    else:
        job_id = find_id(job)
        _show(lambda: _history(job_id), status_view.of_history, watch=watch, as_json=as_json)


def _history(job_id: str) -> JobHistory | None:
    with mongo.within():
        return history(job_id)


def find_id(given: str) -> str:
    """Return the id of the only job whose id is `given` or begins with it; fail if there is not exactly one."""
    with mongo.within():
        found = history(given)
        ids = [found.id] if found else matching(given, MAX_MATCHES + 1)
    if len(ids) == 1:
        return ids[0]
    if ids:
        shown = "\n".join(f"  {each}" for each in ids[:MAX_MATCHES]) + ("\n  …" if len(ids) > MAX_MATCHES else "")
        error = f"More than one job's id begins with {given!r}:\n{shown}"
    else:
        error = (
            f"The job log does not contain a job {given!r}. It keeps jobs from their first attempt until 30 days after "
            "their last."
        )
    return fail(error, status=1)


def _show(look: Callable[[], Any], draw: Callable[[Any], RenderableType], *, watch: bool, as_json: bool) -> None:
    """Show the result of `look` once, or repeatedly. While watching, errors are shown and `look` is repeated."""
    live = Live(console=console, auto_refresh=False) if watch and console.is_terminal and not as_json else None

    def show(drawing: RenderableType) -> None:
        if live:
            live.update(drawing, refresh=True)
        else:
            console.print(drawing, crop=False)  # a long URL stays on one line, so that it can be copied

    def once() -> RenderableType:
        found = look()
        if as_json:
            typer.echo(json.dumps(asdict(found, dict_factory=_with_keys), default=_as_json))
            return ""
        show(drawing := draw(found))
        return drawing

    if not watch:
        once()
        return
    with interruptible(), suppress(KeyboardInterrupt), live or nullcontext():
        last = once()
        while True:
            time.sleep(INTERVAL)
            try:
                last = once()
            except PipelineError as error:
                show(Group(last, Text(f"\n{error.message} Trying again.", style="red")))


def _with_keys(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object with the fields of a dataclass. Two keys are older than the names in the code."""
    found = dict(fields)
    if "outcome" in found:
        found["verdict"] = found.pop("outcome")
    if isinstance(found.get("attempts"), tuple):
        found["turns"] = found.pop("attempts")
    return found


def _as_json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")
