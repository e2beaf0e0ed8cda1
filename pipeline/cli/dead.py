"""The commands `image-pipeline dead ...`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeRemainingColumn
from rich.table import Table

from pipeline.cli.durations import parse_age, shown_age
from pipeline.cli.signals import until_a_signal
from pipeline.stages import DEAD_LETTER_QUEUES

if TYPE_CHECKING:
    from pipeline.ops.dead_letters.actions import Counts, DeadLetter, Filter, Survey

app = typer.Typer(
    no_args_is_help=True,
    help="Look at what was given up or refused, send it through again, delete it.",
)
console = Console()

#: Letters that a list shows.
SHOWN = 50

#: Characters of an id that a list shows: enough to name a letter by.
SHORT = 8

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Only these letters or jobs; the first characters do.")
]
StageOption = Annotated[
    str | None, typer.Option("--stage", help=f"Only of this stage: {', '.join(DEAD_LETTER_QUEUES)}.", metavar="STAGE")
]
Code = Annotated[str | None, typer.Option(help="Only errors of this code, as http_404.", metavar="CODE")]
Host = Annotated[
    str | None,
    typer.Option(help="Only with an image at this host; of notify, also with its receiver there.", metavar="HOST"),
]
OlderThan = Annotated[
    str | None, typer.Option(help="Only given up before that: 90s, 30m, 12h, 7d or 2w ago.", metavar="AGE")
]


@app.command(name="list")
def list_(
    *,
    stage: StageOption = None,
    code: Code = None,
    host: Host = None,
    older_than: OlderThan = None,
    limit: Annotated[int, typer.Option(help="Letters to show at the most, the latest.", metavar="N", min=1)] = SHOWN,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line for each letter.")] = False,
) -> None:
    """Count the letters by stage and code, and show the latest.

    Others do not see the letters while they are read; all are there again when the command ends.
    """
    from pipeline.ops.dead_letters.actions import survey  # noqa: PLC0415 - boto3 is slow to import

    meant = _filter(stage, code, host, older_than)
    with until_a_signal():
        found = survey(meant, keep=limit)
    if as_json:
        for letter in found.latest:
            _print_json(letter.as_dict())
        return
    if found.total:
        _show_groups(found)
        _show_letters(found.latest)
    else:
        console.print(_nothing(meant))
    if found.total > len(found.latest):
        console.print(f"The latest {len(found.latest):,} of {found.total:,}: --limit shows more.", highlight=False)
    _show_limits(found)


@app.command()
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A letter or a job; the first characters do.")],
    *,
    payload: Annotated[
        bool, typer.Option("--payload", help="Also what the producer sent, without what looks like a secret.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show one letter whole: the reason, the times, the job and its images, and what a redrive would do."""
    from pipeline.ops.dead_letters.actions import browse  # noqa: PLC0415
    from pipeline.ops.dead_letters.actions import payload as payload_of  # noqa: PLC0415

    meant = _filter(ids=[id_])
    with until_a_signal():
        letters = browse(meant)
    if not letters:
        console.print(escape(f"There is no letter, and no job of one, whose id begins with {id_!r}."), highlight=False)
        raise typer.Exit(1)
    if len(letters) > 1:
        _show_letters(letters[:SHOWN], whole_ids=True)
        console.print(f"{len(letters):,} letters have such an id: name one of them.", highlight=False)
        raise typer.Exit(1)
    (letter,) = letters
    text = payload_of(letter) if payload else None
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
    limit: Annotated[int | None, typer.Option(help="Letters to send at the most.", metavar="N", min=1)] = None,
    rate: Annotated[
        float, typer.Option(help="Letters a second at the most, of all stages together.", metavar="N", min=0.1)
    ] = 100,
    yes: Annotated[bool, typer.Option("--yes", help="Send them without asking.")] = False,
) -> None:
    """Send letters through again: all, or those that fit every option.

    Shows first what it would do. Sends nothing without --yes or your word.

    A job goes on from where it failed, with the bytes that wait in staging, and reports under a new id. A letter is
    deleted once SQS has confirmed its message. What fails again becomes a new letter.
    """
    from pipeline.ops.dead_letters import actions as dead_letters  # noqa: PLC0415

    meant = _filter(stage, code, host, older_than, ids or [])
    with until_a_signal():
        found = dead_letters.survey(meant)
    if not found.total:
        console.print(_nothing(meant))
        _show_limits(found)
        return
    _show_groups(found, redriven=True)
    _show_limits(found)
    number = min(found.sendable, limit or found.sendable)
    if not number:
        console.print("None of them can be sent through again.")
        return
    if not _is_wanted(yes, f"Send {_letters(number)} through again, at most {rate:g} a second?", "--yes sends them"):
        return
    counts = dead_letters.Counts()
    began = time.monotonic()
    try:
        with until_a_signal(), _bar(number) as advance:

            def told(now: Counts) -> None:
                nonlocal counts
                counts = now
                advance(now.sent.total() + now.unsent.total())

            counts = dead_letters.redrive(meant, rate=rate, limit=limit, until=found.newest, progress=told)
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
    """Delete letters for good: all, or those that fit every option.

    Shows first which. Deletes nothing without --yes or your word. What their jobs have in staging expires by itself.
    """
    from pipeline.ops.dead_letters import actions as dead_letters  # noqa: PLC0415

    meant = _filter(stage, code, host, older_than, ids or [])
    with until_a_signal():
        found = dead_letters.survey(meant)
    if not found.total:
        console.print(_nothing(meant))
        _show_limits(found)
        return
    _show_groups(found)
    _show_limits(found)
    if not _is_wanted(yes, f"Delete {_letters(found.total)} for good?", "--yes deletes them"):
        return
    deleted = 0
    try:
        with until_a_signal(), _bar(found.total) as advance:

            def told(number: int) -> None:
                nonlocal deleted
                deleted = number
                advance(number)

            dead_letters.purge(meant, until=found.newest, progress=told)
    finally:
        console.print(f"Deleted {_letters(deleted)}.", highlight=False)
    if deleted < found.total:
        raise typer.Exit(1)


def _filter(
    stage: str | None = None,
    code: str | None = None,
    host: str | None = None,
    older_than: str | None = None,
    ids: Sequence[str] = (),
) -> Filter:
    from pipeline.ops.dead_letters.actions import Filter  # noqa: PLC0415

    try:
        age = parse_age(older_than) if older_than is not None else None
        return Filter(stage=stage, code=code, host=host, older_than=age, ids=tuple(ids))
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error)) from None


def _nothing(meant: Filter) -> str:
    return "There is no such letter." if any(vars(meant).values()) else "No dead letter was found."


def _is_wanted(yes: bool, question: str, hint: str) -> bool:
    if yes or (sys.stdin.isatty() and typer.confirm(question)):
        return True
    console.print("Nothing was changed." if sys.stdin.isatty() else f"Nothing was changed: {hint}.")
    return False


def _show_groups(found: Survey, *, redriven: bool = False) -> None:
    """The letters by stage and code; where they are to be redriven, with those that are left and why."""
    table = Table("Stage", "Code", box=None, pad_edge=False)
    table.add_column("Letters", justify="right")
    table.add_column("A redrive" if redriven else "One of them says", overflow="fold")
    groups = found.groups if redriven else _by_code(found)
    places = list(DEAD_LETTER_QUEUES)
    for (stage, code, text), number in sorted(groups.items(), key=lambda group: (places.index(group[0][0]), -group[1])):
        says = (f"[yellow]leaves them.[/] {escape(text)}" if text else "sends them") if redriven else escape(text)
        table.add_row(stage, escape(code), f"{number:,}", says)
    console.print(table)


def _by_code(found: Survey) -> dict[tuple[str, str, str], int]:
    groups: dict[tuple[str, str, str], int] = {}
    for (stage, code, _), number in found.groups.items():
        key = (stage, code, found.says[stage, code])
        groups[key] = groups.get(key, 0) + number
    return groups


def _show_letters(letters: Sequence[DeadLetter], *, whole_ids: bool = False) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("Letter", "Stage", "Code"):
        table.add_column(name, no_wrap=True)
    table.add_column("Age", justify="right")
    table.add_column("Tries", justify="right")
    table.add_column("Images", overflow="fold")
    now = datetime.now(UTC)
    for letter in letters:
        id_ = letter.id if whole_ids else letter.id[:SHORT]
        tries = str(letter.attempts or "-")
        images = "\n".join(map(escape, letter.urls)) or "[dim]-[/]"
        table.add_row(id_, letter.stage, escape(letter.code), shown_age(now - letter.last_at), tries, images)
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
    """What there is to say of a letter."""
    yield "Letter", f"{letter.id} in {letter.queue}"
    yield "Reason", f"{letter.code}: {letter.message}"
    yield "Attempts", str(letter.attempts or "not known")
    for name, time_ in (
        ("First sent", letter.first_at),
        ("Given up", letter.last_at),
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
    yield "A redrive", f"leaves it. {letter.obstacle}" if letter.obstacle else f"sends it to {letter.target}"


def _show_limits(found: Survey) -> None:
    """What was not seen."""
    if found.elsewhere:
        console.print(
            f"About {found.elsewhere:,} more are hidden: another command reads them, or one was killed that did. They "
            "come back by themselves, in some minutes.",
            highlight=False,
        )
    if not found.complete:
        console.print("Not all could be read: SQS hides no more than 120,000 at a time.", style="yellow")


def _show_counts(counts: Counts, number: int, seconds: float) -> None:
    sent = counts.sent.total()
    console.print(f"Sent {_letters(sent)} through again in {seconds:.1f} s.", highlight=False)
    for why, count in counts.unsent.items():
        console.print(f"[red]{count:,} could not be sent[/] and are where they were: {escape(why)}", highlight=False)
    if counts.kept:
        console.print(f"[red]{counts.kept:,} were sent, and their letters could not be deleted.[/]", highlight=False)
    if missing := number - sent - counts.unsent.total():
        console.print(f"{missing:,} of {number:,} were not met: they are where they were, or somebody took them.")


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar where this is a terminal; call what it yields with how many are done."""
    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def _print_json(fields: object) -> None:
    console.out(json.dumps(fields), highlight=False)


def _letters(number: int) -> str:
    return f"{number:,} letter{'' if number == 1 else 's'}"
