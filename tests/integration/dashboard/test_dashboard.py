"""The dashboard on real queues, a bucket and a job log: with all of them, and with some missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from pipeline.clients import aws, lazy, mongo
from pipeline.errors import RetryableError
from pipeline.events import Event, Outcome
from pipeline.job import Content, Job, Source, input_job_id
from pipeline.monitoring.job_log.writer import JOBS, MINUTES, counts, entry_of, updates
from pipeline.monitoring.processes import PROCESSES, Heartbeat, Work
from pipeline.ops.provision import plan
from pipeline.recipe import Recipe, RenditionSize
from pipeline.settings import get_settings
from pipeline.stages import FETCH
from pipeline.storage.publish import publish
from pipeline.sweeps import run_state
from pipeline.sweeps.documents import CHANNELS
from tests.support.dashboard import Page, Site, serving
from tests.support.line import Line
from tests.support.pictures import corners, encoded
from tests.support.waiting import wait_for

#: Texts from untrusted titles, URLs and error messages.
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "{{ 1234567 * 7 }}{% raw %}",
    "</title></textarea></style>-->",
]

CONTENT = Content(
    "c3f4bf4256853026cf94fa6df2b1c366",
    ".png",
    Recipe((RenditionSize("50x50", 50, 50), RenditionSize("250X250", 250, 250)), "cover"),
)


@pytest.fixture
def with_everything(database: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Provide queues, an input queue, a bucket, a sweep database and a job log; yields the database."""
    monkeypatch.setenv("JOBS_MONGO_URL", get_settings().mongo_url.get_secret_value())  # type: ignore[union-attr]
    _provision(monkeypatch)
    yield database
    lazy.forget()


@pytest.fixture
def queues_alone(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Provide queues and a bucket, but no job log or database."""
    _provision(monkeypatch)
    return environment


def _provision(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy.forget()
    for change in plan(get_settings(), create_bucket=True):
        change.apply()
    made = aws.sqs().create_queue(QueueName=f"{get_settings().queue_namespace}_input")
    monkeypatch.setenv("QUEUE_URL", made["QueueUrl"])
    lazy.forget()


def queue_url(name: str) -> str:
    return aws.sqs().get_queue_url(QueueName=get_settings().full_queue_name(name))["QueueUrl"]


def log(*events: Event) -> None:
    """Write events to the job log."""
    entries = [entry_of(event) for event in events]
    mongo.job_database()[JOBS].bulk_write(updates(entries), ordered=False)
    mongo.job_database()[MINUTES].bulk_write(counts(entries), ordered=False)


def bury(job: Job, code: str, message: str) -> None:
    """Add a dead letter to fetch, as the workers do."""
    from pipeline.actors import broker, fetch_image
    from pipeline.sqs.wire import Reason

    broker.queues.namespace = get_settings().queue_namespace
    broker.bury("fetch", fetch_image.message_of(job).encode().decode(), Reason(code, message, stage="fetch"))


def a_job(url: str = "https://example.org/cover.png", job_id: str = "job-1", folder: str = "SHOW") -> Job:
    payload = {"image_url": url, "postback_url": "https://example.org/hook?token=hush", "title": HOSTILE[0]}
    return Job(job_id, folder, (Source(url, ("image_url",)),), payload=payload)


def done(job: Job) -> list[Event]:
    published = replace(job, sources=tuple(source.published(CONTENT) for source in job.sources))
    return [Event("fetch", job.id, Outcome.DONE, job=published), Event("notify", job.id, Outcome.DONE, job=published)]


def wait_for_text(site: Site, path: str, *wanted: str) -> str:
    """Wait until a page contains all of `wanted`; returns its text."""
    return wait_for(lambda: (text := site.text(path)) and all(each in text for each in wanted) and text)


# With everything.


def test_untrusted_text_is_shown_as_text_and_nothing_else(with_everything: Any) -> None:
    # Given jobs, dead letters and folders that contain untrusted text
    for number, text in enumerate(HOSTILE):
        job = a_job(f"https://example.org/{text}?token=hush", f"hostile-{number}", folder=text)
        failed = job.with_errors(FETCH, {})
        log(Event("fetch", job.id, Outcome.GIVEN_UP, code=f"code_{number}", message=text, job=failed), *done(job))
        bury(replace(job, folder="X"), f"code_{number} {text}"[:60].encode("ascii", "ignore").decode(), text)
    with serving() as site:
        wait_for_text(site, "/failures", "code_0", "code_5")
        wait_for_text(site, "/jobs", "example.org/")
        # When every page is loaded and parsed
        for path in ["/", "/jobs", "/jobs?outcome=failed", "/failures", *(f"/jobs/hostile-{n}" for n in range(6))]:
            answer = site.get(path)
            page = Page(answer.text)
            # Then it contains only our elements, attributes and links
            assert answer.status_code == 200, path
            assert [a for tag, a in page.elements if tag == "script"] == [{"src": "/static/dashboard.js", "defer": ""}]
            assert {tag for tag, _ in page.elements}.isdisjoint({"iframe", "object", "textarea", "style", "base"})
            for tag, attributes in page.elements:
                assert not any(name.startswith("on") for name in attributes), (path, tag, attributes)
                assert attributes.get("src", "/").startswith("/"), (path, tag, attributes)
                link = attributes.get("href", "/")
                assert link.startswith(("/", "#")) or urlsplit(link).scheme in {"http", "https"}, (path, link)
            assert "8641969" not in page.text, path  # a template in a title is not evaluated
            # and no URL's query
            assert "hush" not in answer.text, path
        # and the text can be read as it was written
        assert HOSTILE[0] in site.text("/failures")
        assert HOSTILE[0] in site.text("/jobs/hostile-0")


def test_links_to_renditions_send_no_referrer(with_everything: Any) -> None:
    log(*done(a_job()))
    with serving() as site:
        page = Page(site.get("/jobs/job-1").text)
    links = [a for tag, a in page.elements if tag == "a" and a["href"].startswith("http")]
    assert len(links) == 2
    assert {link["rel"] for link in links} == {"noreferrer noopener"}


def test_a_thumbnail_comes_from_the_bucket_through_the_dashboard(with_everything: Any) -> None:
    # Given a job whose renditions are in the bucket
    picture = encoded(corners(), "PNG")
    publish("SHOW", CONTENT, {"50x50": picture, "250X250": picture})
    log(*done(a_job()))
    with serving() as site:
        # When the page has its thumbnail
        text = wait_for(lambda: (html := site.get("/").text) and "/thumbnails/" in html and html)
        (thumbnail,) = [src for src in Page(text).values("src") if src.startswith("/thumbnails/")]
        answer = site.get(thumbnail)
        # Then the dashboard serves it, only as an image
        assert thumbnail == "/thumbnails/job-1/0/250X250"
        assert answer.content == picture
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        # and serves nothing that the job log does not contain
        for path in ("job-1/0/800x800", "job-1/1/50x50", "job-2/0/50x50", "job-1/0/..%2f..%2fx", "job-1/-1/50x50"):
            assert site.get(f"/thumbnails/{path}").status_code == 404, path


def test_a_rendition_that_was_deleted_from_the_bucket_is_not_found(with_everything: Any) -> None:
    log(*done(a_job()))
    with serving() as site:
        assert site.get("/thumbnails/job-1/0/250X250").status_code == 404


def test_the_flow_the_jobs_and_their_filter(with_everything: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a job that succeeded, a job that failed, and waiting messages
    good, bad = a_job("https://example.org/good.png", "good"), a_job("https://example.org/bad.png", "bad")
    error = {"stage": "fetch", "code": "http_404", "message": "It answered 404."}
    failed = replace(bad, sources=(replace(bad.sources[0], due="notify", error=error),))  # type: ignore[arg-type]
    gone = Event("fetch", "bad", Outcome.GIVEN_UP, code="http_404", message="It answered 404.", job=failed)
    log(*done(good), gone, Event("notify", "bad", Outcome.DONE, job=failed))
    for _ in range(3):
        aws.sqs().send_message(QueueUrl=queue_url("resize"), MessageBody="x")
    with serving() as site:
        # Then the overview shows all of them
        text = wait_for_text(site, "/", "example.org/good.png", "3 waiting")
        assert "Ingest" in text
        assert "It answered 404." in text
        # and the filter selects by outcome
        assert "good.png" not in site.text("/jobs?outcome=failed")
        assert "bad.png" in site.text("/jobs?outcome=failed")
        assert "bad.png" not in site.text("/jobs?outcome=well")
        assert "bad.png" in site.text("/jobs?outcome=nonsense")
        # and a job's page has its history
        history = site.text("/jobs/bad")
        assert "fetch gave up" in history
        assert "http_404: It answered 404." in history
        # and an unknown job is not found
        assert site.get("/jobs/unknown").status_code == 404
        # and when the job log stops answering, the filter applies to the last data
        monkeypatch.setattr("pipeline.monitoring.job_log.search.search", no_job_log)
        assert "good.png" in wait_for_text(site, "/jobs?outcome=well", "The job log does not answer")
        assert "bad.png" not in site.text("/jobs?outcome=well")
        assert "good.png" not in site.text("/jobs?outcome=failed")


def no_job_log(*_: Any, **__: Any) -> Any:
    raise RetryableError("mongo_error", "Could not read the job log.")


def test_the_sweeps_runs_are_shown_with_their_counts(with_everything: Any) -> None:
    run = run_state.begin(CHANNELS, "channels-manual-0123")
    run_state.advance(run, ["x"], by="m", claimed=7, walked=False)
    with serving() as site:
        text = wait_for_text(site, "/sweeps", "channels-manual-0123")
        assert "under way" in text
        assert "7 documents claimed: none ended yet" in wait_for_text(site, "/", "7 documents")


def test_a_stage_without_a_process_is_named_on_the_overview_and_among_the_workers(with_everything: Any) -> None:
    # Given a process for fetch that has stopped, a paused stage, and waiting messages
    now = datetime.now(UTC)
    heartbeat = Heartbeat("fetch", ["fetch"], 16, lambda: Work({"fetch": now}))
    heartbeat.start()
    heartbeat.stop(10)
    mongo.job_database()[PROCESSES].update_one({}, {"$set": {"seen": now - timedelta(seconds=40)}})
    for _ in range(13):
        aws.sqs().send_message(QueueUrl=queue_url("fetch"), MessageBody="x")
    with serving() as site:
        assert site.post("/workers/pause", {"stage": "upload"}).headers["location"] == "/workers"
        # Then both pages name it
        for path in ("/", "/workers"):
            text = wait_for_text(site, path, "13 wait, none taken for 4", "0 wait: paused for")
            assert "the last process for fetch, on" in text
        # and the process and the pause are listed, until the stage is resumed
        text = site.text("/workers")
        assert "stopped" in text
        assert "Resume upload" in text
        site.post("/workers/pause", {"stage": "upload", "resume": "yes"})
        wait_for(lambda: "Pause upload" in site.text("/workers"))
        assert site.post("/workers/pause", {"stage": "nowhere"}).status_code == 404


def test_a_sweep_is_previewed_started_and_stopped(with_everything: Any) -> None:
    # Given changed documents, and one with an error mark
    detail = {"code": "http_404", "message": "It answered 404.", "field": "image_url", "stage": "fetch"}
    with_everything.channels.insert_many(
        [{"_id": n, "title": HOSTILE[0], "image_url": f"http://h:81/{n}.jpg?token=hush"} for n in range(3)]
        + [
            {
                "_id": 9,
                "title": "Marked",
                "image_url": "http://h/9",
                "metadata": {"error": True, "error_detail": detail},
            }
        ]
    )
    from pipeline.actors import broker

    broker.queues.namespace = get_settings().queue_namespace
    with serving() as site:
        # When a visitor looks first, then the page shows what a run would take, and starts nothing
        shown = site.text("/sweeps/preview/channels")
        assert "3 channels would be swept" in shown
        assert "image_url: h:81/0.jpg" in shown
        assert "hush" not in site.get("/sweeps/preview/channels").text
        assert HOSTILE[0] in shown
        assert "Nothing to sweep." in site.text("/sweeps/preview/episodes")
        assert run_state.latest(CHANNELS, 1) == []
        # and the marked documents with their reasons
        assert "Marked http_404 It answered 404." in site.text("/sweeps/marks/channels")
        # When the visitor starts it, then its message is on the queue
        answer = site.post("/sweeps/start", {"collection": "channels"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/sweeps")
        (run,) = run_state.latest(CHANNELS, 1)
        received = aws.sqs().receive_message(QueueUrl=queue_url("sweep_channels"), WaitTimeSeconds=5)
        assert json.loads(received["Messages"][0]["Body"])["kwargs"]["run"] == run.id
        wait_for_text(site, "/sweeps", run.id, "under way", "Next runs")
        # and when the visitor stops it, then it takes no documents
        assert site.post("/sweeps/stop", {"run": run.id}).status_code == 303
        wait_for_text(site, "/sweeps", run.id, "stopped")
        assert site.post("/sweeps/start", {"collection": "users"}).status_code == 404
        assert site.get("/sweeps/preview/users").status_code == 404


# Actions.


def test_an_image_is_submitted_and_its_result_is_received(queues_alone: dict[str, str]) -> None:
    with serving() as site:
        # When a visitor submits an image
        form = {"url": "https://example.org/cover.jpg?token=hush", "folder": "A <b>show</b>", "postback_url": ""}
        answer = site.post("/submit", form)
        # Then the job's page opens, and the message on the input queue redirects its result to the dashboard
        assert answer.status_code == 303
        received = aws.sqs().receive_message(QueueUrl=get_settings().queue_url or "", WaitTimeSeconds=5)
        (message,) = received["Messages"]
        assert answer.headers["location"] == f"/jobs/{input_job_id(message['MessageId'])}"
        queue = f"{get_settings().queue_namespace}_submit_dashboard"
        payload = {"bucket_name": "A <b>show</b>", "image_url": form["url"], "redirect_queue": queue}
        assert json.loads(message["Body"]) == payload
        page = answer.headers["location"]
        assert "under way" in site.text(page)
        assert "The job log is off, so the history is unknown." in site.text(page)
        # and when the result arrives, the page shows it
        result = payload | {"image_url_info": {"250X250": {"url": "https://cdn.example.org/x", "bucket_path": "p/"}}}
        aws.sqs().send_message(
            QueueUrl=aws.sqs().get_queue_url(QueueName=queue)["QueueUrl"],
            MessageBody=json.dumps(result),
            MessageAttributes={"job_id": {"DataType": "String", "StringValue": page.rpartition("/")[2]}},
        )
        wait_for_text(site, page, "done")
        assert f"{page.replace('/jobs/', '/thumbnails/')}/0/250X250" in site.get(page).text
        assert "hush" not in site.get(page).text


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


def test_dead_letters_of_a_cause_are_redriven(with_everything: Any) -> None:
    # Given dead letters with two causes
    for number in range(3):
        bury(a_job(f"https://example.org/{number}.png", f"job-{number}"), "http_404", "It answered 404.")
    bury(a_job(job_id="other"), "timeout", "It did not answer in time.")
    with serving() as site:
        wait_for_text(site, "/failures", "fetch · http_404", "fetch · timeout", "Redrive 3")
        # When one cause is redriven
        answer = site.post("/redrive", {"stage": "fetch", "code": "http_404"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/failures")
        # Then only its letters are on the stage's queue again
        text = wait_for_text(site, "/failures", "Redrove http_404 in fetch", "3 dead letters sent.")
        assert "fetch · timeout" in text
        taken: list[str] = []
        while (
            received := aws.sqs()
            .receive_message(QueueUrl=queue_url("fetch"), MaxNumberOfMessages=10, WaitTimeSeconds=1)
            .get("Messages")
        ):
            taken += [json.loads(message["Body"])["kwargs"]["job"]["id"] for message in received]
        assert sorted(taken) == ["job-0", "job-1", "job-2"]
        # and the page no longer shows them
        wait_for(lambda: "fetch · http_404" not in site.text("/failures"))
        # and another redrive of the same cause finds nothing
        assert site.post("/redrive", {"stage": "fetch", "code": "http_404"}).status_code == 404
        assert site.post("/redrive", {"stage": "nowhere", "code": "timeout"}).status_code == 404


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
        assert site.post("/purge", {"stage": "fetch", "code": "http_404"}).status_code == 303
        wait_for_text(site, "/failures", "Deleted http_404 in fetch", "2 dead letters deleted.")
        wait_for(lambda: "fetch · http_404" not in site.text("/failures").partition("Failures of the last 24")[0])
        assert site.post("/jobs/job-1/redrive", {"stage": "nowhere"}).status_code == 404


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
        site.post("/redrive", {"stage": "fetch", "code": "http_404"})
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


# With pieces missing.


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
    queues_alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
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
                assert "Could not create the queue" in Page(answer.text).text
            # and the report disappears when SQS is back
            wait_for(lambda: "SQS does not answer" not in site.text("/"))


def test_without_any_queues_it_still_answers(environment: dict[str, str]) -> None:
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


def test_without_a_token_the_login_page_leads_to_the_overview(environment: dict[str, str]) -> None:
    with serving() as site:
        assert site.get("/login").headers["location"] == "/"
        assert requests.get(site.url("/livez"), timeout=10).text == "ok"
