"""What a job under way waits for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.events import Outcome
from pipeline.monitoring.job_log.reader import Attempt, JobHistory
from pipeline.monitoring.next_attempt import next_attempt

NOW = datetime(2026, 12, 1, tzinfo=UTC)


def history(status: Any = "under_way", outcome: Outcome = Outcome.RETRY, **more: Any) -> JobHistory:
    attempt = Attempt("fetch", outcome, NOW, 0.1, code="http_500", **{"wait": 60, **more})
    return JobHistory("job", status, "fetch", began=NOW, updated=NOW, attempts=(attempt,))


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (history(attempt=6, attempts=6, wait=5), "fetch: http_500, attempt 6 of 6, next now"),
        (history(attempt=4, attempts=6), "fetch: http_500, attempt 4 of 6, next in 50 s"),
        (history(attempt=4), "fetch: http_500, attempt 4, next in 50 s"),
        (history(outcome=Outcome.SNOOZED), "fetch waits for a slot (http_500), next in 50 s"),
    ],
)
def test_the_last_attempt_and_the_wait_are_told(found: JobHistory, text: str) -> None:
    waits = next_attempt(found)
    assert waits
    assert waits.text(NOW + timedelta(seconds=10)) == text


@pytest.mark.parametrize("found", [history(status="failed"), history(outcome=Outcome.DONE)])
def test_jobs_without_a_next_attempt(found: JobHistory) -> None:
    assert next_attempt(found) is None
