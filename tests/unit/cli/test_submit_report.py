"""The report of `submit`."""

from __future__ import annotations

import io

from rich.console import Console

from pipeline.cli.output.submit_report import Report
from pipeline.ops.submit import Submission


def test_a_job_without_a_result_points_to_its_status():
    output = io.StringIO()
    report = Report(Console(file=output, width=200), as_json=False, waiting=True)
    report.ended(Submission({}, "example.org/cover.png", "no_result", "6fa459ea-ee8a"))
    assert "`image-pipeline status 6fa459ea` shows what it waits for." in output.getvalue()


def test_an_interrupted_wait_names_the_fate_of_the_jobs():
    # given three jobs, of which one has ended and one was not sent
    output = io.StringIO()
    report = Report(Console(file=output, width=200), as_json=False, waiting=True)
    jobs = [Submission({}, "x", status, "6fa459ea-ee8a") for status in ("done", "sent", "unsent")]
    # when the wait is interrupted, then people know that the other goes on, and where to follow it
    report.interrupted(jobs)
    assert output.getvalue().startswith("It goes on without this command, and the result is lost")
    assert "`image-pipeline status 6fa459ea`" in output.getvalue()
