"""The times at which a periodic actor is due, as the scheduler asks for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import BrokerConnectionError
from periodiq import PeriodiqMiddleware
from periodiq import Scheduler as PeriodiqScheduler

from pipeline.worker.periodic import Periodic, PeriodicActor
from tests.support.moved_clock import MovedClock

NIGHTLY = "0 1 * * *"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def clock_at(text: str) -> MovedClock:
    return MovedClock.at(at(text))


def nightly(last: str | None, clock: MovedClock | None = None) -> Periodic:
    return Periodic(NIGHTLY, lambda: at(last) if last else None, clock=(clock or clock_at("2026-11-24 00:00")).utc)


def test_missed_runs_are_due_once_however_many_they_are() -> None:
    periodic = nightly("2026-11-20 01:00")
    assert periodic.validate(at("2026-11-24 09:17"))
    periodic.sent()
    assert not periodic.validate(at("2026-11-24 09:18"))
    assert periodic.next_valid_date(at("2026-11-24 09:18")) == at("2026-11-25 01:00")


def test_a_finished_run_is_not_due_again_when_the_scheduler_restarts_within_its_minute() -> None:
    assert not nightly("2026-11-24 01:00").validate(at("2026-11-24 01:00:30"))


def test_a_date_without_a_zone_is_utc() -> None:
    assert not Periodic(NIGHTLY, lambda: datetime(2026, 11, 24, 1)).validate(at("2026-11-24 09:00"))


@pytest.mark.parametrize(
    ("now", "due"), [("01:00:00", True), ("01:00:40", True), ("00:59:59", False), ("01:01", False)]
)
def test_without_a_known_run_the_current_minutes_run_is_due(now: str, due: bool) -> None:
    assert nightly(None).validate(at(f"2026-11-24 {now}")) is due


def test_a_failed_lookup_of_the_last_run_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def last() -> datetime:
        raise OSError("mongodb://user:password@host")

    periodic = Periodic(NIGHTLY, last)
    assert not periodic.validate(at("2026-11-24 09:00"))
    assert periodic.validate(at("2026-11-25 01:00"))
    (record,) = caplog.records
    assert "OSError" in record.message
    assert "password" not in record.message


def test_a_clock_that_is_put_back_makes_nothing_due_twice() -> None:
    periodic = nightly(None)
    assert periodic.validate(at("2026-11-24 01:00:00"))
    periodic.sent()
    assert not periodic.validate(at("2026-11-24 00:58:00"))
    assert not periodic.validate(at("2026-11-24 01:00:10"))


def test_a_run_that_could_not_be_sent_stays_due_and_is_retried_with_growing_delays() -> None:
    clock = clock_at("2026-11-24 01:00:07")
    periodic = nightly(None, clock)
    waits = []
    for _ in range(8):
        assert periodic.validate(at("2026-11-24 01:00:05"))
        periodic.not_sent()
        waits.append((periodic.next_valid_date(at("2026-11-24 01:00:05")) - clock.utc()).total_seconds())
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    # After it was sent, the schedule goes on, and the delays start again.
    periodic.sent()
    assert periodic.next_valid_date(clock.utc()) == at("2026-11-25 01:00")
    assert periodic.validate(at("2026-11-25 01:00"))
    assert periodic.not_sent() == 1


def test_the_scheduler_never_gets_a_time_in_the_past() -> None:
    clock = clock_at("2026-11-24 01:05:00")
    assert nightly(None, clock).next_valid_date(at("2026-11-24 00:59:00")) > clock.utc()


class Recorder(StubBroker):
    """A broker that accepts messages when it is healthy."""

    def __init__(self) -> None:
        super().__init__(middleware=[PeriodiqMiddleware()])
        self.well = True
        self.taken: list[dramatiq.Message] = []

    def enqueue(self, message, *, delay=None):
        if not self.well:
            raise BrokerConnectionError("down")
        self.taken.append(message)
        return message


def sweep(broker: dramatiq.Broker, periodic: Periodic) -> PeriodicActor:
    declared = dramatiq.actor(
        actor_class=PeriodicActor, broker=broker, queue_name="sweep", actor_name="sweep", periodic=periodic
    )(lambda: None)
    assert isinstance(declared, PeriodicActor)
    return declared


def test_the_scheduler_gets_no_send_error_but_other_callers_do(caplog: pytest.LogCaptureFixture) -> None:
    broker, periodic = Recorder(), nightly("2026-11-20 01:00")
    actor, now = sweep(broker, periodic), at("2026-11-24 09:17")
    broker.well = False
    # When the scheduler cannot send, then the run stays due;
    assert periodic.validate(now)
    actor.send_with_options(scheduled_at=str(now))
    assert "sweep cannot be sent (BrokerConnectionError)" in caplog.text
    assert periodic.validate(now)
    with pytest.raises(BrokerConnectionError):
        actor.send()
    # and when it can, the run is sent.
    broker.well = True
    actor.send_with_options(scheduled_at=str(now))
    assert not periodic.validate(now)
    assert [message.options["scheduled_at"] for message in broker.taken] == [str(now)]


def test_a_message_contains_the_time_that_it_is_sent_for_and_what_the_worker_has_to_know() -> None:
    # Given a scheduler that is eight hours late
    broker = Recorder()
    actor = sweep(broker, Periodic(NIGHTLY, options={"recheck_days": 7}))
    # When it sends, then the worker needs no schedule of its own.
    actor.send_with_options(scheduled_at=str(at("2026-11-24 09:17")))
    (message,) = broker.taken
    assert message.options["scheduled_for"] == "2026-11-24T01:00:00+00:00"
    assert message.options["recheck_days"] == 7


def test_it_works_with_periodiqs_own_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given periodiq's scheduler, and an actor that missed a run
    broker, alarms = Recorder(), []
    monkeypatch.setattr("periodiq.alarm", alarms.append)
    monkeypatch.setattr("periodiq.signal", lambda *_: None)
    monkeypatch.setattr("periodiq.sleep", lambda _: None)
    actor = sweep(broker, Periodic("@hourly", lambda: datetime.now(UTC) - timedelta(hours=3)))
    # When it asks twice, then the run is sent once, and the alarm is set to the next hour.
    for _ in range(2):
        PeriodiqScheduler([actor]).schedule()
    assert len(broker.taken) == 1
    assert len(alarms) == 2
    assert all(0 < alarm <= 3600 for alarm in alarms)
