"""Ingest step by step: what it receives, hands over, keeps and releases, on a clock and an SQS of the test."""

from __future__ import annotations

import json
import math
import threading
import time

import pytest

import pipeline.actors  # noqa: F401 - builds the broker, from which the actors' messages come
from pipeline.errors import RetryableError
from pipeline.events import Event, Outcome, subscribe, unsubscribe
from pipeline.job_ids import input_job_id
from pipeline.metrics import JOBS
from pipeline.sqs.leases import DELETE_WAIT, LAST_BACKOFF
from pipeline.sqs.queues import LONG_POLL
from pipeline.sqs.receiver import CLOSE_TIMEOUT
from pipeline.sqs.wire import SendFailed, Unavailable
from pipeline.stages import Lane
from pipeline.worker import long_bodies
from pipeline.worker.ingest import Ingest
from tests.support.driven_ingest import CHANGE, DELETE, GOOD, RECEIVE, Driven, refuse_all
from tests.support.scripted_sqs import unreachable
from tests.support.waiting import wait_for


@pytest.fixture
def driven() -> Driven:
    return Driven()


@pytest.fixture
def events() -> list[Event]:
    found: list[Event] = []
    subscribe(found.append)
    yield found
    unsubscribe(found.append)


@pytest.mark.parametrize(("queue", "within"), [("input", 2 * DELETE_WAIT), ("input.fifo", 1)])
def test_messages_are_deleted_once_their_hand_over_is_confirmed(queue: str, within: float) -> None:
    driven = Driven(queue)
    ids = driven.arrive(GOOD, GOOD)
    assert driven.ingest.receiver.step() == 0
    assert driven.sent.jobs == ids
    # The messages of a FIFO group wait for each other, so they are deleted soon.
    driven.go_on(within)
    assert driven.sqs.handles(DELETE) == [["handle of message 0", "handle of message 1"]]
    assert driven.ingest.unanswered_since is None


def test_a_batch_is_received_and_handed_over_while_the_hand_over_of_another_takes_its_time(driven: Driven) -> None:
    # Given a hand-over during which another message arrives
    (early,) = driven.arrive(GOOD)
    late = {"MessageId": "late", "ReceiptHandle": "handle of late", "Body": json.dumps(GOOD)}

    def meanwhile(body: str) -> None:
        if body == early:
            driven.sqs.waiting.append(late)
            assert driven.ingest.receiver.step() == 0
            # Then the other message does not wait for it.
            assert driven.sent.jobs == [input_job_id("late")]

    driven.sent.refuse = meanwhile
    assert driven.ingest.receiver.step() == 0
    assert driven.sent.jobs == [input_job_id("late"), early]


def test_while_a_batch_cannot_be_handed_over_none_is_received(driven: Driven) -> None:
    # Given a batch that SQS does not take
    driven.arrive(GOOD)
    driven.sent.refuse = refuse_all
    assert driven.ingest.receiver.step()
    # When the other thread wants to receive, then it waits too
    driven.arrive(GOOD)
    assert driven.ingest.receiver.step()
    assert driven.received == 1
    # until SQS takes it.
    driven.sent.refuse = lambda _: None
    driven.clock.now += LAST_BACKOFF
    assert driven.ingest.receiver.step() == 0
    assert driven.received == 2


def test_only_what_was_not_confirmed_is_sent_again(driven: Driven) -> None:
    # Given an SQS that refuses one of three messages twice
    first, second, third = driven.arrive(GOOD, GOOD, GOOD)
    refusals = [SendFailed("one"), SendFailed("two")]
    driven.sent.refuse = lambda body: refusals.pop() if body == second and refusals else None
    driven.ingest.receiver.step()
    assert driven.sent.jobs == [first, third]
    # Then the other two are deleted at once, and only the refused one is tried again.
    driven.go_on(1)
    assert "handle of message 1" not in driven.deleted
    driven.go_on(10)
    assert driven.sent.jobs == [first, third, second]
    assert len(driven.deleted) == 3


def test_what_is_not_handed_over_is_released_when_ingest_stops(driven: Driven) -> None:
    driven.arrive(GOOD, GOOD)
    driven.sent.refuse = refuse_all
    driven.ingest.receiver.step()
    driven.ingest.stop()
    assert driven.ingest.receiver.step() is None
    driven.ingest.receiver.leases.step()
    ((first, second),) = driven.sqs.of(CHANGE)
    assert (first["VisibilityTimeout"], second["VisibilityTimeout"]) == (0, 0)
    assert driven.deleted == set()
    assert driven.ingest.receiver.leases.is_idle


def test_what_is_received_while_ingest_stops_is_released_unsent(driven: Driven) -> None:
    driven.arrive(GOOD)
    receive = driven.sqs.receive_message

    def stopped_meanwhile(**request: object) -> dict[str, object]:
        driven.ingest.stop()
        return receive(**request)

    driven.sqs.receive_message = stopped_meanwhile  # type: ignore[method-assign]
    assert driven.ingest.receiver.step() is None
    driven.ingest.receiver.leases.step()
    assert driven.sent.attempts == 0
    ((entry,),) = driven.sqs.of(CHANGE)
    assert entry["VisibilityTimeout"] == 0


def test_a_message_whose_payload_cannot_be_staged_is_held_and_its_batch_is_handed_over_once(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a batch with a long payload, and a staging that fails for a minute
    ids = driven.arrive(GOOD, GOOD | {"long": "x" * 100_000}, GOOD)
    staged: list[bytes] = []

    class Staging:
        def put(self, data: bytes) -> str:
            if driven.clock.now < 1060:
                raise RetryableError("s3_error", "S3 is down.")
            staged.append(data)
            return "0" * 32

    monkeypatch.setattr(long_bodies, "staging", Staging)
    driven.go_on(30)
    assert driven.sent.jobs == [ids[0], ids[2]]
    assert driven.received == 1
    # When staging works again, then the held message follows, and the others were sent once.
    driven.go_on(60)
    assert driven.sent.jobs == [ids[0], ids[2], ids[1]]
    assert [len(data) > 100_000 for data in staged] == [True]
    assert len(driven.deleted) == 3


@pytest.mark.parametrize(
    ("body", "code"), [("{", "not_json"), ("[1]", "not_an_object"), (json.dumps({"n": 1}), "no_image")]
)
def test_an_unacceptable_message_becomes_a_dead_letter_once(
    driven: Driven, events: list[Event], body: str, code: str
) -> None:
    # Given an SQS that takes no sends at first
    driven.arrive(body)
    driven.sent.refuse = refuse_all
    driven.go_on(5)
    assert driven.sent.letters == []
    assert driven.deleted == set()
    # When it takes sends, then the message is a letter with its reason, which is reported once.
    driven.sent.refuse = lambda _: None
    driven.go_on(20)
    assert driven.sent.letters == [(body, "ingest", code)]
    ((event),) = events
    assert (event.outcome, event.code) == (Outcome.REJECTED, code)
    assert event.message.endswith(".")
    assert driven.deleted == {"handle of message 0"}


def test_a_letter_too_large_for_its_reason_waits_for_staging(driven: Driven, events: list[Event]) -> None:
    driven.arrive("{")
    driven.sent.oversize = Unavailable("S3 is down.")
    driven.go_on(5)
    assert (driven.sent.attempts, len(driven.ingest.receiver.leases), events) == (0, 1, [])
    driven.sent.oversize = None
    driven.go_on(20)
    assert driven.sent.letters == [("{", "ingest", "not_json")]
    assert len(events) == 1


def test_a_message_that_can_never_be_sent_becomes_a_dead_letter(driven: Driven, events: list[Event]) -> None:
    (id_,) = driven.arrive(GOOD)
    driven.sent.refuse = lambda body: ValueError("too long") if body == id_ else None
    driven.go_on(5)
    assert driven.sent.letters == [(json.dumps(GOOD), "ingest", "bad_message")]
    assert [event.code for event in events] == ["bad_message"]


def test_a_stop_waits_for_polls_as_long_as_sqs_may_take(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(driven.ingest.receiver, "close", lambda *times: asked.append(times))
    began = time.monotonic()
    driven.ingest.join()
    ((for_polls, close_by),) = asked
    assert for_polls == LONG_POLL + CLOSE_TIMEOUT
    assert close_by - began == pytest.approx(for_polls + CLOSE_TIMEOUT, abs=1)


def test_messages_of_one_redriven_letter_are_one_job(driven: Driven) -> None:
    driven.arrive(GOOD, GOOD, GOOD)
    for message in driven.sqs.waiting[:2]:
        message["MessageAttributes"] = {"redriven_from": {"StringValue": "letter 1", "DataType": "String"}}
    driven.ingest.receiver.step()
    assert driven.sent.jobs == [input_job_id("letter 1")] * 2 + [input_job_id("message 2")]
    ((request,),) = driven.sqs.of(RECEIVE)
    assert request["MessageAttributeNames"] == ["redriven_from"]


def test_only_jobs_are_counted_as_handed_over(driven: Driven) -> None:
    handed_over = JOBS.labels("ingest", Lane.LIVE, Outcome.DONE)
    before = handed_over._value.get()
    driven.arrive(GOOD, GOOD, "{")
    driven.go_on(5)
    assert len(driven.sent.letters) == 1
    assert handed_over._value.get() == before + 2


def test_a_stop_deletes_at_once_and_releases_what_the_last_poll_returns() -> None:
    # Given an ingest whose threads wait in long polls, and a message that was handed over
    driven, polls, go_on = Driven(), threading.Semaphore(0), threading.Event()
    ingesting = Ingest(
        "http://sqs/input",
        sender=driven.sent,  # type: ignore[arg-type]
        visibility=45,
    )
    (job,) = driven.arrive(GOOD)
    late = [{"MessageId": "late", "ReceiptHandle": "handle of late", "Body": json.dumps(GOOD)}]
    receive, lock = driven.sqs.receive_message, threading.Lock()

    def poll(**request: object) -> dict[str, object]:
        with lock:
            if driven.sqs.waiting:
                return receive(**request)
        polls.release()
        assert go_on.wait(10)
        with lock:
            return {"Messages": [late.pop()]} if late else {}

    driven.sqs.receive_message = poll  # type: ignore[method-assign]
    ingesting.start()
    for _ in range(2):
        assert polls.acquire(timeout=10)
    assert driven.sent.jobs == [job]
    # When it stops, and a poll returns a message
    ingesting.stop()
    ending = threading.Thread(target=ingesting.join)
    ending.start()
    wait_for(lambda: driven.deleted)
    go_on.set()
    ending.join(10)
    # Then the first is deleted and the other is visible again.
    assert driven.deleted == {"handle of message 0"}
    assert driven.sent.jobs == [job]
    assert [entry["VisibilityTimeout"] for entries in driven.sqs.of(CHANGE) for entry in entries] == [0]


def test_a_pause_from_the_start_is_no_trouble(driven: Driven) -> None:
    assert driven.ingest.unanswered_since == -math.inf
    driven.ingest.pause(True)
    assert driven.ingest.receiver.step()
    assert driven.ingest.unanswered_since is None
    # When the pause ends before the first answer, then it is not ready yet.
    driven.ingest.pause(False)
    assert driven.ingest.unanswered_since == -math.inf


def test_a_poll_that_failed_before_a_pause_is_not_missing_after_it(driven: Driven) -> None:
    driven.go_on(1)
    driven.sqs.receive_message = lambda **_: unreachable([])  # type: ignore[method-assign]
    driven.go_on(1)
    assert driven.ingest.unanswered_since is not None
    driven.ingest.pause(True)
    driven.go_on(20)
    driven.ingest.pause(False)
    assert driven.ingest.unanswered_since is None
