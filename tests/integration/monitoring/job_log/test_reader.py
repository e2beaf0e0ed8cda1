"""The job log as written and read on a real MongoDB: the order of attempts does not change a job's history."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.clients import lazy, mongo
from pipeline.errors import PermanentError, RetryableError, SettingsError
from pipeline.events import Event, Outcome
from pipeline.job import CLEAN_UP, Content, Job, Source, Sweep
from pipeline.job_ids import input_job_id
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.monitoring.job_log.schema import JOBS, MAX_ATTEMPTS, MINUTES, counts, entry_of, updates
from pipeline.monitoring.job_log.search import JobFilter, search
from pipeline.recipe import Recipe, RenditionSize
from pipeline.settings import get_settings
from pipeline.stages import FETCH, NOTIFY, RESIZE, UPLOAD, Lane
from tests.support.mongo_commands import recorded

BEGAN = 0.0  #: the start of a test's job histories: a minute before the test
CONTENT = Content("c0ffee", ".png", Recipe((RenditionSize("50x50", 50, 50),), "cover"))
COVER = "https://user:hush@example.org/cover.png?token=hush"
OTHER = "https://example.org/other.png"


def begin() -> None:
    """Set the start of the histories to a minute ago; the suite may have started long before."""
    global BEGAN  # noqa: PLW0603
    BEGAN = time.time() - 60


@pytest.fixture
def jobs(database, monkeypatch):
    """Provide the job log in this test's database."""
    begin()
    monkeypatch.setenv("JOBS_MONGO_URL", get_settings().mongo_url.get_secret_value())
    lazy.forget()
    return database


def write(*events):
    """Write each event separately, as if each came from another process."""
    for event in events:
        entries = [entry_of(event)]
        mongo.job_database()[JOBS].bulk_write(updates(entries), ordered=False)
        mongo.job_database()[MINUTES].bulk_write(counts(entries), ordered=False)


def job(*urls, job_id="a-job", **more):
    sources = tuple(Source(url, (name,)) for url, name in zip(urls, ("image_url", "itunes_image"), strict=False))
    payload = {"postback_url": "https://example.org/hook?token=hush", "secret": "hush"}
    return Job(job_id, "THE_SHOW", sources, payload=payload, **more)


def attempt(stage, verdict, second, of, **more):
    """Return an attempt that ended `second` seconds after the start and took half a second."""
    at = BEGAN + second
    return Event(stage.name, of.id, verdict, at=at, arrived=at - 1, seconds=0.5, job=of, **more)


def good_history(start=None):
    start = start or job(COVER)
    source = start.sources[0]
    fetched = start.with_sources({source.url: source.fetched("key", CONTENT)})
    published = start.with_sources({source.url: source.published(CONTENT)})
    resized = fetched.with_sources({source.url: replace(fetched.sources[0], due=UPLOAD.name)})
    return [
        attempt(
            FETCH, Outcome.RETRY, 1, start, code="timeout", message="example.org did not answer in time.", wait=2.0
        ),
        attempt(FETCH, Outcome.DONE, 4, fetched, attempt=2, worked_on=(source.url,)),
        attempt(RESIZE, Outcome.DONE, 5, resized),
        attempt(UPLOAD, Outcome.DONE, 6, published),
        attempt(NOTIFY, Outcome.DONE, 7, published),
    ]


def later(events, seconds):
    """Return the events as if they had happened `seconds` later."""
    for event in events:
        object.__setattr__(event, "at", event.at + seconds)
        object.__setattr__(event, "arrived", event.arrived + seconds)
    return events


def test_the_order_of_attempts_does_not_change_a_history(jobs):
    histories = []
    for shuffled in range(6):
        start = job(COVER, job_id=f"job-{shuffled}")
        events = good_history(start)
        random.Random(shuffled).shuffle(events)
        write(*events)
        histories.append(replace(job_log_reader.history(start.id), id=""))
    assert all(history == histories[0] for history in histories)
    history = histories[0]
    assert (history.status, history.stage, history.folder, history.lane) == ("done", "notify", "THE_SHOW", "live")
    assert [attempt.stage for attempt in history.attempts] == ["fetch", "fetch", "resize", "upload", "notify"]
    assert (history.updated - history.began).total_seconds() == pytest.approx(7, abs=0.01)
    first = history.attempts[0]
    assert (first.outcome, first.code, first.attempt, first.wait) == (Outcome.RETRY, "timeout", 1, 2.0)
    assert (first.seconds, first.waited) == (0.5, 0.5)
    assert history.sources[0].url == "example.org/cover.png"
    assert history.sources[0].urls["50x50"].endswith("/images-resized/THE_SHOW/c0ffee_50x50.png")


def test_attempts_written_together_or_twice_appear_once(jobs):
    entries = [entry_of(event) for event in good_history()]
    mongo.job_database()[JOBS].bulk_write(updates(entries))
    mongo.job_database()[JOBS].bulk_write(updates(entries[2:]))
    assert len(job_log_reader.history("a-job").attempts) == 5


def test_payloads_queries_and_credentials_are_not_stored(jobs):
    write(*good_history())
    assert "hush" not in str(list(jobs[JOBS].find()))


def test_a_job_under_way_is_in_its_next_stage(jobs):
    for number, event in enumerate(good_history()[:-1]):
        write(event)
        history = job_log_reader.history("a-job")
        assert history.status == "under_way"
        assert history.stage == ("fetch", "resize", "upload", "notify")[number]
    assert list(job_log_reader.oldest()) == ["notify"]
    write(good_history()[-1])
    assert job_log_reader.oldest() == {}


def test_a_job_whose_end_was_written_first_is_not_under_way(jobs):
    write(*reversed(good_history()))
    assert job_log_reader.oldest() == {}
    assert job_log_reader.history("a-job").status == "done"


def failed_history(start, stage=FETCH, code="http_404"):
    error = PermanentError(code, "example.org/cover.png answered 404 Not Found.")
    source = replace(start.sources[0], due=stage.name)
    failed = start.with_sources({source.url: source}).with_errors(stage, {source.url: error})
    return [
        attempt(stage, Outcome.GIVEN_UP, 2, failed, code=error.code, message=error.message),
        attempt(NOTIFY, Outcome.DONE, 3, failed),
    ]


def test_a_failed_job_is_done_after_a_successful_redrive(jobs):
    # given a failed job
    start = job(COVER)
    write(*failed_history(start))
    history = job_log_reader.history("a-job")
    assert (history.status, history.stage, history.redrives) == ("failed", "fetch", 0)
    assert history.sources[0].error["code"] == "http_404"
    # when an operator redrives it
    source = start.sources[0]
    again = replace(start, redrives=1).with_sources({source.url: source.published(CONTENT)})
    write(attempt(FETCH, Outcome.DONE, 40, again))
    # then its history continues
    history = job_log_reader.history("a-job.r1")
    assert (history.id, history.status, history.redrives) == ("a-job", "under_way", 1)
    write(attempt(NOTIFY, Outcome.DONE, 41, again))
    history = job_log_reader.history("a-job")
    assert (history.status, history.sources[0].error) == ("done", None)
    assert search(JobFilter(outcome="failed")).jobs == ()


def test_a_job_with_one_failed_image_of_two_is_partly_done(jobs):
    start = job(COVER, OTHER)
    half = start.with_sources({OTHER: start.sources[1].published(CONTENT)})
    write(*failed_history(half))
    history = job_log_reader.history("a-job")
    assert (history.status, [bool(source.error) for source in history.sources]) == ("partly", [True, False])


def test_deliveries_end_independently(jobs):
    # given a job with two deliveries that both fail at first
    start = job(COVER)
    stored = start.with_sources({COVER: start.sources[0].published(CONTENT)})
    parts = {name: replace(stored, deliveries=(name,)) for name in ("redirect_queue", "postback_url")}
    for name, part in parts.items():
        write(attempt(NOTIFY, Outcome.RETRY, 1, stored if part is None else part, code="x", worked_on=(name,)))
    assert job_log_reader.history("a-job").status == "under_way"
    # when one succeeds, the job is still under way
    write(attempt(NOTIFY, Outcome.DONE, 2, parts["redirect_queue"], attempt=2))
    assert job_log_reader.history("a-job").status == "under_way"
    # and when the other fails for good, the job has ended as partly
    write(attempt(NOTIFY, Outcome.GIVEN_UP, 3, parts["postback_url"], code="http_500", worked_on=("postback_url",)))
    history = job_log_reader.history("a-job")
    assert (history.status, history.stage) == ("partly", "notify")


def test_a_delivered_job_has_ended_before_its_clean_up_succeeds(jobs):
    # Given a job whose first attempt in notify failed because its payload could not be read
    start = job(COVER)
    stored = start.with_sources({COVER: start.sources[0].published(CONTENT)})
    write(attempt(NOTIFY, Outcome.RETRY, 1, stored, code="s3_error"))
    assert job_log_reader.history("a-job").status == "under_way"
    # When it is delivered, and only the clean-up is retried
    cleaning = replace(stored, deliveries=(CLEAN_UP,))
    write(attempt(NOTIFY, Outcome.RETRY, 2, stored, code="s3_error", worked_on=(CLEAN_UP,)))
    # Then it is done, before and after the clean-up.
    for further in ([], [attempt(NOTIFY, Outcome.DONE, 3, cleaning)]):
        write(*further)
        history = job_log_reader.history("a-job")
        assert history.status == "done"


def test_a_rejected_message_has_a_history_without_a_job(jobs):
    write(Event("ingest", "refused", Outcome.REJECTED, at=BEGAN, code="not_json", message="It is no JSON."))
    history = job_log_reader.history("refused")
    assert (history.status, history.stage, history.sources, history.folder) == ("rejected", "ingest", (), "")


def test_a_sweeps_job_names_its_run(jobs):
    sweep = Sweep("channels", "channels-2026-01-01T01:00Z", "a cover")
    write(*good_history(job(COVER, lane=Lane.BULK, sweep=sweep)))
    history = job_log_reader.history("a-job")
    assert (history.lane, history.sweep) == ("bulk", {"collection": "channels", "run": sweep.run})


def test_only_the_latest_attempts_are_kept(jobs):
    start = job(COVER)
    write(*(attempt(FETCH, Outcome.SNOOZED, n, start, code="host_busy", wait=1.0) for n in range(MAX_ATTEMPTS + 5)))
    attempts = job_log_reader.history("a-job").attempts
    assert len(attempts) == MAX_ATTEMPTS
    assert attempts[-1].at > attempts[0].at


def test_failures_are_grouped_by_their_cause(jobs):
    for number in range(7):
        write(*failed_history(job(COVER, job_id=f"job-{number}"), code="http_404" if number else "too_large"))
    many, few = job_log_reader.failures(datetime.now(UTC) - timedelta(hours=1))
    assert (many.stage, many.code, many.count, len(many.job_ids)) == ("fetch", "http_404", 6, 5)
    assert (few.code, few.count, few.job_ids) == ("too_large", 1, ("job-0",))
    assert many.message == "example.org/cover.png answered 404 Not Found."
    assert job_log_reader.failures(datetime.now(UTC)) == []


def test_failures_are_grouped_by_mongodb_which_returns_the_groups_alone(jobs, monkeypatch):
    # given jobs that failed after many attempts, with long messages
    for number in range(20):
        start = job(COVER, job_id=f"job-{number}")
        for n in range(10):
            write(attempt(FETCH, Outcome.RETRY, n, start, attempt=n + 1, code="timeout", message="x" * 400, wait=1.0))
        write(*later(failed_history(start, code="http_404"), 10))
    # when they are grouped
    commands = recorded(monkeypatch)
    (group,) = job_log_reader.failures(datetime.now(UTC) - timedelta(hours=1))
    # then one document comes back, and it is small
    assert (group.code, group.count, len(group.job_ids)) == ("http_404", 20, 5)
    assert (commands.names, commands.received) == (["aggregate"], 1)
    assert commands.received_bytes < 2000


def test_a_job_that_fails_again_counts_twice_and_is_listed_once_however_many_deliveries_failed(jobs):
    # given a job whose two deliveries failed together, and again after a redrive
    names = ("postback_url", "redirect_queue")
    for redrives in range(2):
        again = job(COVER, redrives=redrives)
        write(attempt(NOTIFY, Outcome.GIVEN_UP, redrives, again, code="http_500", message="No.", worked_on=names))
    # then each failed attempt counts once
    (group,) = job_log_reader.failures(datetime.now(UTC) - timedelta(hours=1))
    assert (group.stage, group.code, group.count, group.job_ids) == ("notify", "http_500", 2, ("a-job",))


def test_rates_count_attempts_by_minute(jobs):
    for number in range(3):
        write(*good_history(job(COVER, job_id=f"job-{number}")))
    since = datetime.now(UTC) - timedelta(minutes=10)
    minutes = job_log_reader.rates(since)
    assert sum(minute.count("fetch", Outcome.DONE) for minute in minutes) == 3
    assert sum(minute.count("fetch") for minute in minutes) == 6
    now = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    assert job_log_reader.per_minute(minutes, now, timedelta(minutes=4))["notify"] == pytest.approx(3 / 4)
    assert job_log_reader.per_minute(minutes, now + timedelta(hours=1)) == {}
    assert job_log_reader.rates(datetime.now(UTC) + timedelta(minutes=2)) == []


def test_the_durations_of_live_jobs_are_counted_by_minute(jobs):
    # Given 18 jobs that took a second, one of half a minute, and one whose receiver failed for an hour
    now = time.time()
    for number, seconds in enumerate([1.0] * 18 + [30.0]):
        ended = job(COVER, job_id=f"job-{number}", accepted=now - seconds)
        write(Event(NOTIFY.name, ended.id, Outcome.DONE, at=now, job=ended))
    write(Event(NOTIFY.name, "job-19", Outcome.GIVEN_UP, at=now, code="timeout", job=job(COVER, accepted=now - 3600)))
    # And attempts that do not end a live job
    write(Event(NOTIFY.name, "job-20", Outcome.RETRY, at=now, code="timeout", job=job(COVER, accepted=now - 9999)))
    write(Event(NOTIFY.name, "job-21", Outcome.DONE, at=now, job=job(COVER, accepted=now - 9999, lane=Lane.BULK)))
    # Then the quantiles are those of the jobs, within 4 %
    minutes = job_log_reader.rates(datetime.now(UTC) - timedelta(minutes=10))
    found = [job_log_reader.quantile(minutes, part) for part in (0.5, 0.9, 0.95, 1)]
    assert found == pytest.approx([1, 1, 30, 3600], rel=0.04)
    assert job_log_reader.quantile([], 0.5) is None


def test_ids_are_found_by_their_beginning(jobs):
    for name in ("abc-1", "abc-2", "abd-1"):
        write(*good_history(job(COVER, job_id=name)))
    assert job_log_reader.matching("abc") == ["abc-1", "abc-2"]
    assert job_log_reader.history("abc") is None


def test_a_job_is_found_by_the_message_id_of_its_input(jobs):
    # given two jobs from the input queue
    message_ids = ["0b5ed5b1-8d05-4c53-a0b5-2c7a8e7e3c41", "1b5ed5b1-8d05-4c53-a0b5-2c7a8e7e3c41"]
    job_ids = [input_job_id(each) for each in message_ids]
    write(*(event for each in job_ids for event in good_history(job(COVER, job_id=each))))
    # when people look for what SQS answered their producer, then they find its job
    assert job_log_reader.history(message_ids[0]).id == job_ids[0]
    assert job_log_reader.matching(message_ids[1]) == [job_ids[1]]
    assert [each.id for each in search(JobFilter(text=message_ids[1].upper())).jobs] == [job_ids[1]]


def test_without_a_job_log_the_error_names_the_variable(environment):
    with pytest.raises(SettingsError, match="JOBS_MONGO_URL is not set"):
        search()


def test_an_error_of_mongodb_is_reported(jobs, monkeypatch):
    monkeypatch.setenv("JOBS_MONGO_URL", "mongodb://127.0.0.1:1/none")
    monkeypatch.setattr(mongo, "SHORT_TIMEOUT", 0.2)
    lazy.forget()
    with pytest.raises(RetryableError, match="MongoDB does not answer"):
        search()
