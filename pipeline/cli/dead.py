"""The commands `image-pipeline dead ...`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeRemainingColumn
from rich.table import Table

from pipeline.cli.output.terminal import confirmed, console, interruptible, new_app
from pipeline.clients import mongo
from pipeline.errors import PipelineError
from pipeline.monitoring.job_log.reader import history, matching
from pipeline.ops.advice import advice
from pipeline.ops.dead_letters import actions
from pipeline.ops.dead_letters.actions import Counts, Survey
from pipeline.ops.dead_letters.dead_letter import DeadLetter, Filter
from pipeline.settings import get_settings
from pipeline.stages import DEAD_LETTER_QUEUES
from pipeline.text import format_duration, parse_age, plural, printable

app = new_app(help="List dead letters (jobs that failed for good or were rejected), redrive them, or delete them.")

#: Dead letters that a list shows.
SHOWN = 50

#: Characters of an id that a list shows; the commands accept ids of this length.
SHORT = 8

Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", help="Only dead letters whose id, or whose job's id, begins like this."),
]
StageOption = Annotated[
    str | None,
    typer.Option("--stage", help=f"Only dead letters of this stage: {', '.join(DEAD_LETTER_QUEUES)}.", metavar="STAGE"),
]
Code = Annotated[str | None, typer.Option(help="Only errors with this code, such as http_404.", metavar="CODE")]
Host = Annotated[
    str | None,
    typer.Option(help="Only jobs with an image at this host; in notify, or a postback URL there.", metavar="HOST"),
]
OlderThan = Annotated[
    str | None, typer.Option(help="Only failures older than this: 90s, 30m, 12h, 7d or 2w.", metavar="AGE")
]


@app.command(name="list")
def list_(
    *,
    stage: StageOption = None,
    code: Code = None,
    host: Host = None,
    older_than: OlderThan = None,
    limit: Annotated[int, typer.Option(help="Maximum number of dead letters to show.", metavar="N", min=1)] = SHOWN,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line for each dead letter.")] = False,
) -> None:
    """Count the dead letters by stage and code, and show the latest.

    Other readers cannot see the dead letters while this command reads them. All are visible again when it ends.
    """
    filter_ = _filter(stage, code, host, older_than)
    with interruptible():
        found = actions.survey(filter_, keep=limit)
    if as_json:
        for letter in found.latest:
            _print_json(letter.as_dict())
        return
    if found.total:
        _show_groups(found)
        _show_letters(found.latest)
    else:
        console.print(_nothing(filter_))
    if found.total > len(found.latest):
        console.print(f"The latest {len(found.latest):,} of {found.total:,}: --limit shows more.", highlight=False)
    _show_limits(found)


@app.command()
def show(
    id_: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="The id of a dead letter or a job, or its beginning; or the MessageId of an input."
        ),
    ],
    *,
    payload: Annotated[
        bool, typer.Option("--payload", help="Also show the payload that the producer sent, without probable secrets.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show one dead letter: the error, the times, the job with its images, and the result of a redrive."""
    with interruptible():
        letters = actions.browse(_filter(ids=[id_]))
    if not letters:
        console.print(escape(f"No dead letter has an id, or a job id, that begins with {id_!r}."), highlight=False)
        _show_jobs([id_])
        raise typer.Exit(1)
    if len(letters) > 1:
        _show_letters(letters[:SHOWN], whole_ids=True)
        console.print(f"{len(letters):,} dead letters match this id: choose one of them.", highlight=False)
        raise typer.Exit(1)
    (letter,) = letters
    text = actions.payload(letter) if payload else None
    if as_json:
        _print_json(letter.as_dict() | ({"payload": text} if payload else {}))
        return
    _show_letter(letter)
    if text is not None:
        console.print("\nPayload", style="bold")
        console.print(escape(text), highlight=False, soft_wrap=True)


@app.command()
def redrive(
    ids: Ids = None,
    *,
    stage: StageOption = None,
    code: Code = None,
    host: Host = None,
    older_than: OlderThan = None,
    limit: Annotated[
        int | None, typer.Option(help="Maximum number of dead letters to send.", metavar="N", min=1)
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Maximum number of dead letters per second, over all stages.", metavar="N", min=0.1)
    ] = actions.RATE,
    yes: Annotated[bool, typer.Option("--yes", help="Send them without asking.")] = False,
) -> None:
    """Send dead letters through the pipeline again: all, or only dead letters that match every option.

    Shows first which dead letters it would send. Sends nothing without --yes or your confirmation.

    A job resumes where it failed, with the bytes that wait in staging, and reports under a new id. A dead letter is
    deleted once SQS has confirmed its message. A job that fails again becomes a new dead letter. The exit status is 1
    if nothing can be redriven, such as a job that is still under way.
    """
    filter_ = _filter(stage, code, host, older_than, ids or [])
    found = _survey(filter_)
    if not found.total:
        raise typer.Exit(1)
    number = min(found.sendable, limit or found.sendable)
    if not number:
        console.print("None of them can be redriven.")
        raise typer.Exit(1)
    if not confirmed(yes, f"Redrive {plural(number, 'dead letter')}, at most {rate:g} per second?", "--yes sends them"):
        return
    counts = Counts()
    began = time.monotonic()
    try:
        with interruptible(), _bar(number) as advance:

            def show(now: Counts) -> None:
                nonlocal counts
                counts = now
                advance(now.attempted)

            actions.redrive(filter_, rate=rate, limit=number, until=found.newest, progress=show)
    finally:
        _show_counts(counts, number, time.monotonic() - began)
    if counts.unsent or counts.kept:
        raise typer.Exit(1)


@app.command()
def purge(
    ids: Ids = None,
    *,
    stage: StageOption = None,
    code: Code = None,
    host: Host = None,
    older_than: OlderThan = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them without asking.")] = False,
) -> None:
    """Delete dead letters permanently: all, or only dead letters that match every option.

    Shows first which dead letters it would delete. Deletes nothing without --yes or your confirmation. The bytes of
    their jobs in staging expire by themselves.
    """
    filter_ = _filter(stage, code, host, older_than, ids or [])
    found = _survey(filter_)
    if not found.total:
        return
    if not confirmed(yes, f"Delete {plural(found.total, 'dead letter')} permanently?", "--yes deletes them"):
        return
    deleted = 0
    try:
        with interruptible(), _bar(found.total) as advance:

            def show(number: int) -> None:
                nonlocal deleted
                deleted = number
                advance(number)

            actions.purge(filter_, until=found.newest, limit=found.total, progress=show)
    finally:
        console.print(f"Deleted {plural(deleted, 'dead letter')}.", highlight=False)
    if deleted < found.total:
        raise typer.Exit(1)


def _survey(filter_: Filter) -> Survey:
    """Count the matching dead letters and show them by stage and code."""
    with interruptible():
        found = actions.survey(filter_)
    if found.total:
        _show_groups(found)
    else:
        console.print(_nothing(filter_))
        _show_jobs(filter_.ids)
    _show_limits(found)
    return found


def _show_jobs(ids: Sequence[str]) -> None:
    """Show the state of the jobs with these ids in the job log, because they have no dead letter."""
    if get_settings().jobs_mongo_url is None:
        return
    with suppress(PipelineError), mongo.within():
        for job_id in dict.fromkeys(each for prefix in ids for each in matching(prefix, 2)):
            if found := history(job_id):
                where = f" in {found.stage}" if found.status == "under_way" else ""
                state = f"The job {found.id} is {found.status.replace('_', ' ')}{where}."
                console.print(escape(printable(state)), highlight=False)


def _filter(
    stage: str | None = None,
    code: str | None = None,
    host: str | None = None,
    older_than: str | None = None,
    ids: Sequence[str] = (),
) -> Filter:
    try:
        before = datetime.now(UTC) - parse_age(older_than) if older_than is not None else None
        return Filter(stage=stage, code=code, host=host, failed_before=before, ids=tuple(ids))
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error)) from None


def _nothing(filter_: Filter) -> str:
    return "No dead letter matches." if any(vars(filter_).values()) else "No dead letters were found."


def _show_groups(found: Survey) -> None:
    """Show the dead letters by stage and code, with an example, or with the reason why a redrive leaves them."""
    table = Table("Stage", "Code", box=None, pad_edge=False)
    table.add_column("Dead letters", justify="right")
    table.add_column("Example", overflow="fold")
    order = list(DEAD_LETTER_QUEUES)
    for (stage, code, obstacle), number in sorted(
        found.groups.items(), key=lambda group: (order.index(group[0][0]), -group[1])
    ):
        example = escape(found.examples[stage, code])
        note = f"[yellow]A redrive leaves them.[/] {escape(obstacle)}" if obstacle else example
        table.add_row(stage, escape(code), f"{number:,}", note)
    console.print(table)


def _show_letters(letters: Sequence[DeadLetter], *, whole_ids: bool = False) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("Dead letter", "Stage", "Code"):
        table.add_column(name, no_wrap=True)
    table.add_column("Age", justify="right")
    table.add_column("Attempts", justify="right")
    table.add_column("Images", overflow="fold")
    now = datetime.now(UTC)
    for letter in letters:
        id_ = letter.id if whole_ids else letter.id[:SHORT]
        attempts = str(letter.attempts or "-")
        images = "\n".join(map(escape, letter.urls)) or "[dim]-[/]"
        table.add_row(
            id_,
            letter.stage,
            escape(letter.code),
            format_duration((now - letter.last_at).total_seconds(), whole=True),
            attempts,
            images,
        )
    console.print()
    console.print(table)


def _show_letter(letter: DeadLetter) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(letter):
        table.add_row(name, escape(value))
    console.print(table)


def _rows(letter: DeadLetter) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each detail of a dead letter."""
    yield "Dead letter", f"{letter.id} in {letter.queue}"
    yield "Reason", f"{letter.code}: {letter.message}"
    yield "Attempts", str(letter.attempts or "unknown")
    for name, time_ in (
        ("First sent", letter.first_at),
        ("Failed", letter.last_at),
        ("Kept until", letter.kept_until),
    ):
        yield name, f"{time_:%Y-%m-%d %H:%M:%S} UTC"
    if job := letter.job:
        yield "Job", f"{job.id or 'none yet'}, folder {job.folder}, {job.lane} lane"
        if job.sweep:
            yield "Sweep", f"{job.sweep.collection}, run {job.sweep.run}"
        for source, url in zip(job.sources, letter.urls, strict=True):
            error = f"failed in {source.error['stage']}: {source.error['code']}" if source.error else ""
            yield ", ".join(source.fields), f"{url} ({error or f'due in {source.due}'})"
        for name in job.deliveries or ():
            yield "Delivery", name
        if letter.report_id and not letter.obstacle:
            yield "Reported as", letter.report_id
    if text := advice(letter.stage, letter.code):
        yield "Advice", text
    yield "Redrive", f"leaves it. {letter.obstacle}" if letter.obstacle else f"sends it to {letter.target}"


def _show_limits(found: Survey) -> None:
    """Report dead letters that could not be read."""
    if found.hidden:
        console.print(
            f"About {found.hidden:,} more are hidden because another command reads them, or was killed while it did. "
            "They reappear by themselves in a few minutes.",
            highlight=False,
        )
    if not found.complete:
        console.print("Not all could be read: SQS allows 120,000 messages in flight per queue.", style="yellow")


def _show_counts(counts: Counts, number: int, seconds: float) -> None:
    sent = counts.sent.total()
    console.print(f"Redrove {plural(sent, 'dead letter')} in {seconds:.1f} s.", highlight=False)
    for why, count in counts.unsent.items():
        console.print(f"[red]{count:,} could not be sent[/] and remain: {escape(why)}", highlight=False)
    if counts.kept:
        console.print(
            f"[red]{counts.kept:,} were sent, but their dead letters could not be deleted.[/]", highlight=False
        )
    if missing := number - counts.attempted:
        console.print(f"{missing:,} of {number:,} were not sent: they remain, or another command took them.")


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar if this is a terminal; yield a function that sets the number done."""
    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def _print_json(fields: object) -> None:
    console.out(json.dumps(fields), highlight=False)
