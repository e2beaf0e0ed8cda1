"""An attempt: its number, what is left of its delays and of its time."""

from __future__ import annotations

import time

import pytest

from pipeline.attempt import Attempt
from pipeline.errors import PermanentError, PipelineError, Retry, RetryableError, Snoozed
from tests.support.jobs import accepted

BUSY = RetryableError("http_503", "Busy.", retry=Retry.SOURCE)


@pytest.mark.parametrize(
    ("error", "failures", "is_last"),
    [
        (BUSY, {"source": 1}, False),
        (BUSY, {"source": 2}, True),
        (BUSY, {"service": 2}, False),
        (Snoozed("host_busy", "Busy.", 1.0), {"source": 2}, False),
        (PermanentError("http_404", "Gone."), {}, True),
    ],
)
def test_it_is_the_last_one_once_the_delays_of_its_error_are_used(
    error: PipelineError, failures: dict[str, int], is_last: bool
) -> None:
    attempt = Attempt("fetch", failures=failures, delays={Retry.SOURCE: (2, 30)})
    assert attempt.is_last_if(error) is is_last
    assert attempt.number == 1 + sum(failures.values())


def test_its_time_ends_at_its_deadline() -> None:
    assert 50 < Attempt("fetch", deadline=time.monotonic() + 60).seconds_left <= 60
    assert Attempt("fetch").seconds_left > 1e9


def test_a_message_without_a_job_goes_by_its_own_id() -> None:
    attempt, job = Attempt("fetch", message_id="message-1"), accepted()
    assert (attempt.job_id, Attempt("fetch", job, "message-1").job_id) == ("message-1", job.id)
    assert Attempt("fetch", job).job is job
    with pytest.raises(ValueError, match="no job"):
        _ = attempt.job
