"""The check that the messages of each stage are taken."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.errors import RetryableError
from pipeline.monitoring.queue_depths import Depth
from pipeline.ops.checks import work
from pipeline.ops.checks.model import Context, Row
from pipeline.settings import Settings

WAITING = [Depth("f", "fetch", "live", 13, 0, 0), Depth("r", "resize", "live", 0, 0, 0)]


def rows(monkeypatch: pytest.MonkeyPatch, found: list[Depth], **settings: str) -> list[Row]:
    """Return what the check reports about these depths, while no process runs and fetch is paused."""
    monkeypatch.setattr(work, "depths", lambda: found)
    monkeypatch.setattr(work, "processes", lambda now: [])
    monkeypatch.setattr(work, "paused", lambda: {"fetch": datetime.now(UTC)})
    return list(work._work(Context(Settings(**settings))))  # type: ignore[arg-type]


def test_messages_that_nobody_takes_are_a_warning_only_if_the_processes_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (guess,) = rows(monkeypatch, WAITING)
    assert (guess.status, guess.subject, guess.hint) == ("skip", "fetch", "Start a process for fetch, or see its log.")
    (known,) = rows(monkeypatch, WAITING, jobs_mongo_url="mongodb://h/jobs")
    assert (known.status, known.subject) == ("warn", "fetch")
    assert "`image-pipeline resume fetch`" in known.hint


def test_without_messages_or_queues_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [row.status for row in rows(monkeypatch, WAITING[1:])] == ["ok"]
    assert [row.status for row in rows(monkeypatch, [])] == ["skip"]


def test_messages_that_cannot_be_counted_are_left_to_the_check_of_sqs(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer() -> list[Depth]:
        raise RetryableError("sqs_error", "SQS does not answer.")

    monkeypatch.setattr(work, "depths", no_answer)
    (row,) = work._work(Context(Settings()))
    assert (row.status, row.message) == ("skip", "They cannot be counted. SQS does not answer.")
