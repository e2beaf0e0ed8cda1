"""A consumer that has to stop: what it gives back, sends again and waits for."""

from __future__ import annotations

import math
import random
import time
from typing import Any, ClassVar

import pytest

from pipeline.sqs import consumer as consumers
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.consumer import POLL_MARGIN, RESTART_DELAY
from pipeline.sqs.queues import LONG_POLL
from pipeline.sqs.receiver import CLOSE_TIMEOUT, Transfer
from pipeline.sqs.settlement import Delete
from pipeline.sqs.wire import SendEntry
from tests.support.received import (
    CHANGE,
    DELETE,
    SEND,
    arrive,
    sent_to,
    start,
    took,
)
from tests.support.scripted_sqs import (
    StillLoop,
    unreachable,
)


def test_a_stop_gives_back_what_was_not_started_without_waiting_for_sqs(broker, sqs, clock) -> None:
    # Given messages that no thread has taken, and a message that could not be sent
    consumer = broker.consume("work", prefetch=8)
    arrive(sqs, "a")
    arrive(sqs, "bad", body="no json")
    sqs.answers[SEND] = unreachable
    consumer.step()
    sqs.requests.clear()
    # When the process is told to stop, then no request is made by the thread that was told,
    broker.in_hand.stop()
    assert sqs.requests == []
    # and the consumer's own threads release both, so that other workers get them at once.
    assert consumer.step() is None
    consumer.leases.step()
    assert [sorted(batch) for batch in sqs.handles(CHANGE)] == [["handle of a", "handle of bad"]]
    assert [entry["VisibilityTimeout"] for batch in sqs.of(CHANGE) for entry in batch] == [0, 0]
    assert took(consumer) == []


def test_what_a_poll_returns_after_the_stop_is_released(broker, sqs) -> None:
    consumer = broker.consume("work", prefetch=8)
    arrive(sqs, "a")
    receive = sqs.receive_message

    def stop_meanwhile(**request: Any) -> Any:
        broker.in_hand.stopping.set()
        return receive(**request)

    sqs.receive_message = stop_meanwhile
    consumer.step()
    assert took(consumer) == []
    consumer.leases.step()
    assert sqs.handles(CHANGE) == [["handle of a"]]


def test_a_closed_consumer_releases_and_deletes_at_once(broker, sqs) -> None:
    consumer = broker.consume("work", prefetch=8)
    arrive(sqs, "a")
    arrive(sqs, "b")
    consumer.step()
    finished = consumer.take()
    finished.ending = Delete()
    consumer.ack(finished)
    consumer.close()
    consumer.close()  # dramatiq may: after an error of its own, and when the worker ends
    consumer.leases.step()
    assert (sqs.handles(CHANGE), sqs.handles(DELETE)) == ([["handle of b"]], [["handle of a"]])
    assert broker.in_hand.consumers == []


def test_all_consumers_of_a_process_share_the_time_to_close(sqs, clock, monkeypatch) -> None:
    # Given ten consumers whose messages SQS does not release
    monkeypatch.setattr(consumers, "CLOSE_TIMEOUT", 0.2)
    broker = SQSBroker("test", lambda: sqs, clock=clock, rng=random.Random(1), loop=HangingKeeper)
    for n in range(10):
        broker.declare_queue(f"queue_{n}")
        broker.consume(f"queue_{n}").leases.add("a", "handle of a")
    # When the process ends long after the stop, then it waits once.
    broker.in_hand.stop()
    clock.now += 60
    began = time.monotonic()
    for consumer in list(broker.in_hand.consumers):
        consumer.close()
    assert time.monotonic() - began < 1


def test_a_close_waits_for_polls_as_long_as_sqs_may_take_counted_from_the_stop(sqs, clock) -> None:
    # Given a process that was told to stop some seconds ago
    CountingReceiver.waited.clear()
    broker = SQSBroker("test", lambda: sqs, clock=clock, rng=random.Random(1), loop=CountingReceiver)
    broker.declare_queue("work")
    consumer = broker.consume("work")
    broker.in_hand.stop()
    clock.now += 5
    # When the consumer is closed
    began = time.monotonic()
    consumer.close()
    # Then it waits for the rest of the longest poll and its answer, and all consumers together not much longer.
    assert CountingReceiver.waited == pytest.approx([LONG_POLL + POLL_MARGIN - 5], abs=1)
    latest = began + LONG_POLL + POLL_MARGIN - 5 + CLOSE_TIMEOUT
    assert broker.in_hand.close_by(math.inf) == pytest.approx(latest, abs=1)


def test_a_close_sends_nothing_while_the_receiver_waits_for_sqs(sqs, clock, monkeypatch) -> None:
    # Given a transfer, and a receiver that SQS does not answer
    monkeypatch.setattr(consumers, "CLOSE_TIMEOUT", 0.0)
    broker = SQSBroker("test", lambda: sqs, clock=clock, rng=random.Random(1), loop=HangingReceiver)
    broker.declare_queue("work")
    consumer = broker.consume("work")
    arrive(sqs, "bad", body="no json")
    sqs.answers[SEND] = unreachable
    consumer.step()
    before = len(sqs.of(SEND))
    # When the consumer is closed, then it does not wait for another request.
    broker.in_hand.stop()
    consumer.close()
    assert len(sqs.of(SEND)) == before


def test_a_close_after_its_deadline_sends_nothing_and_releases_the_transfers(broker, sqs) -> None:
    # Given a transfer that could not be sent, in a process whose time to stop is over
    consumer = broker.consume("work", prefetch=8)
    arrive(sqs, "bad", body="no json")
    sqs.answers[SEND] = unreachable
    consumer.step()
    before = len(sqs.of(SEND))
    # When the consumer is closed, then it sends nothing, because SQS may take half a minute,
    consumer.receiver.close(0.0, time.monotonic())
    assert len(sqs.of(SEND)) == before
    # and the message is released for others.
    consumer.leases.step()
    assert [entry["VisibilityTimeout"] for batch in sqs.of(CHANGE) for entry in batch] == [0]


def test_a_close_releases_a_transfer_that_the_last_send_refuses(broker, sqs) -> None:
    # Given a transfer with another way for what can never be sent
    consumer = broker.consume("work", prefetch=8)
    lease = consumer.leases.add("a", "handle of a")
    refused = SendEntry("")  # no body
    consumer.receiver.transfer(Transfer(lease, lambda: ("work_dlq", refused), lambda error: ("work_dlq", refused)))
    # When the consumer is closed
    broker.in_hand.stop()
    consumer.close()
    # Then it is released at once.
    consumer.leases.step()
    assert [entry["VisibilityTimeout"] for batch in sqs.of(CHANGE) for entry in batch] == [0]


class HangingKeeper(StillLoop):
    """Stands for a thread that waits for SQS, if it is that of leases."""

    @property
    def is_alive(self) -> bool:  # type: ignore[override]
        return self.name.startswith("keep")


class CountingReceiver(StillLoop):
    """Notes how long it is waited for."""

    waited: ClassVar[list[float]] = []

    def join(self, timeout: float) -> None:
        self.waited.append(timeout)


class HangingReceiver(StillLoop):
    """Stands for a thread that waits for SQS, if it is that of receives."""

    @property
    def is_alive(self) -> bool:  # type: ignore[override]
        return self.name.startswith("receive")


class TestRestart:
    """A stop that ends in a kill does not count against the quarantined message that runs."""

    def test_it_is_sent_again_and_deleted(self, broker, sqs, clock) -> None:
        # Given a quarantined message that a thread works on, at its second receive
        consumer = broker.consume("poison", prefetch=2)
        body = arrive(sqs, "a", receives=2)
        consumer.step()
        start(consumer)
        # When the process has to stop
        broker.in_hand.stop()
        consumer.resend_started()
        consumer.step()
        consumer.leases.step()
        # Then a copy is received later, for the first time,
        (copy,) = sent_to(sqs, "poison")
        assert (copy["MessageBody"], copy["DelaySeconds"]) == (body, RESTART_DELAY)
        # and the message itself is gone.
        assert sqs.handles(DELETE) == [["handle of a"]]

    def test_messages_of_other_queues_are_not(self, broker, sqs) -> None:
        consumer = broker.consume("work", prefetch=2)
        arrive(sqs, "a")
        consumer.step()
        start(consumer)
        broker.in_hand.stop()
        consumer.resend_started()
        consumer.step()
        assert sqs.of(SEND) == []

    def test_a_message_that_ends_before_its_copy_is_sent_is_sent_once(self, broker, sqs) -> None:
        # Given a quarantined message whose copy has not been sent yet
        consumer = broker.consume("poison", prefetch=2)
        arrive(sqs, "a")
        consumer.step()
        (message,) = took(consumer)
        broker.in_hand.working[message.lease] = message
        broker.in_hand.stop()
        consumer.resend_started()
        # When its thread gives it back
        consumer.nack(message)
        consumer.step()
        # Then there is one copy.
        assert len(sent_to(sqs, "poison")) == 1
