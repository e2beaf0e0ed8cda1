"""An operator's orders on the embedded servers: waiting jobs are tried now, or dropped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.actors import broker, fetch_image
from pipeline.clients import aws, lazy, mongo
from pipeline.errors import PermanentError
from pipeline.events import Event, Outcome, subscribe, unsubscribe
from pipeline.job import Job
from pipeline.monitoring import orders, processes
from pipeline.monitoring.job_log.reader import history
from pipeline.monitoring.job_log.schema import entry_of
from pipeline.monitoring.job_log.writer import write_entries
from pipeline.monitoring.pauses import PAUSES
from pipeline.net.host_limits import host_limiter, receiver_limiter
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from pipeline.sqs import looks
from pipeline.stages import FETCH, NOTIFY
from pipeline.worker.heartbeats import Heartbeats
from pipeline.worker.orders import following
from tests.integration.conftest import worker_of
from tests.support.command_line import image_pipeline
from tests.support.shown import queue_url
from tests.support.untrusted_servers import Remote, Request, answer, remote
from tests.support.waiting import wait_for

#: Deliveries that wait, and the folders that they belong to.
DELIVERIES, FOLDERS = 60, 3


@pytest.fixture
def job_log(job_log: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Provide queues and a job log, with heartbeats and looks that are soon, and a retry that is late."""
    monkeypatch.setenv("ALLOWED_NETWORKS", "127.0.0.0/8")
    for name in ("POSTBACK_RETRY_DELAYS", "FETCH_RETRY_DELAYS"):
        monkeypatch.setenv(name, "86400,86400,86400")
    lazy.forget()
    for change in plan(get_settings(), create_bucket=True):
        change.apply()
    monkeypatch.setattr(processes, "INTERVAL", 0.05)
    for name, seconds in (("LOOK", 2.0), ("GRID", 1.0)):
        monkeypatch.setattr(looks, name, seconds)
    # An earlier test of this process may have booked a look in a minute.
    monkeypatch.setattr(broker.sender._looks, "_booked", 0.0)
    host_limiter.cache_clear()
    receiver_limiter.cache_clear()
    yield
    following().follow(orders.Orders())
    broker.in_hand.pause([])


@pytest.fixture
def events() -> Iterator[list[Event]]:
    seen: list[Event] = []
    subscribe(seen.append)
    yield seen
    unsubscribe(seen.append)


@contextmanager
def obedient_worker(*stages: str) -> Iterator[None]:
    """Run a worker that takes messages only once it has read the orders."""
    broker.in_hand.pause(stages)
    beats = Heartbeats(get_settings())
    with worker_of(*stages, threads=4) as worker:
        beats.after_worker_boot(broker, worker)
        yield
        beats.before_worker_shutdown(broker, worker)


def delivery(number: int, url: str) -> Job:
    """Return a job whose result is due at a receiver."""
    source = f"http://127.0.0.1:9/{number}.jpg"
    payload = {"image_url": source, "postback_url": url, "bucket_name": f"folder {number % FOLDERS}"}
    job = Job.accept(payload, job_id=f"job-{number}", settings=get_settings(), stage_payload=lambda _: "")
    return job.with_errors(FETCH, {source: PermanentError("http_404", "Gone.")})


def dead(stage: str) -> int:
    counts = aws.sqs().get_queue_attributes(QueueUrl=queue_url(f"{stage}_dlq"), AttributeNames=["All"])["Attributes"]
    return int(counts["ApproximateNumberOfMessages"])


def test_deliveries_to_a_receiver_that_was_repaired_are_tried_now_and_each_once(
    job_log: None, events: list[Event]
) -> None:
    # Given a receiver that is down, deliveries for it that wait for a day or for its circuits, and one for another
    broken, made = {"/hook": True, "/other": True}, Counter[str]()

    def behave(_: Remote, request: Request) -> list[bytes]:
        is_down = broken[request.path.partition("?")[0]]
        made.update([] if is_down else [request.path])
        return [answer(503 if is_down else 200)]

    with remote(behave) as receiver:
        jobs = [delivery(number, receiver.url(f"/hook?token={number}")) for number in range(DELIVERIES)]
        other = delivery(DELIVERIES, receiver.url("/other"))
        with obedient_worker("notify"):
            broker.enqueue_many([broker.get_actor(NOTIFY.actor).message_of(job) for job in [*jobs, other]])
            wait_for(lambda: waiting(events) == len(jobs) + 1, timeout=60)
            assert receiver_limiter().open_circuits == 1
            # When it is repaired, and an operator tries its endpoint now
            broken["/hook"] = False
            assert "follow within two minutes" in image_pipeline("retry", "endpoint", receiver.url("/hook?token=x"))
            # Then each delivery is made once, and those that failed before have their second attempt.
            done = lambda: [each for each in events if each.outcome is Outcome.DONE]  # noqa: E731
            wait_for(lambda: len(done()) == len(jobs), timeout=60)
            tried = Counter(each.job_id for each in events if each.outcome is Outcome.RETRY)
            assert {(each.job_id, each.attempt) for each in done()} == {(job.id, 1 + tried[job.id]) for job in jobs}
            assert made == Counter(f"/hook?token={n}" for n in range(DELIVERIES))


def waiting(events: list[Event]) -> int:
    """Return how many jobs wait for long."""
    latest = {each.job_id: each for each in events}
    return sum(each.outcome is Outcome.RETRY or each.code == "host_resting" for each in latest.values())


def test_a_single_job_is_tried_now_and_one_that_fails_again_goes_on_waiting(job_log: None, events: list[Event]) -> None:
    # Given two deliveries that wait for a day
    with remote(lambda *_: [answer(503)]) as receiver:
        jobs = [delivery(number, receiver.url(f"/{number}")) for number in range(2)]
        write_entries([entry_of(Event("fetch", job.id, Outcome.DONE, job=job)) for job in jobs])
        with obedient_worker("notify"):
            broker.enqueue_many([broker.get_actor(NOTIFY.actor).message_of(job) for job in jobs])
            wait_for(lambda: len(events) == 2)
            # When one is tried now, which fails again
            image_pipeline("retry", "job", "job-1")
            wait_for(lambda: len(events) == 3)
            # Then that was its second attempt, and it is not tried a third time although the order still stands.
            assert (events[2].job_id, events[2].attempt, events[2].outcome) == ("job-1", 2, Outcome.RETRY)
            image_pipeline("retry", "code", "http_404")
            image_pipeline("retry", "code", "http_503")
            wait_for(lambda: len(events) == 5)
            assert sorted((each.job_id, each.attempt) for each in events[3:]) == [("job-0", 2), ("job-1", 3)]


def send(path: str, source: Remote, receiver: Remote, folder: str = "Flood") -> str:
    payload = {"image_url": source.url(path), "postback_url": receiver.url(path), "bucket_name": folder}
    return fetch_image.send(payload).message_id


def test_jobs_of_a_folder_are_dropped_and_no_others(job_log: None, events: list[Event]) -> None:
    # Given jobs of two folders that wait for fetch, and a filter for one of them
    with remote(lambda *_: [answer(404)]) as source, remote(lambda *_: [answer(200)]) as receiver:
        for number in range(3):
            send(f"/flood/{number}", source, receiver)
        send("/other", source, receiver, "Other")
        shown = image_pipeline("drop", "--folder", "flood", "--dry-run")
        assert "Would drop jobs of the folder FLOOD sent before" in shown
        assert "About 4 messages wait for fetch in all." in shown
        assert image_pipeline("drop", "--list") == ""
        made = image_pipeline("drop", "--folder", "flood")
        # and a job of that folder that is sent later
        send("/flood/later", source, receiver)
        # When fetch takes them
        with obedient_worker("fetch", "notify"):
            wait_for(lambda: len(receiver.requests) == 5)
        # Then the older ones of the folder are dropped, without a request or a dead letter,
        assert sorted(request.path for request in source.requests) == ["/flood/later", "/other"]
        codes = {request.path: json.loads(request.body)["image_url_error"]["code"] for request in receiver.requests}
        assert codes == {f"/flood/{n}": "dropped" for n in range(3)} | dict.fromkeys(
            ("/flood/later", "/other"), "http_404"
        )
        assert dead("fetch") == 2
        outcomes = Counter((each.stage, each.outcome) for each in events)
        assert outcomes[FETCH.name, Outcome.DROPPED] == 3
        # and the job log shows it.
        write_entries([entry_of(event) for event in events])
        dropped = next(each.job_id for each in events if each.outcome is Outcome.DROPPED)
        assert history(dropped).status == "dropped"  # type: ignore[union-attr]
    # When the filter is removed, then it is gone.
    (order,) = orders.read().drops
    assert order.id in made
    assert order.id in image_pipeline("drop", "--list")
    image_pipeline("drop", "--remove", order.id)
    image_pipeline("drop", "--remove", order.id, status=1)
    assert orders.read().drops == ()


def test_a_job_that_is_dropped_silently_ends_without_a_result(job_log: None, events: list[Event]) -> None:
    with remote(lambda *_: [answer(404)]) as source, remote(lambda *_: [answer(200)]) as receiver:
        job_id = send("/silent", source, receiver)
        send("/last", source, receiver, "Other")
        image_pipeline("drop", "--host", "127.0.0.1", "--folder", "Flood", "--silent")
        with obedient_worker("fetch", "notify"):
            wait_for(lambda: receiver.requests)
            wait_for(lambda: len(events) == 3)
        assert [request.path for request in receiver.requests] == ["/last"]
        write_entries([entry_of(event) for event in events])
        assert history(job_id).status == "dropped"  # type: ignore[union-attr]


def test_an_order_that_cannot_be_read_stops_no_heartbeat_and_hides_no_other(job_log: None) -> None:
    # Given orders of which only one is complete, as a later release or a person may have stored them
    now, kept = datetime.now(UTC), mongo.job_database()[PAUSES]
    good = {"folder": "A", "host": "", "before": now, "silent": False, "ends": now, "id": "good"}
    later = now + timedelta(hours=1)
    stored: list[dict[str, Any]] = [{"drop": good, "expires": later}]
    stored += [{"drop": good | bad, "expires": later} for bad in ({"before": "soon"}, {"folder": 1}, {"host": None})]
    stored += [{"drop": {"folder": "A"}, "expires": later}, {"drop": "all", "expires": later}, {"drop": good}]
    stored += [{"try": {"kind": "host", "value": ["a"], "at": now}, "expires": later}]
    stored += [{"try": {"kind": "job", "value": "a", "at": "now"}, "expires": "later"}]
    kept.insert_many([*stored, {"_id": "resize", "at": now}])
    # When a worker reads them
    with obedient_worker("fetch"):
        wait_for(lambda: following()._orders.drops)
        # Then it follows the good one, and goes on to read.
        assert [each.id for each in orders.read().drops] == ["good"]
        assert orders.read().tries == ()
        assert list(orders.read().paused) == ["resize"]
        kept.delete_many({})
        wait_for(lambda: not following()._orders.drops)
