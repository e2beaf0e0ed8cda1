"""Actions of a visitor of the dashboard, on the embedded servers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from pipeline.clients import aws
from pipeline.dashboard.actions import NOWHERE
from pipeline.events import Event, Outcome
from pipeline.job_ids import input_job_id
from pipeline.monitoring import orders
from pipeline.settings import get_settings
from pipeline.sqs.queues import find_queue
from tests.support.dashboard import Page, Site, serving

#: Texts from untrusted titles, URLs and error messages.
from tests.support.shown import a_job, bury, done, log, queue_url, wait_for_text
from tests.support.waiting import wait_for

FORM = {"url": "https://example.org/cover.jpg?token=hush", "folder": "A <b>show</b>", "postback_url": ""}


def test_a_submitted_image_is_sent_and_its_page_waits_for_the_job_log(with_everything: Any) -> None:
    with serving() as site:
        # When a visitor submits an image, then it is on the input queue, with no queue that any dashboard reads
        answer = site.post("/submit", FORM)
        message = received()
        to = get_settings().full_queue_name(NOWHERE)
        payload = {"bucket_name": "A <b>show</b>", "image_url": FORM["url"], "redirect_queue": to}
        assert json.loads(message["Body"]) == payload
        assert find_queue(aws.sqs(), to) is None
        # and the job's page waits for it
        job_id = input_job_id(message["MessageId"])
        assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job_id}?sent=yes")
        assert "on its way to fetch" in site.text(answer.headers["location"])
        assert site.get(f"/jobs/{job_id}").status_code == 404
        # and shows it once it is in the job log, also as a live update.
        log(*done(a_job(job_id=job_id)))
        assert 'id="job"' in site.get(answer.headers["location"], X_Live="job=0").text
        assert "done" in site.text(answer.headers["location"])


def test_without_a_job_log_the_overview_shows_that_an_image_was_sent(queues_alone: dict[str, str]) -> None:
    with serving() as site:
        # When a visitor submits an image with a postback URL
        answer = site.post("/submit", FORM | {"postback_url": "https://example.org/hook"})
        # Then it is sent, and the overview has its id, and why it cannot follow it.
        message = received()
        assert "redirect_queue" not in json.loads(message["Body"])
        job_id = input_job_id(message["MessageId"])
        assert answer.headers["location"] == f"/?sent={job_id}"
        assert f"The job has the id {job_id}. The job log is off" in site.text(answer.headers["location"])
        assert "has the id" not in site.text("/?sent=call+0800+1234")
        assert "The job log is off" in site.text(f"/jobs/{job_id}")


def received() -> Any:
    """Receive the message on the input queue."""
    (message,) = aws.sqs().receive_message(QueueUrl=get_settings().queue_url or "", WaitTimeSeconds=5)["Messages"]
    return message


def test_an_invalid_form_is_not_sent_and_shows_why(environment: dict[str, str]) -> None:
    with serving() as site:
        for url in ("", "nonsense", "javascript:alert(1)", "file:///etc/passwd", "http://", "http://["):
            answer = site.post("/submit", {"url": url, "folder": '"><script>'})
            page = Page(answer.text)
            assert answer.status_code == 422, url
            assert "The URL of an image must start with http:// or https://." in page.text
            assert url in page.values("value")
            assert '"><script>' in page.values("value")
        answer = site.post("/submit", {"url": "https://example.org/a.png", "postback_url": "nonsense"})
        assert answer.status_code == 422
        assert "postback_url is not an http or https URL" in Page(answer.text).text
        # and a refresh or reload of that URL leads back to the overview
        again = site.get("/submit")
        assert (again.status_code, again.headers["location"]) == (303, "/")


@pytest.mark.parametrize(("action", "done"), [("/purge", "deleted"), ("/redrive", "sent")])
def test_no_more_letters_go_than_were_counted_and_confirmed(
    with_everything: Any, monkeypatch: pytest.MonkeyPatch, action: str, done: str
) -> None:
    # Given more dead letters of a cause than the page reads
    monkeypatch.setattr("pipeline.dashboard.sources.LETTERS", 10)
    for number in range(23):
        bury(a_job(f"https://example.org/{number}.png", f"job-{number:02}"), "http_404", "It answered 404.")
    with serving() as site:
        # Then the page offers to count them, and nothing else
        text = wait_for_text(site, "/failures", "fetch · http_404", "Count all", "of about 23 dead letters")
        assert not re.search("Delete|Redrive", text.partition("http_404")[2])
        fields = {"stage": "fetch", "code": "http_404"}
        for more in ({}, {"number": "x", "until": "1"}, {"number": "0", "until": "1"}, {"number": "5", "until": "nan"}):
            assert site.post(action, fields | more).status_code == 400
        # and when they are counted, then it shows their number, and repeats it in the confirmation.
        assert site.post("/count", fields).headers["location"] == "/failures"
        wait_for_text(site, "/failures", "Counted http_404 in fetch", "23 dead letters counted.", "Redrive 23 …")
        wait_for_text(site, "/failures", "Delete 23 …", "Yes, redrive 23", "Yes, delete 23", "these 23 dead letters")
        confirmation = confirmed(site, action, "http_404")
        # When others arrive before the visitor confirms, then they stay.
        for number in range(4):
            bury(a_job(f"https://example.org/{number}.png", f"late-{number}"), "http_404", "It answered 404.")
        assert site.post(action, confirmation).status_code == 303
        wait_for_text(site, "/failures", f"23 dead letters {done}.")
        wait_for_text(site, "/failures", "Delete 4 …")


def test_a_job_is_redriven_by_its_whole_id_only(with_everything: Any) -> None:
    bury(a_job(job_id="abcdef-1"), "http_404", "It answered 404.")
    with serving() as site:
        wait_for_text(site, "/failures", "Redrive 1 …")
        for job_id in ("ab", "abcdef", "%2e%2e", "x" * 500):
            answer = site.post(f"/jobs/{job_id}/redrive", {"stage": "fetch"})
            assert answer.status_code == 404, job_id
            assert "has this id" in Page(answer.text).text
        assert site.post("/jobs/abcdef-1/redrive").status_code == 303


def test_failures_are_not_said_to_have_no_letter_while_letters_are_unread(
    with_everything: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dashboard.sources.LETTERS", 2)
    job = a_job(job_id="failed")
    log(Event("upload", job.id, Outcome.GIVEN_UP, code="s3_error", message="S3 refused.", job=job))
    for number in range(5):
        bury(a_job(f"https://example.org/{number}.png", f"job-{number}"), "http_404", "It answered 404.")
    with serving() as site:
        text = wait_for_text(site, "/failures", "Count all", "upload · s3_error")
        assert "Other failures of the last 24 hours Not all dead letters have been read" in text
        assert "without a dead letter" not in text


def test_a_job_that_waits_long_is_tried_now_from_its_page(with_everything: Any) -> None:
    # Given a job that waits for half an hour, and one that waits for a second
    for job_id, wait in (("long", 1800.0), ("short", 1.0)):
        event = Event("fetch", job_id, Outcome.RETRY, code="timeout", message="It is slow.", wait=wait, job=a_job())
        log(event)
    with serving() as site:
        assert "Try now" in site.text("/jobs/long")
        assert "Try now" not in site.text("/jobs/short")
        # When a visitor tries it now, then that is an order, and the page says so.
        answer = site.post("/try-now", {"kind": "job", "value": "long"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/jobs/long?tried=yes")
        assert "it is tried within two minutes" in site.text(answer.headers["location"])
        # The endpoint of a line on the overview is tried likewise, and nonsense is refused.
        hook = {"kind": "endpoint", "value": "https://example.org/hook?token=hush"}
        assert site.post("/try-now", hook).headers["location"] == "/"
        assert sorted((each.kind, each.value) for each in orders.read().tries) == [
            ("endpoint", "https://example.org/hook"),
            ("job", "long"),
        ]
        for kind, value in (("job", "unknown"), ("endpoint", "nonsense"), ("", "")):
            assert site.post("/try-now", {"kind": kind, "value": value}).status_code == 404


def confirmed(site: Site, action: str, code: str) -> dict[str, str]:
    """Return the fields of the form that confirms an action on one cause, as the page shows it."""
    forms = re.findall(
        rf'<form class="confirm" method="post" action="{action}">(.*?)</form>', site.get("/failures").text, re.DOTALL
    )
    fields = (dict(re.findall(r'name="(\w+)" value="([^"]*)"', form)) for form in forms)
    return next(found for found in fields if found["code"] == code)


def test_one_job_is_redriven_from_its_page_and_the_rest_is_deleted(with_everything: Any) -> None:
    # Given dead letters of three jobs
    for number in range(3):
        job = a_job(f"https://example.org/{number}.png", f"job-{number}")
        error = {"stage": "fetch", "code": "http_404", "message": "It answered 404."}
        failed = replace(job, sources=(replace(job.sources[0], due="notify", error=error),))  # type: ignore[arg-type]
        log(Event("fetch", job.id, Outcome.GIVEN_UP, code="http_404", message="It answered 404.", job=failed))
        log(Event("notify", job.id, Outcome.DONE, job=failed))
        bury(job, "http_404", "It answered 404.")
    with serving() as site:
        wait_for_text(site, "/failures", "Redrive 3", "Delete 3", "It will fail again unless the source has changed.")
        assert "Redrive this one" in site.text("/jobs/job-1")
        # When one is redriven from its page, then only its message is on the queue
        assert site.post("/jobs/job-1/redrive", {"stage": "fetch"}).headers["location"] == "/jobs/job-1"
        wait_for_text(site, "/jobs/job-1", "Redrove job job-1", "1 dead letter sent.")
        received = aws.sqs().receive_message(QueueUrl=queue_url("fetch"), MaxNumberOfMessages=10, WaitTimeSeconds=5)
        assert [json.loads(each["Body"])["kwargs"]["job"]["id"] for each in received["Messages"]] == ["job-1"]
        # and when the others are deleted, then none is left
        wait_for_text(site, "/failures", "Delete 2")
        assert site.post("/purge", confirmed(site, "/purge", "http_404")).status_code == 303
        wait_for_text(site, "/failures", "Deleted http_404 in fetch", "2 dead letters deleted.")
        wait_for(lambda: "fetch · http_404" not in site.text("/failures").partition("Failures of the last 24")[0])
        assert site.post("/jobs/job-1/redrive", {"stage": "nowhere"}).status_code == 404
        for stage in ("fetch", "nowhere"):
            assert site.post("/redrive", {"stage": stage, "code": "http_404"}).status_code == 404


def test_the_beginning_of_an_id_leads_to_its_job(with_everything: Any) -> None:
    log(*done(a_job(job_id="6fa459ea-1")), *done(a_job(job_id="6fa459eb-1")))
    with serving() as site:
        assert site.get("/jobs/6FA459EA").headers["location"] == "/jobs/6fa459ea-1"
        assert site.get("/jobs/6fa459e").headers["location"] == "/jobs?q=6fa459e&lane=all"
        assert "6fa459e" in site.get("/jobs?q=6fa459e&lane=all").text
        assert site.get("/jobs/6fa459ea-2").status_code == 404
        assert site.get("/jobs?after=nonsense").status_code == 404


def test_a_redrive_stops_with_the_dashboard_and_releases_the_rest(
    with_everything: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given more dead letters than a slow redrive sends at once
    for number in range(25):
        bury(a_job(f"https://example.org/{number}.png", f"job-{number:02}"), "http_404", "It answered 404.")
    monkeypatch.setattr("pipeline.dashboard.redrives.RATE", 5.0)
    with serving() as site:
        wait_for_text(site, "/failures", "Redrive 25")
        site.post("/redrive", confirmed(site, "/redrive", "http_404"))
        # When the dashboard stops during the redrive
        wait_for(lambda: re.search(r"Redriving .* [1-9]\d* dead letters? sent", site.text("/failures")))
    # Then each letter is either sent or visible again
    attributes = {}
    for name in ("fetch", "fetch_dlq"):
        attributes[name] = aws.sqs().get_queue_attributes(QueueUrl=queue_url(name), AttributeNames=["All"])[
            "Attributes"
        ]
    sent, left = (int(attributes[name]["ApproximateNumberOfMessages"]) for name in ("fetch", "fetch_dlq"))
    assert sent + left == 25
    assert 0 < sent < 25
    assert attributes["fetch_dlq"]["ApproximateNumberOfMessagesNotVisible"] == "0"
