"""Checks that the messages of each stage are taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from pipeline.clients import mongo
from pipeline.errors import RetryableError
from pipeline.monitoring.pauses import paused
from pipeline.monitoring.processes import Process, processes
from pipeline.monitoring.queue_depths import depths
from pipeline.monitoring.stalls import stalls
from pipeline.ops.checks.model import Check, Context, Row, ok, skip, warn


def _work(context: Context) -> Iterator[Row]:
    """Count the messages of each stage, and read the heartbeats of the processes."""
    now = datetime.now(UTC)
    try:
        found = depths()
    except RetryableError as error:
        yield skip("messages", f"They cannot be counted. {error.message}")
        return
    seen, pauses = _seen(context, now)
    if not found:
        yield skip("messages", "No queue exists.")
        return
    stalled = stalls(found, seen, now, paused=pauses)
    for stage, sentence in stalled.items():
        row = skip if seen is None else warn  # without heartbeats it is a guess
        yield row(stage, sentence, _hint(stage, pauses))
    if not stalled:
        yield ok("messages", "No stage has messages that nobody takes.")


def _hint(stage: str, pauses: Mapping[str, datetime]) -> str:
    if stage in pauses:
        return f"`image-pipeline resume {stage}` lets it go on."
    return f"Start a process for {stage}, or see its log."


def _seen(context: Context, now: datetime) -> tuple[list[Process] | None, dict[str, datetime]]:
    """Return the processes, None if they are unknown, and since when stages have been paused."""
    if context.settings.jobs_mongo_url is None:
        return None, {}
    try:
        with mongo.within():
            return processes(now), paused()
    except RetryableError:  # the check of the job log reports it
        return None, {}


CHECKS = (Check("Work", "messages", _work, frozenset({"operator", "dashboard", "ingest"})),)
