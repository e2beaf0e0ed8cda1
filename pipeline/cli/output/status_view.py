"""Draws the status of the service, and the history of a job, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.events import Outcome
from pipeline.monitoring.job_log.reader import FAILED, Attempt, FailureGroup, HistorySource, JobHistory
from pipeline.monitoring.next_attempt import next_attempt
from pipeline.monitoring.status import ServiceStatus, StageStatus
from pipeline.ops.advice import advice
from pipeline.text import format_duration, plural, printable

#: The style of each outcome.
STYLES = {
    "done": "green",
    "under_way": "cyan",
    "put_off": "cyan",
    "retry": "yellow",
    "partly": "yellow",
    "dropped": "yellow",
    "given_up": "red",
    "rejected": "red",
    "failed": "red",
}

#: Causes of failures to show.
MAX_CAUSES = 5

UNKNOWN = "-"


def of_stages(status: ServiceStatus) -> RenderableType:
    """Draw the needs of an operator, then the stages as a table, the failures of the last hour and hints."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("Stage", no_wrap=True)
    for name in ("Waiting", "Bulk", "In flight", "Delayed", "Dead", "Rate/min", "Oldest"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in status.stages:
        table.add_row(*_cells(stage, status.at))
    parts: list[RenderableType] = [*_needs(status), table]
    if status.failures:
        parts += [Text("Failed in the last hour", style="bold"), _failures(status.failures, status.at)]
    listed = {need.text for need in status.needs}
    parts += [Text(f"• {hint}", style="yellow") for hint in status.hints if hint not in listed]
    return Group(*parts)


def _needs(status: ServiceStatus) -> Iterator[Text]:
    for need in status.needs:
        yield Text(f"• {printable(need.text)}", style="bold red" if need.is_bad else "yellow")
    if not status.needs:
        yield Text("Nothing needs you." if status.processes else "Nothing needs you, as far as the queues show.")


def _cells(stage: StageStatus, now: datetime) -> Iterator[Text]:
    yield Text(stage.stage, style="bold")
    for count in (stage.waiting, stage.bulk, stage.in_flight, stage.delayed):
        yield Text(f"{count:,}", style="" if count else "dim")
    yield Text(f"{stage.dead:,}", style="bold red" if stage.dead else "dim")
    yield Text(
        UNKNOWN if stage.per_minute is None else f"{stage.per_minute:,.1f}", style="" if stage.per_minute else "dim"
    )
    yield Text(_age(stage.oldest, now) if stage.oldest else UNKNOWN, style="" if stage.oldest else "dim")


def _failures(failures: list[FailureGroup], now: datetime) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    for justify in ("right", "left", "left"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(overflow="fold")  # wraps on a narrow terminal
    for failure in failures[:MAX_CAUSES]:
        message = f"{_age(failure.at, now)} ago: {printable(failure.message)}"
        table.add_row(f"{failure.count:,}x", failure.stage, Text(failure.code, style="red"), Text(message))
    if len(failures) > MAX_CAUSES:
        table.add_row("", "", "", f"and {plural(len(failures) - MAX_CAUSES, 'other cause')}")
    return Padding(table, (0, 0, 1, 0))


def of_history(history: JobHistory) -> RenderableType:
    """Draw one job from its first attempt to its last."""
    head = Text.assemble(
        (printable(history.id), "bold"), "  ", (history.status.replace("_", " "), STYLES[history.status])
    )
    if history.status != "done":
        head.append(
            f", {'due' if history.status == 'under_way' else 'failed'} in {history.stage}", STYLES[history.status]
        )
    facts = [f"folder {history.folder}" if history.folder else "", f"{history.lane} lane" if history.lane else ""]
    if history.sweep:
        facts.append(f"run {history.sweep['run']}")
    if history.redrives:
        facts.append(f"redriven {plural(history.redrives, 'time')}")
    took = f"{_age(history.began, history.updated)} until the last attempt"
    when = f"began {history.began.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {took}"
    lines = [head, Text(", ".join(filter(None, facts))), Text(when, style="dim")]
    if waits := next_attempt(history):
        lines.append(Text(f"waits: {waits.text(datetime.now(UTC))}", style="yellow"))
    lines += _advice(history)
    return Group(*lines, Text(), *(_source(source) for source in history.sources), _attempts(history))


def _advice(history: JobHistory) -> Iterator[Text]:
    """Yield what an operator should know about the failures of a job."""
    if history.status in FAILED:
        failed = [attempt for attempt in history.attempts if attempt.outcome in {Outcome.GIVEN_UP, Outcome.REJECTED}]
        for sentence in dict.fromkeys(advice(attempt.stage, attempt.code) for attempt in failed):
            if sentence:
                yield Text(sentence, style="yellow")


def _source(source: HistorySource) -> RenderableType:
    lines = [Text.assemble((", ".join(source.fields), "bold"), f"  {printable(source.url)}")]
    if source.error:
        lines.append(Text(f"  {source.error['code']}: {printable(source.error['message'])}", style="red"))
    # The terminal alone wraps URLs, so that they can be copied.
    lines += [Text(f"  {name:<9} {url}", no_wrap=True, overflow="ignore") for name, url in source.urls.items()]
    return Group(*lines)


def _attempts(history: JobHistory) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("Time, UTC", no_wrap=True)
    table.add_column("Stage", no_wrap=True)
    table.add_column("Outcome", no_wrap=True)
    table.add_column("Took", justify="right", no_wrap=True)
    table.add_column("Waited", justify="right", no_wrap=True)
    table.add_column("")
    day = None
    for _, group in groupby(
        history.attempts, key=lambda attempt: (attempt.stage, attempt.outcome is Outcome.SNOOZED or attempt.at)
    ):
        attempts = list(group)
        last = attempts[-1]
        at = last.at.astimezone(UTC)
        time = f"{at:%H:%M:%S}" if day in {None, at.date()} else f"{at:%m-%d %H:%M:%S}"
        day = day or at.date()
        outcome = Text(last.outcome.replace("_", " "), style=STYLES[last.outcome])
        if len(attempts) > 1:
            outcome.append(f" x {len(attempts)}")
        waited = "" if last.waited is None else format_duration(last.waited)
        table.add_row(time, last.stage, outcome, format_duration(last.seconds), waited, _note(last))
    return table


def _note(attempt: Attempt) -> Text:
    parts = []
    if attempt.redrive:
        parts.append(f"redriven (.r{attempt.redrive})")
    if attempt.attempt > 1:
        parts.append(f"attempt {attempt.attempt}")
    if attempt.deliveries:
        parts.append(", ".join(attempt.deliveries))
    note = "; ".join(parts)
    if attempt.code:
        note += f"{'; ' if note else ''}{attempt.code}: {printable(attempt.message)}"
    if attempt.wait:
        note += f" Again in {format_duration(attempt.wait)}."
    return Text(note)


def _age(moment: datetime, now: datetime) -> str:
    return format_duration((now - moment).total_seconds())
