"""Settlement: each step of a plan is confirmed once, trouble is waited for, and the default is to release."""

from __future__ import annotations

import random
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import TimeLimitExceeded
from dramatiq_sqs.exceptions import MessageTooLarge

from pipeline.sqs.leases import Lease
from pipeline.sqs.settlement import (
    RELEASE_DELAY,
    Bury,
    Delete,
    Enqueue,
    Letter,
    Release,
    Settlement,
    Settling,
    SQSMessage,
)
from pipeline.sqs.wire import Reason, SendFailed, Unavailable

REASON = Reason("too_large", "It is too large.")


def message(name: str) -> dramatiq.Message[Any]:
    return dramatiq.Message(queue_name="work", actor_name="echo", args=(name,), kwargs={}, options={})


class Outbox:
    """Records what is sent, and fails as often as the test wants."""

    rng = random.Random(1)

    def __init__(self, *failures: BaseException) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.failures = list(failures)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> None:
        self._send(message.args[0], delay)

    def give_up(self, message: dramatiq.Message[Any], reason: Reason) -> None:
        self._send(message.args[0], reason)

    def bury(self, queue_name: str, body: str, reason: Reason) -> None:
        self._send(queue_name, body, reason)

    def _send(self, *what: Any) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append(what)


def settling(outbox: Outbox, plan: Any, seed: int = 1) -> Settling:
    decide = plan if callable(plan) else lambda: plan
    outbox.rng = random.Random(seed)
    received = SQSMessage(
        message("itself"), Lease("id", "handle", 0.0), queue_name="poison", body="as received", receives=3
    )
    received.settle(decide)
    return Settling(received, outbox)


def test_a_plan_is_carried_out_in_order() -> None:
    outbox = Outbox()
    plan = Settlement(Delete(), (Letter(message("letter"), REASON), Enqueue(message("next"), 5000)))
    each = settling(outbox, plan)
    assert each.ending == Release()
    assert each.step() is None
    assert each.ending == Delete()
    assert outbox.sent == [("letter", REASON), ("next", 5000)]


def test_a_buried_message_is_deleted_once_its_letter_is_confirmed() -> None:
    outbox = Outbox(SendFailed("down"))
    each = settling(outbox, Settlement(Bury(REASON), (Enqueue(message("first")),)))
    assert each.step()
    assert each.ending == Release()
    assert each.step() is None
    assert (each.ending, outbox.sent) == (Delete(), [("first", 0), ("itself", REASON)])


def test_what_is_confirmed_is_not_sent_again() -> None:
    outbox = Outbox()
    each = settling(outbox, Settlement(Delete(), (Enqueue(message("first")), Enqueue(message("second")))))
    sent, send = [], outbox._send

    def fail_the_second(*what: Any) -> None:
        sent.append(what[0])
        if len(sent) == 2:
            raise SendFailed("down")
        send(*what)

    outbox._send = fail_the_second
    assert each.step()
    assert each.step() is None
    assert sent == ["first", "second", "second"]


def test_a_decision_that_fails_is_made_again() -> None:
    answers = [Unavailable("S3 is down."), None]

    def decide() -> Settlement:
        if error := answers.pop(0):
            raise error
        return Settlement(Delete())

    each = settling(Outbox(), decide)
    assert each.step()
    assert each.step() is None
    assert each.ending == Delete()


def test_waits_grow_and_vary() -> None:
    def waits(seed: int) -> list[float | None]:
        each = settling(Outbox(*[SendFailed("down")] * 9), Settlement(Delete(), (Enqueue(message("x")),)), seed)
        return [each.step() for _ in range(9)]

    one, other = waits(1), waits(2)
    assert one != other
    assert all(0.25 <= wait <= 15 for wait in one + other if wait is not None)
    assert (one[0] or 0) <= 0.5
    assert (one[-1] or 0) >= 7.5


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (MessageTooLarge("A message of 1048577 bytes is too large."), "message_too_large"),
        (ValueError("secret-word"), "internal_error"),
        (RecursionError("secret-word"), "internal_error"),
    ],
)
def test_a_message_whose_next_one_can_never_be_sent_is_buried_at_once_as_it_was_received(
    failure: Exception, code: str, caplog
) -> None:
    # Given a hand-over that fails whenever it is tried, and an SQS that is down for a moment
    outbox = Outbox(failure, SendFailed("down"), failure)
    each = settling(outbox, Settlement(Delete(), (Enqueue(message("next")),)))
    assert each.step()
    assert each.ending == Release()
    # When SQS is there again, then the message is a dead letter, with what is known of it.
    assert each.step() is None
    ((queue, body, reason),) = outbox.sent
    assert (each.ending, queue, body) == (Delete(), "work", "as received")
    assert (reason.code, reason.stage, reason.attempts) == (code, "work", 3)
    assert "secret-word" not in caplog.text


def test_a_dead_letter_that_cannot_be_encoded_keeps_its_reason_and_the_body_that_was_received() -> None:
    outbox = Outbox(ValueError("NaN"))
    each = settling(outbox, Settlement(Bury(REASON)))
    assert each.step() is None
    assert (each.ending, outbox.sent) == (Delete(), [("work", "as received", REASON)])


@pytest.mark.parametrize("failure", [KeyError("never"), TimeLimitExceeded()])
def test_what_can_never_be_settled_is_released_and_nothing_is_raised(failure: BaseException, caplog) -> None:
    outbox = Outbox(failure)
    each = settling(outbox, Settlement(Delete(), (Enqueue(message("secret-word")),)))
    assert each.step() is None
    assert each.ending == Release(RELEASE_DELAY)
    assert "cannot be settled" in caplog.text
    assert "secret-word" not in caplog.text


def test_a_plan_may_release() -> None:
    each = settling(Outbox(), Settlement(Release(7)))
    assert each.step() is None
    assert each.ending == Release(7)


def test_no_form_of_a_message_shows_its_arguments() -> None:
    secret = message("secret-word").copy(message_id="1")
    received = SQSMessage(secret, Lease("id", "handle", 0.0), queue_name="work")
    assert (str(received), repr(received), f"{received}") == ("echo[1]",) * 3
