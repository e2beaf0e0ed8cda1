"""The register of jobs that wait for a retry, with a clock that the tests move."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial

import pytest

from pipeline.events import Event, Outcome
from pipeline.job import Job
from pipeline.monitoring import retrying
from pipeline.monitoring.retrying import GRACE, LOGGED_JOBS, MAX_PUBLISHED, QUIET, BeingRetried, Retrying, merged
from pipeline.settings import get_settings
from tests.support.moved_clock import MovedClock

S3_REFUSES = "Could not put a rendition: S3 answered AccessDenied."
HOST, HOOK = "https://covers.example", "https://hooks.example/in"


@pytest.fixture(autouse=True)
def _settings(no_variables: None) -> None:
    """Provide the defaults."""


@pytest.fixture
def register(clock: MovedClock) -> BeingRetried:
    clock.now = 1_700_000_000.0
    return BeingRetried(clock)


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


def job(number: int = 0, folder: str = "A") -> Job:
    payload = {"image_url": f"{HOST}/a.jpg", "postback_url": f"{HOOK}?job={number}", "bucket_name": folder}
    return Job.accept(payload, job_id=f"job-{number}", settings=get_settings(), stage_payload=lambda _: "key")


def attempt(
    register: BeingRetried, clock: MovedClock, stage: str, outcome: Outcome, *, number: int = 0, folder: str = "A",
    code: str = "", message: str = "", wait: float = 0.0,
) -> None:  # fmt: skip
    """Emit the event of one attempt that ends now."""
    its_job = job(number, folder)
    worked_on = tuple(source.url for source in its_job.sources) if stage == "fetch" else ()
    register(
        Event(
            stage, its_job.id, outcome, at=clock.now, code=code, message=message, wait=wait, job=its_job,
            worked_on=worked_on,
        )
    )  # fmt: skip


def causes(register: BeingRetried) -> list[tuple[str, str, str, str, int, int]]:
    found = merged(register.current(), datetime.fromtimestamp(register._clock(), UTC))
    return [(each.stage, each.code, each.detail, each.where, each.jobs, each.folders) for each in found]


def test_a_service_that_refuses_is_counted_and_ends_soon_after_a_success(
    register: BeingRetried, clock: MovedClock
) -> None:
    refused = partial(attempt, register, clock, "upload", Outcome.RETRY, code="s3_error", message=S3_REFUSES, wait=300)
    # Given S3 that has refused three jobs, one of them twice
    for number in (0, 1, 2, 2):
        refused(number=number)
        clock.now += 1
    (found,) = register.current()
    assert causes(register) == [("upload", "s3_error", "AccessDenied", "", 3, 1)]
    assert (found.since.timestamp(), found.next.timestamp()) == (1_700_000_000, 1_700_000_300)
    # When one of them succeeds, then the cause stays until no failure was seen for a while, although jobs still wait.
    attempt(register, clock, "upload", Outcome.DONE, number=1)
    clock.now += QUIET - 1
    assert causes(register)
    clock.now += 1
    assert causes(register) == []
    # When it fails again, then it begins anew, and the jobs that still wait are counted.
    refused(number=7)
    assert causes(register) == [("upload", "s3_error", "AccessDenied", "", 3, 1)]
    assert register.current()[0].since.timestamp() == clock.now


def test_a_job_that_does_not_need_the_service_shows_nothing(
    register: BeingRetried, clock: MovedClock, caplog: pytest.LogCaptureFixture
) -> None:
    # Given MongoDB that refuses the write-back of a sweep, while results of other jobs are posted
    attempt(
        register, clock, "notify", Outcome.RETRY, code="mongo_error", message="Could not write: it is down.", wait=600
    )
    for number in range(1, 4):
        clock.now += QUIET
        attempt(register, clock, "notify", Outcome.DONE, number=number)
    # Then its trouble is not over.
    assert [each[1] for each in causes(register)] == ["mongo_error"]
    assert len(caplog.messages) == 1


def test_a_service_that_refuses_now_and_then_is_not_over(register: BeingRetried, clock: MovedClock) -> None:
    for _ in range(5):
        for number in range(2):
            attempt(
                register, clock, "upload", Outcome.RETRY, number=number, code="s3_error", message=S3_REFUSES, wait=300
            )
        attempt(register, clock, "upload", Outcome.DONE, number=1)
        clock.now += QUIET - 1
        assert causes(register)


def test_a_host_is_over_after_a_success_of_its_own_alone(register: BeingRetried, clock: MovedClock) -> None:
    attempt(register, clock, "fetch", Outcome.RETRY, code="http_500", wait=60)
    register(Event("fetch", "job-2", Outcome.DONE, at=clock.now, worked_on=("https://other.example/a",)))
    clock.now += QUIET
    assert causes(register) == [("fetch", "http_500", "", HOST, 1, 1)]
    attempt(register, clock, "fetch", Outcome.DONE, number=3)
    clock.now += QUIET
    assert causes(register) == []


def test_deliveries_that_wait_for_a_resting_receiver_count_with_the_failures_that_opened_its_circuit(
    register: BeingRetried, clock: MovedClock
) -> None:
    for number in range(10):
        folder = f"F{number}"
        attempt(register, clock, "notify", Outcome.RETRY, number=number, folder=folder, code="http_503", wait=300)
    for number in range(8, 20):  # two of them come back
        attempt(register, clock, "notify", Outcome.SNOOZED, number=number, code="host_resting", wait=30)
    assert causes(register) == [("notify", "http_503", "", HOOK, 20, 9)]
    # A busy host is no trouble.
    attempt(register, clock, "notify", Outcome.SNOOZED, number=30, code="host_busy", wait=30)
    assert causes(register)[0][-2] == 20


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.GIVEN_UP, Outcome.DROPPED])
def test_a_job_that_ended_no_longer_waits(register: BeingRetried, clock: MovedClock, outcome: Outcome) -> None:
    for number in range(2):
        attempt(register, clock, "notify", Outcome.RETRY, number=number, code="http_503", wait=300)
    attempt(register, clock, "notify", outcome, number=0, code="host_down")
    assert [each.jobs for each in register.current()] == [1]


def test_a_cause_ends_when_its_jobs_were_due_and_did_not_fail_again(register: BeingRetried, clock: MovedClock) -> None:
    attempt(register, clock, "fetch", Outcome.RETRY, code="timeout", wait=60)
    clock.now += 60 + GRACE
    assert causes(register)
    clock.now += 1
    assert causes(register) == []


def test_jobs_that_are_tried_now_are_not_counted_for_hours(register: BeingRetried, clock: MovedClock) -> None:
    attempt(register, clock, "notify", Outcome.RETRY, code="http_503", wait=3600)
    attempt(register, clock, "fetch", Outcome.RETRY, code="timeout", wait=3600)
    register.hurry(lambda code, where: where == HOOK)
    clock.now += 61 + GRACE
    assert [each[0] for each in causes(register)] == ["fetch"]


def test_trouble_of_our_own_services_is_logged_once_when_it_begins_and_once_when_it_ends(
    register: BeingRetried, clock: MovedClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for stage in ("fetch", "upload", "upload"):
        attempt(register, clock, stage, Outcome.RETRY, code="s3_error", message=S3_REFUSES, wait=1)
    attempt(register, clock, "fetch", Outcome.RETRY, code="http_500", wait=60)
    assert caplog.messages == [
        f"S3 is in trouble, and jobs are retried: {S3_REFUSES} `image-pipeline check` explains it."
    ]
    for stage in ("fetch", "upload"):
        attempt(register, clock, stage, Outcome.DONE)
    # Another event suffices, without a heartbeat.
    clock.now += 120
    attempt(register, clock, "fetch", Outcome.DONE)
    assert caplog.messages[1:] == ["S3 fails no jobs any more, after 2 min of trouble."]


def test_trouble_of_a_receiver_of_many_jobs_is_logged_once_when_it_begins_and_once_when_it_ends(
    register: BeingRetried, clock: MovedClock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2 * LOGGED_JOBS):
        attempt(register, clock, "notify", Outcome.RETRY, number=number, code="http_503", wait=3600)
        register.current()
    assert caplog.messages == [f"{HOOK} fails (http_503), and {LOGGED_JOBS} jobs or deliveries wait for a retry."]
    attempt(register, clock, "notify", Outcome.DONE, number=99)
    clock.now += QUIET
    register.current()
    assert caplog.messages[1:] == [f"{HOOK} fails no jobs any more, after 15 s of trouble."]


def test_memory_is_bounded(register: BeingRetried, clock: MovedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "MAX_JOBS", 50)
    monkeypatch.setattr(retrying, "MAX_CAUSES", 30)
    for number in range(100):
        clock.now += 0.01
        message = f"Could not put a rendition: S3 answered Code{number}."
        attempt(register, clock, "upload", Outcome.RETRY, number=number, code="s3_error", message=message, wait=300)
    assert len(register._jobs) == 50
    assert sum(map(len, register._causes.values())) == 30
    assert len(register.current()) == MAX_PUBLISHED


def test_a_success_in_one_process_ends_a_cause_in_all(clock: MovedClock) -> None:
    # Given two processes with deliveries to a receiver that wait for hours
    clock.now = 1_700_000_000.0
    registers = [BeingRetried(clock), BeingRetried(clock)]
    for number, register in enumerate(registers):
        attempt(register, clock, "notify", Outcome.RETRY, number=number, code="http_503", wait=7200)

    def listed() -> list[str]:
        at = datetime.fromtimestamp(clock.now, UTC)
        return [each.where for each in merged((each for one in registers for each in one.current()), at)]

    # When the only one of the first process is delivered, then the receiver is over, until it fails again somewhere.
    clock.now += 1
    attempt(registers[0], clock, "notify", Outcome.DONE, number=0)
    assert listed() == [HOOK]
    clock.now += QUIET
    assert listed() == []
    attempt(registers[1], clock, "notify", Outcome.RETRY, number=2, code="http_503", wait=7200)
    assert listed() == [HOOK]


def test_the_processes_are_added_up_with_one_entry_for_each_receiver() -> None:
    def entry(code: str, jobs: int, minute: int, where: str = HOOK) -> Retrying:
        since = datetime(2026, 3, 1, 5, minute, tzinfo=UTC)
        return Retrying("notify", code, "", where, jobs, jobs // 2, since, since.replace(hour=6), since)

    entries = [entry("http_503", 40, 30), entry("timeout", 10, 20), entry("mongo_error", 3, 0, where="")]
    found = merged(entries, datetime(2026, 3, 1, 6, tzinfo=UTC))
    assert [(each.code, each.jobs, each.folders) for each in found] == [("mongo_error", 3, 1), ("http_503", 50, 20)]
    assert (found[1].since.minute, found[1].next.minute) == (20, 20)
