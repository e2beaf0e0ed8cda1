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
