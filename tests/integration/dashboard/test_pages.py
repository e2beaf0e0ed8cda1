"""The pages while something is missing or does not answer."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline.clients import aws, lazy
from pipeline.errors import RetryableError
from tests.support.dashboard import Page, serving
from tests.support.line import Line
from tests.support.shown import a_job, bury, queue_url, wait_for_text
from tests.support.waiting import wait_for


def test_without_a_job_log_it_explains_how_to_enable_one_and_shows_the_rest(queues_alone: dict[str, str]) -> None:
    bury(a_job(), "http_404", "It answered 404.")
    aws.sqs().send_message(QueueUrl=queue_url("resize"), MessageBody="x")
    with serving() as site:
        text = wait_for_text(site, "/", "1 waiting", "1 dead")
        assert "The job log is off." in text
        assert "JOBS_MONGO_URL" in text
        assert "Sweeps are off." in text
        assert "It answered 404." in wait_for_text(site, "/failures", "fetch · http_404")
        for path in ("/jobs", "/sweeps"):
            assert "off" in site.text(path)


def test_with_sqs_down_it_reports_that_and_keeps_the_last_numbers(
    queues_alone: dict[str, str], polled_often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a dashboard that loses SQS after its first read
    aws.sqs().send_message(QueueUrl=queue_url("resize"), MessageBody="x")
    with Line(urlsplit(queues_alone["AWS_ENDPOINT_URL"]).port or 0) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{line.port}")
        lazy.forget()
        with serving() as site:
            wait_for_text(site, "/", "1 waiting")
            with line.down():
                # Then it reports the outage and shows the last numbers
                text = wait_for_text(site, "/", "SQS does not answer", "This page shows data from")
                assert "1 waiting" in text
                # and a submission shows why it was not sent
                answer = site.post("/submit", {"url": "https://example.org/a.png"})
                assert answer.status_code == 422
                assert "Could not send" in Page(answer.text).text
            # and the report disappears when SQS is back
            wait_for(lambda: "SQS does not answer" not in site.text("/"))


def test_without_any_queues_it_still_answers(environment: dict[str, str], polled_often: None) -> None:
    with serving() as site:
        assert site.text("/").count("\N{EN DASH} waiting in flight \N{EN DASH} delayed \N{EN DASH}") == 5
        wait_for_text(site, "/failures", "Nothing has failed for good.")


def test_pages_do_not_wait_for_a_job_log_that_does_not_answer(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a dashboard that knows that MongoDB does not answer
    monkeypatch.setenv("JOBS_MONGO_URL", "mongodb://127.0.0.1:9/jobs")
    lazy.forget()
    queries: list[str] = []

    def no_answer(*_: Any, **__: Any) -> None:
        queries.append("the job log")
        raise RetryableError("mongo_error", "Could not read the job log.")

    for name in ("search.search", "reader.history", "reader.failures", "reader.rates"):
        monkeypatch.setattr(f"pipeline.monitoring.job_log.{name}", no_answer)
    with serving() as site:
        wait_for_text(site, "/", "The job log does not answer")
        # When its pages are requested, then they answer without querying it again
        queries.clear()
        monkeypatch.setattr("pipeline.monitoring.job_log.search.search", lambda *_, **__: wait_for(lambda: False))
        assert "The job log does not answer" in site.text("/jobs?outcome=failed")
        assert site.get("/jobs/some").status_code == 503
        assert queries == []
        # and a thumbnail that only MongoDB could find is empty, and asked for again later
        thumbnail = site.get("/thumbnails/some/0/50x50")
        assert (thumbnail.status_code, thumbnail.headers["content-type"]) == (200, "image/svg+xml")
        assert thumbnail.headers["cache-control"] == "no-store"
