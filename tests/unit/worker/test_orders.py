"""An operator's orders in a process: which jobs it drops, and which it tries now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dramatiq
import pytest

from pipeline.errors import Dropped, NoConnection
from pipeline.events import Event, Outcome
from pipeline.job import Job
from pipeline.monitoring.orders import KINDS, Drop, Orders, TryNow
from pipeline.monitoring.retrying import BeingRetried
from pipeline.net.host_limits import is_at, receiver_limiter
from pipeline.settings import Settings
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.wire import decode
from pipeline.worker import orders
from pipeline.worker.messages import job_kwargs
from pipeline.worker.orders import Following
from tests.support.attempts import attempt_at
from tests.support.moved_clock import MovedClock
from tests.support.scripted_sqs import ScriptedSQS, StillLoop

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
COVER, HOOK = "https://cdn.example:8443/a.jpg?v=1", "https://hooks.example/in?token=1"


@pytest.fixture(autouse=True)
def fresh_limiter() -> Iterator[None]:
    receiver_limiter.cache_clear()
    yield
    receiver_limiter.cache_clear()


def a_job(**payload: str) -> Job:
    payload = {"image_url": COVER, "postback_url": HOOK, "bucket_name": "Show A"} | payload
    return Job.accept(payload, job_id="job-1", settings=Settings(), stage_payload=lambda _: "")


def waiting(queue: str = "notify", since: datetime = NOW, job: Job | None = None, **options: Any) -> Any:
    options |= {"since": int(since.timestamp() * 1000)}
    return dramatiq.Message(queue, "actor", (), job_kwargs(job or a_job()), options)


def following(*given: Drop | TryNow) -> Following:
    found = Following()
    drops = tuple(each for each in given if isinstance(each, Drop))
    found.follow(Orders({}, drops, tuple(each for each in given if isinstance(each, TryNow))))
    return found


@pytest.mark.parametrize(
    ("queue", "kind", "value", "hurried"),
    [
        ("notify", "job", "job-1", True),
        ("notify", "job", "job-2", False),
        ("notify", "endpoint", "https://hooks.example/in", True),
        ("notify", "endpoint", "https://hooks.example/other", False),
        ("notify", "host", "hooks.example", True),
        ("notify", "host", "cdn.example", False),
        ("fetch", "host", "cdn.example", True),
        ("fetch_bulk", "host", "cdn.example:8443", True),
        ("fetch", "host", "cdn.example:443", False),
        ("fetch", "endpoint", "https://hooks.example/in", False),
        ("resize", "host", "hooks.example", False),
        ("resize", "code", "s3_error", True),
        ("resize", "code", "http_503", False),
    ],
)
def test_an_order_is_for_the_jobs_that_it_names(queue: str, kind: str, value: str, hurried: bool) -> None:
    message = waiting(queue, code="s3_error")
    assert following(TryNow(kind, value, NOW + MINUTE)).is_hurried(message) is hurried


def test_a_job_that_failed_again_is_not_hurried_a_second_time() -> None:
    orders = following(TryNow("host", "hooks.example", NOW))
    assert orders.is_hurried(waiting(since=NOW - MINUTE))
    assert not orders.is_hurried(waiting(since=NOW + MINUTE))


def test_a_job_is_not_hurried_a_second_time_by_a_process_whose_clock_is_behind() -> None:
    # Given a message that an order has hurried, which is a minute ahead of this process
    clock = MovedClock()
    sender = SQSBroker("test", ScriptedSQS, clock=clock, loop=StillLoop).sender
    order = TryNow("host", "hooks.example", clock.utc() + timedelta(seconds=60, milliseconds=1))
    message = waiting(since=order.at - 2 * MINUTE)
    assert following(order).is_hurried(message)
    # When it is snoozed for a second, fails, and waits again
    for delay in (1000, 3_600_000):
        message = decode(sender.entry(message, delay).body)
    # Then it goes on waiting.
    assert not following(order).is_hurried(message)
    # When it waits after the order
    clock.now += 120
    message = decode(sender.entry(message, 3_600_000).body)
    # Then a later order hurries it.
    assert following(replace(order, at=order.at + 2 * MINUTE)).is_hurried(message)


@pytest.mark.parametrize("written", ["Shows.Example.", "shows.example:80", "b\u00fccher.example"])
def test_a_host_matches_however_people_write_it(written: str) -> None:
    known = KINDS["host"](written)
    assert is_at(f"http://{written}/a.jpg", known)
    assert KINDS["host"](f"http://{written}") == KINDS["host"]("a/b") == KINDS["host"]("") == ""


def test_only_the_deliveries_to_an_endpoint_are_hurried() -> None:
    orders = following(TryNow("endpoint", "https://hooks.example/in", NOW + MINUTE))
    assert not orders.is_hurried(waiting(job=replace(a_job(), deliveries=("redirect_queue",))))
    assert not orders.is_hurried(waiting(job=replace(a_job(), payload=None, payload_key="staged")))


@pytest.mark.parametrize("kwargs", [{}, {"job": None}, {"job": {"v": 99}}, {"payload": {}}])
def test_a_message_without_a_readable_job_goes_on_waiting(kwargs: dict[str, Any]) -> None:
    message = dramatiq.Message("fetch", "actor", (), kwargs, {})
    assert not following(TryNow("host", "cdn.example", NOW)).is_hurried(message)


@pytest.mark.parametrize(
    ("kind", "value", "when_read"),
    [
        ("endpoint", "https://hooks.example/in", True),
        ("host", "hooks.example", True),
        ("code", "unreachable", True),
        ("job", "job-1", False),
    ],
)
def test_a_circuit_closes_before_its_jobs_come(kind: str, value: str, when_read: bool) -> None:
    # Given a receiver whose circuit is open
    for _ in range(10):
        with pytest.raises(NoConnection), receiver_limiter().slot(HOOK, folder="A"):
            raise NoConnection("unreachable", "Down.")
    assert receiver_limiter().open_circuits == 1
    # When an order is read
    orders = following(TryNow(kind, value, NOW + MINUTE))
    # Then it is closed, for a single job once its message comes,
    assert (receiver_limiter().open_circuits == 0) is when_read
    assert orders.is_hurried(waiting(code="unreachable"))
    assert receiver_limiter().open_circuits == 0


@pytest.mark.parametrize(
    ("kind", "value", "waits"),
    [
        ("endpoint", "https://hooks.example/in", False),
        ("host", "hooks.example", False),
        ("code", "http_503", False),
        ("endpoint", "https://hooks.example/other", True),
        ("job", "job-1", True),
    ],
)
def test_jobs_that_are_tried_now_are_no_longer_reported_as_waiting_for_hours(
    monkeypatch: pytest.MonkeyPatch, kind: str, value: str, waits: bool
) -> None:
    clock = MovedClock(NOW.timestamp())
    register = BeingRetried(clock)
    monkeypatch.setattr(orders, "being_retried", lambda: register)
    register(Event("notify", "job-1", Outcome.RETRY, at=clock.now, code="http_503", wait=7200, job=a_job()))
    following(TryNow(kind, value, NOW))
    clock.now += 120
    assert bool(register.current()) is waits


def test_an_order_closes_circuits_once() -> None:
    order = TryNow("host", "hooks.example", NOW)
    orders = following(order)
    for _ in range(10):
        with pytest.raises(NoConnection), receiver_limiter().slot(HOOK, folder="A"):
            raise NoConnection("unreachable", "Down.")
    orders.follow(Orders({}, (), (order,)))
    assert receiver_limiter().open_circuits == 1


class TestDrops:
    @pytest.mark.parametrize(
        ("wanted", "dropped"),
        [
            ({"folder": "SHOW_A"}, True),
            ({"folder": "SHOW_B"}, False),
            ({"host": "cdn.example"}, True),
            ({"host": "hooks.example"}, False),
            ({"folder": "SHOW_A", "host": "cdn.example:8443"}, True),
            ({"folder": "SHOW_A", "host": "other.example"}, False),
            ({}, True),
            ({"folder": "SHOW_A", "before": NOW}, False),
            ({"before": NOW - MINUTE}, False),
        ],
    )
    def test_a_filter_matches_what_was_accepted_before_it(self, wanted: dict[str, Any], dropped: bool) -> None:
        facts = {"folder": "", "host": "", "before": NOW + MINUTE, "silent": False, "ends": NOW} | wanted
        orders, job = following(Drop(**facts)), a_job()
        if dropped:
            with pytest.raises(Dropped):
                orders.check(attempt_at(job, arrived=NOW.timestamp()), job.sources[0])
        else:
            orders.check(attempt_at(job, arrived=NOW.timestamp()), job.sources[0])

    def test_a_redriven_job_is_wanted(self) -> None:
        orders, job = following(Drop("SHOW_A", "", NOW + MINUTE, False, NOW)), replace(a_job(), redrives=1)
        orders.check(attempt_at(job, arrived=NOW.timestamp()), job.sources[0])

    def test_a_job_has_a_result_if_one_filter_wants_it(self) -> None:
        job = a_job()
        for silent, expected in (((True, True), True), ((True, False), False)):
            orders = following(*(Drop("SHOW_A", "", NOW + MINUTE, each, NOW) for each in silent))
            with pytest.raises(Dropped) as raised:
                orders.check(attempt_at(job, arrived=NOW.timestamp()), job.sources[0])
            assert raised.value.silent is expected
