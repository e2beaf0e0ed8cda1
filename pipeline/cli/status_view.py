"""How the status of the service, and the story of a job, are drawn in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.events import Outcome
from pipeline.monitoring.job_log.reader import Attempt, FailureGroup, HistorySource, JobHistory
from pipeline.monitoring.status import ServiceStatus, StageStatus
from pipeline.text import printable

#: How an outcome is drawn.
STYLES = {
    "done": "green",
    "under_way": "cyan",
    "put_off": "cyan",
    "retry": "yellow",
    "partly": "yellow",
    "given_up": "red",
    "rejected": "red",
    "failed": "red",
}

#: Causes of failures that are shown.
CAUSES = 5

NOT_KNOWN = "-"


def of_stages(status: ServiceStatus) -> RenderableType:
    """The stages as a table, the latest failures, and what a person should know."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("Stage", no_wrap=True)
    for name in ("Waiting", "Bulk", "In flight", "Delayed", "Dead", "Rate/min", "Oldest"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in status.stages:
        table.add_row(*_cells(stage, status.at))
    parts: list[RenderableType] = [table]
    if status.failures:
        parts += [Text("Failed in the last hour", style="bold"), _failures(status.failures, status.at)]
    parts += [Text(f"• {hint}", style="yellow") for hint in status.hints]
    return Group(*parts)


def _cells(stage: StageStatus, now: datetime) -> Iterator[Text]:
    yield Text(stage.stage, style="bold")
    for count in (stage.waiting, stage.bulk, stage.in_flight, stage.delayed):
        yield Text(f"{count:,}", style="" if count else "dim")
    yield Text(f"{stage.dead:,}", style="bold red" if stage.dead else "dim")
    yield Text(
        NOT_KNOWN if stage.per_minute is None else f"{stage.per_minute:,.1f}", style="" if stage.per_minute else "dim"
    )
    yield Text(_span(now - stage.oldest) if stage.oldest else NOT_KNOWN, style="" if stage.oldest else "dim")


def _failures(failures: list[FailureGroup], now: datetime) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    for justify in ("right", "left", "left"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(overflow="fold")  # the one that gives way where the terminal is narrow
    for failure in failures[:CAUSES]:
        said = f"{_span(now - failure.at)} ago: {printable(failure.message)}"
        table.add_row(f"{failure.count:,}x", failure.stage, Text(failure.code, style="red"), Text(said))
    if len(failures) > CAUSES:
        table.add_row("", "", "", f"and {len(failures) - CAUSES} other causes")
    return Padding(table, (0, 0, 1, 0))


def of_history(history: JobHistory) -> RenderableType:
    """One job from its first turn to its last."""
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
        facts.append("sent through again " + ("once" if history.redrives == 1 else f"{history.redrives} times"))
    took = f"{_span(history.updated - history.began)} until the last turn"
    when = f"began {history.began.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {took}"
    lines = [head, Text(", ".join(filter(None, facts))), Text(when, style="dim")]
    return Group(*lines, Text(), *(_source(source) for source in history.sources), _attempts(history))


def _source(source: HistorySource) -> RenderableType:
    lines = [Text.assemble((", ".join(source.fields), "bold"), f"  {printable(source.url)}")]
    if source.error:
        lines.append(Text(f"  {source.error['code']}: {printable(source.error['message'])}", style="red"))
    # A URL is never broken by us: a terminal wraps it where it must, and it can be copied.
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
    for _, group in groupby(history.turns, key=lambda turn: (turn.stage, turn.verdict is Outcome.SNOOZED or turn.at)):
        turns = list(group)
        last = turns[-1]
        at = last.at.astimezone(UTC)
        time = f"{at:%H:%M:%S}" if day in {None, at.date()} else f"{at:%m-%d %H:%M:%S}"
        day = day or at.date()
        outcome = Text(last.verdict.replace("_", " "), style=STYLES[last.verdict])
        if len(turns) > 1:
            outcome.append(f" x {len(turns)}")
        waited = "" if last.waited is None else _span(timedelta(seconds=last.waited))
        table.add_row(time, last.stage, outcome, _span(timedelta(seconds=last.seconds)), waited, _note(last))
    return table


def _note(turn: Attempt) -> Text:
    parts = []
    if turn.redrive:
        parts.append(f"sent through again (.r{turn.redrive})")
    if turn.attempt > 1:
        parts.append(f"attempt {turn.attempt}")
    if turn.deliveries:
        parts.append(", ".join(turn.deliveries))
    said = "; ".join(parts)
    if turn.code:
        said += f"{'; ' if said else ''}{turn.code}: {printable(turn.message)}"
    if turn.wait:
        said += f" Again in {_span(timedelta(seconds=turn.wait))}."
    return Text(said)


def _span(span: timedelta) -> str:
    """A time span in a few characters: `0.52 s`, `12 s`, `4 min`, `2.5 h`, `3 d`."""
    seconds = max(0.0, span / timedelta(seconds=1))
    for limit, unit, name, digits in ((10, 1, "s", 2), (90, 1, "s", 0), (5400, 60, "min", 0), (172_800, 3600, "h", 1)):
        if seconds < limit:
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 86400:.0f} d"
