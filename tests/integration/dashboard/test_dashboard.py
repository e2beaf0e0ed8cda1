"""The dashboard on real queues, a bucket and a job log: with all of them, and with some missing."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from pipeline.clients import aws, mongo
from pipeline.errors import RetryableError
from pipeline.events import Event, Outcome
from pipeline.images.details.facts import SourceFacts
from pipeline.job import Details
from pipeline.monitoring.job_log.schema import JOBS
from pipeline.monitoring.processes import PROCESSES, Heartbeat, Work
from pipeline.stages import FETCH
from pipeline.storage.publish import publish
from tests.support.dashboard import Page, serving
from tests.support.pictures import corners, encoded, is_near

#: Texts from untrusted titles, URLs and error messages.
from tests.support.shown import CONTENT, HOSTILE, a_job, bury, done, log, log_copies, queue_url, wait_for_text
from tests.support.waiting import wait_for

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
                if tag == "a" and link.startswith("http"):
                    assert attributes["rel"] == "noreferrer noopener"
                assert link.startswith(("/", "#")) or urlsplit(link).scheme in {"http", "https"}, (path, link)
            assert "8641969" not in page.text, path  # a template in a title is not evaluated
            # and no URL's query
            assert "hush" not in answer.text, path
        # and the text can be read as it was written
        assert HOSTILE[0] in site.text("/failures")
        assert HOSTILE[0] in site.text("/jobs/hostile-0")


def test_a_thumbnail_comes_from_the_bucket_through_the_dashboard(with_everything: Any) -> None:
    # Given a job of which one rendition is in the bucket
    picture = encoded(corners(), "PNG")
    publish("SHOW", CONTENT, {"250X250": picture})
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
        # and serves nothing that the job log or the bucket does not contain
        for path in (
            "job-1/0/50x50",
            "job-1/0/800x800",
            "job-1/1/50x50",
            "job-2/0/50x50",
            "job-1/0/..%2f..%2fx",
            "job-1/-1/50x50",
        ):
            assert site.get(f"/thumbnails/{path}").status_code == 404, path


def test_details_are_on_the_page_of_a_job_with_a_placeholder_for_its_pictures(with_everything: Any) -> None:
    # Given a job with details in the job log
    hashed = "V/gNHwZ5dohwiHd6iGh5iHaJdgaXV3AG"
    facts = SourceFacts(1000, 1000, "png", "#606055", hashed, 9000, "0" * 64, ("below_1400",))
    job = a_job()
    (source,) = job.sources
    details = Details(facts, dict.fromkeys(CONTENT.renditions, 7))
    ended = job.with_sources({source.url: replace(source.published(CONTENT, details), has_wrong_type=True)})
    log(Event("notify", job.id, Outcome.DONE, job=ended))
    with serving() as site:
        wait_for_text(site, "/jobs/job-1", "1000 × 1000 PNG, 9 kB", "below 1400 pixels", "wrong Content-Type")  # noqa: RUF001
        # When its page is loaded
        page = Page(site.get("/jobs/job-1").text)
        (placeholder, *_) = [src for src in page.values("src") if src.startswith("/placeholders/")]
        answer = site.get(placeholder)
        # Then the placeholder is a small picture in the mean colour
        picture = Image.open(io.BytesIO(answer.content))
        assert (answer.headers["content-type"], picture.size) == ("image/png", (16, 16))
        mean = picture.resize((1, 1), Image.Resampling.BOX).convert("RGB").getpixel((0, 0))
        assert is_near(mean, (0x60, 0x60, 0x55), 12)
        # And whatever is no ThumbHash is not found
        for other in ("x", "AAAAAAAA", "..%2f..%2fetc", "V_gN", "V" * 400):
            assert site.get(f"/placeholders/{other}").status_code == 404, other


def test_the_flow_the_jobs_and_their_filter(with_everything: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a job that succeeded, a job that failed after four seconds, and waiting messages
    good, bad = a_job("https://example.org/good.png", "good"), a_job("https://example.org/bad.png", "bad")
    ended = time.time()
    error = {"stage": "fetch", "code": "http_404", "message": "It answered 404."}
    failed = replace(bad, sources=(replace(bad.sources[0], due="notify", error=error),), accepted=ended - 4)  # type: ignore[arg-type]
    gone = Event("fetch", "bad", Outcome.GIVEN_UP, code="http_404", message="It answered 404.", job=failed)
    log(*done(good), gone, Event("notify", "bad", Outcome.DONE, at=ended, job=failed))
    for _ in range(3):
        aws.sqs().send_message(QueueUrl=queue_url("resize"), MessageBody="x")
    with serving() as site:
        # Then the overview shows all of them
        text = wait_for_text(site, "/", "example.org/good.png", "3 waiting", "p50 4.0 s, p95 4.0 s")
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
        # and when the job log stops answering, the page has the jobs of a lane that it has read
        monkeypatch.setattr("pipeline.monitoring.job_log.search.search", no_job_log)
        assert "good.png" in wait_for_text(site, "/jobs", "The job log does not answer", "only the latest jobs")
        assert "good.png" not in site.text("/jobs?lane=sweep")
        # and a search lists nothing, and says so
        for query in ("q=good", "outcome=well", "stage=upload", "code=http_500", "after=1"):
            text = site.text(f"/jobs?{query}")
            assert "could not be read" in text or "Nothing was searched." in text, query
            assert ".png" not in text, query


def test_a_search_that_is_cut_off_says_so_and_its_next_page_has_the_older_match(
    with_everything: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an old job with its own URL, and more later ones than a search may examine
    monkeypatch.setattr("pipeline.monitoring.job_log.search.MAX_EXAMINED", 200)
    log(*done(a_job("https://rare.example.org/old.png", "old")), *done(a_job(job_id="copy-0")))
    log_copies("copy-0", 299)
    with_everything[JOBS].update_one({"_id": "old"}, {"$set": {"began": datetime.now(UTC) - timedelta(hours=1)}})
    with serving() as site:
        # When its URL is searched, then the page reports that it was cut off, and no job
        first = Page(site.get("/jobs?q=rare.example").text)
        assert "No job matches so far. Not everything was searched: jobs that began before 20" in first.text
        assert "cover.png" not in first.text
        # and the next page, which is the last, has it
        (following,) = (a["href"] for tag, a in first.elements if tag == "a" and a.get("rel") == "next")
        second = site.text(following)
        assert "rare.example.org/old.png" in second
        assert "Not everything was searched" not in second


def no_job_log(*_: Any, **__: Any) -> Any:
    raise RetryableError("mongo_error", "Could not read the job log.")


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
