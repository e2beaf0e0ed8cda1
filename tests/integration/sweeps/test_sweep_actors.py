"""The sweeps' actors in a worker: from a scheduled or manual run to jobs in the bulk lane."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import pipeline.actors  # builds the broker, on which the actors are declared
from actors import sweeps
from pipeline.clients import lazy
from pipeline.errors import RetryableError
from pipeline.ops import sweeps as sweeping
from pipeline.schedule import Schedule
from pipeline.settings import get_settings
from pipeline.sweeps import run_state, sweep
from pipeline.sweeps.documents import CHANNELS, EPISODES
from pipeline.worker.periodic import Periodic
from tests.integration.conftest import worker_of
from tests.support.dead import counts, taken
from tests.support.waiting import wait_for

QUEUES = ("sweep_channels", "sweep_episodes")


@pytest.fixture
def worker(database, monkeypatch):
    """A worker that sweeps two documents at a time."""
    monkeypatch.setattr(sweep, "PAGE_SIZE", 2)
    with worker_of(*QUEUES):
        yield database


def run_of(database, collection):
    return wait_for(lambda: next(iter(database.image_pipeline_sweeps.find({"collection": collection})), None))


def jobs():
    return [message["kwargs"]["job"] for message in taken("fetch_bulk")]


def test_a_manual_run_continues_page_by_page(worker):
    # Given five stale episodes
    worker.episodes.insert_many([{"_id": n, "itunes_image": f"http://h/{n}"} for n in range(5)])
    # When a run is started
    run = sweeping.start(EPISODES, limit=None)
    # Then each becomes a job, and the run ends.
    assert run.startswith("episodes-manual-")
    wait_for(lambda: run_state.load(run).walked)
    assert (run_state.load(run).page, run_state.load(run).claimed) == (3, 5)
    assert sorted(source["url"] for job in jobs() for source in job["sources"]) == [f"http://h/{n}" for n in range(5)]
    wait_for(lambda: counts("sweep_episodes") == (0, 0))


def test_a_message_of_the_schedule_begins_the_run_of_its_minute_once(worker):
    # Given a scheduler that sends twice
    worker.channels.insert_many([{"_id": n, "image_url": f"http://h/{n}"} for n in range(3)])
    at = datetime(2026, 11, 24, 1, 0, 2, tzinfo=UTC)
    for seconds in (0, 3):
        sweeps.sweep_channels.send_with_options(scheduled_at=str(at + timedelta(seconds=seconds)))
    # Then one run exists, named by its scheduled time.
    run = run_of(worker, "channels")
    due = Schedule(get_settings().sweep_channels_cron).latest(at)
    assert (run["_id"], run["scheduled_for"]) == (f"channels-{due:%Y-%m-%dT%H:%MZ}", due)
    wait_for(lambda: run_state.load(run["_id"]).walked)
    wait_for(lambda: counts("sweep_channels") == (0, 0))
    assert len(jobs()) == 3
    assert worker.image_pipeline_sweeps.count_documents({"collection": "channels"}) == 1


@pytest.mark.parametrize("options", [{}, {"recheck_days": 7}], ids=["earlier release", "this release"])
def test_a_worker_without_recheck_days_obeys_a_scheduler_that_has_them(worker, options):
    # Given a worker whose re-checks are off, and covers that a sweep has processed
    assert "periodic" not in sweeps.sweep_recheck.options
    urls = [f"http://h/{n}" for n in range(40)]
    worker.episodes.insert_many([{"_id": url, "itunes_image": url, "last_itunes_image": url} for url in urls])
    # When a scheduler with another schedule than this process sends
    at = datetime(2026, 11, 24, 1, 0, 2, tzinfo=UTC)
    if options:
        options = Periodic("0 1 * * *", options=options).options_of(str(at))
    message = sweeps.sweep_recheck.message_with_options(**({"scheduled_at": str(at)} | options))
    pipeline.actors.broker.enqueue(message)
    # Then the run of its minute begins and ends, and asks for the covers that are due by the scheduler's days.
    run = run_of(worker, "recheck")
    assert run["_id"] == "recheck-2026-11-24T01:00Z"
    wait_for(lambda: jobs() if options else run_state.load(run["_id"]).walked)
    wait_for(lambda: counts("sweep_channels")[1] == 0)


def test_a_message_without_a_time_begins_the_run_of_its_timestamp(worker):
    before = datetime.now(UTC).replace(second=0, microsecond=0)
    sweeps.sweep_episodes.send()
    run = run_of(worker, "episodes")
    assert before <= run["scheduled_for"].replace(second=0, microsecond=0) <= datetime.now(UTC)
    assert run["_id"] == run_state.scheduled_id(EPISODES, run["scheduled_for"])


def test_a_page_that_fails_on_mongodb_is_retried_by_the_same_message(worker, monkeypatch):
    # Given a MongoDB that fails the first read
    monkeypatch.setattr(sweeps, "MONGO_RETRY_DELAY", 0.1)
    worker.episodes.insert_many([{"_id": n, "itunes_image": f"http://h/{n}"} for n in range(3)])
    take_page, asked = sweep.take_page, []

    def in_trouble_once(swept, run, page, *, by, hand_over):
        asked.append((page, by))
        if len(asked) == 1:
            raise RetryableError("mongo_error", "MongoDB is away.")
        return take_page(swept, run, page, by=by, hand_over=hand_over)

    monkeypatch.setattr(sweep, "take_page", in_trouble_once)
    # When a run is started, then it still ends.
    run = sweeping.start(EPISODES, limit=None)
    wait_for(lambda: run_state.load(run).walked)
    assert asked[0] == asked[1]
    assert [page for page, _ in asked] == [0, 0, 1]


def test_a_run_that_has_to_wait_is_snoozed(worker, monkeypatch):
    sent = []
    monkeypatch.setattr(sweep, "take_page", lambda *_, **__: sweep.NextPage(4, 2.5))
    monkeypatch.setattr(sweeps, "send_page", lambda *page, **wait: sent.append((*page, wait)))
    sweeps.sweep_channels.send(run="channels-1", page=3)
    wait_for(lambda: sent)
    assert sent == [(CHANNELS, "channels-1", 4, {"wait": 2.5})]


def test_a_page_whose_jobs_sqs_refuses_is_retried(worker, monkeypatch):
    # Given an SQS that once accepts only the first of two jobs
    worker.episodes.insert_many([{"_id": n, "itunes_image": f"http://h/{n}"} for n in range(2)])
    enqueue_many, refused = pipeline.actors.broker.enqueue_many, []

    def refuses_once(messages, **options):
        if refused or len(messages) < 2:
            return enqueue_many(messages, **options)
        refused.append(RetryableError("sqs_error", "SQS is busy."))
        return [*enqueue_many(messages[:1]), refused[0]]

    monkeypatch.setattr(pipeline.actors.broker, "enqueue_many", refuses_once)
    # When a run is started, then it ends only once both are sent.
    run = sweeping.start(EPISODES, limit=None)
    wait_for(lambda: run_state.load(run).walked)
    assert {source["url"] for job in jobs() for source in job["sources"]} == {"http://h/0", "http://h/1"}


def test_the_next_page_is_sent_with_or_without_a_delay(monkeypatch):
    sent = []
    monkeypatch.setattr(pipeline.actors.broker, "enqueue", lambda message, delay: sent.append((message.kwargs, delay)))
    sweeps.send_page(CHANNELS, "run")
    sweeps.send_page(EPISODES, "run", 3, wait=2.5)
    assert sent == [({"run": "run", "page": 0}, 0), ({"run": "run", "page": 3}, 2500)]


def test_without_mongodb_nothing_is_swept(worker, monkeypatch):
    monkeypatch.delenv("MONGO_URL")
    lazy.forget()
    sweeps.sweep_channels.send()
    wait_for(lambda: counts("sweep_channels") == (0, 0))
    assert worker.image_pipeline_sweeps.count_documents({}) == 0


def test_a_dry_run_claims_nothing(database):
    database.channels.insert_one({"_id": 1, "title": "The Show"})
    database.episodes.insert_many([{"_id": n, "itunes_image": f"http://h/{n}", "channel_id": 1} for n in range(3)])
    found = sweeping.sample(EPISODES, 2)
    assert [(document.id, folder) for document, folder in found] == [(0, "THE_SHOW"), (1, "THE_SHOW")]
    assert database.episodes.count_documents({"lock": {"$exists": True}}) == 0


def test_a_run_is_followed_until_its_last_job_has_ended(database, monkeypatch):
    # Given a run that has read its collection, with one job under way
    monkeypatch.setattr(sweeping, "INTERVAL", 0.01)
    run = run_state.begin(CHANNELS, "run")
    group = run_state.DocumentGroup("cover/run/1", "run", "job", {}, [1], attempt="a")
    run_state.join([group], page=0)
    looks = sweeping.follow("run")
    assert next(looks) == sweeping.Progress()
    run_state.advance(run, [], by="m", claimed=2, walked=True)
    assert next(looks) == sweeping.Progress(claimed=2)
    # When the job ends, then following ends.
    run_state.count("run", {"done": 1, "changed": 1, "invalid": 2, "failed": 3})
    run_state.ended("cover/run/1")
    assert list(looks) == [sweeping.Progress(done=1, changed=1, invalid=2, failed=3, claimed=2, over=True)]
    assert sweeping.Progress(done=1, changed=1, invalid=2, failed=3).ended == 7
    assert list(sweeping.follow("another")) == []
