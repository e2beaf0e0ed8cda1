"""`submit --wait` shows what its jobs wait for, from the job log."""

from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console

from pipeline.cli.output.submit_report import Report
from pipeline.clients import aws, lazy
from pipeline.events import Outcome
from pipeline.monitoring.job_log.schema import entry_of
from pipeline.monitoring.job_log.writer import write_entries
from pipeline.ops import submit
from pipeline.ops.submit import Submission
from pipeline.settings import get_settings
from pipeline.stages import FETCH
from tests.integration.monitoring.job_log.test_reader import COVER, attempt, begin, job
from tests.support.waiting import wait_for


@pytest.fixture
def results(database, monkeypatch):
    """Provide a job log and a queue for results; yields the URL of the queue."""
    monkeypatch.setenv("JOBS_MONGO_URL", get_settings().mongo_url.get_secret_value())
    monkeypatch.setattr(submit, "POLL_WITH_PROGRESS", 0)
    lazy.forget()
    begin()
    return aws.sqs().create_queue(QueueName=f"{get_settings().queue_namespace}_submit_x")["QueueUrl"]


def test_each_failed_attempt_is_shown_once_with_the_time_of_the_next(results):
    # given a job that is waited for
    output = io.StringIO()
    sent = Submission({}, "example.org/cover.png", "sent", "job-1", sent_at=time.time())
    report = Report(Console(file=output, width=200), as_json=False, waiting=True)
    waiting = threading.Thread(
        target=submit.wait_for_results, args=([sent], results, 60, report.ended, report.waits), daemon=True
    )
    waiting.start()
    # when its attempts fail
    for number in (1, 2):
        busy = {"attempt": number, "code": "timeout", "message": "No.", "wait": 90, "attempts": 6}
        failed = attempt(FETCH, Outcome.RETRY, number, job(COVER, job_id="job-1"), **busy)
        write_entries([entry_of(failed)])
        wait_for(lambda number=number: f"attempt {number} of 6" in output.getvalue())
    # and the result arrives
    aws.sqs().send_message(
        QueueUrl=results,
        MessageBody="{}",
        MessageAttributes={"job_id": {"DataType": "String", "StringValue": "job-1"}},
    )
    waiting.join(30)
    # then each attempt was shown once, and then the result
    lines = [line for line in output.getvalue().splitlines() if line]
    assert [line.partition(", next in")[0] for line in lines[:2]] == [
        "… example.org/cover.png  fetch: timeout, attempt 1 of 6",
        "… example.org/cover.png  fetch: timeout, attempt 2 of 6",
    ]
    assert lines[2].startswith("✓ example.org/cover.png")
    assert len(lines) == 3


@pytest.mark.parametrize("url", ["notaurl", "ftp://example.org/x.png", "https:///x.png"])
def test_a_mistake_in_the_url_comes_before_a_missing_receiver(url):
    with pytest.raises(submit.SubmitError, match=f"^'{url}' is not an http or https URL.$"):
        submit.read_submissions([url], {}, {})
