"""A consumer of a quarantine queue, stepped on a scripted SQS."""

from __future__ import annotations

import pytest

from pipeline.sqs.consumer import QUARANTINE_REST
from pipeline.sqs.queues import GIVE_UP_AT, MAX_MESSAGE_BYTES, QUARANTINE_AT
from pipeline.sqs.settlement import Delete
from pipeline.sqs.wire import encode
from tests.support.received import CHANGE, DELETE, RECEIVE, SEND, arrive, delete_all, message, sent_to, took
from tests.support.scripted_sqs import (
    confirm,
    confirm_nothing,
)


def test_a_quarantined_message_keeps_its_home_queue_and_its_first_id(broker, sqs) -> None:
    # Given a message that moves from a bulk queue to quarantine
    broker.queues.quarantine["bulk"] = "poison"
    consumer = broker.consume("bulk", prefetch=16)
    body = arrive(sqs, "first id", receives=QUARANTINE_AT, queue="bulk")
    consumer.step()
    ((entry,),) = sqs.of(SEND)
    assert entry["MessageBody"] == body
    # When it is received there
    sqs.waiting = [
        {"MessageId": "x", "ReceiptHandle": "y", "Body": body, "MessageAttributes": entry["MessageAttributes"]}
    ]
    poison = broker.consume("poison")
    poison.step()
    (received,) = took(poison)
    # Then dramatiq sees the queue that it came from, and retries go home.
    assert (received.queue_name, received.original.queue_name, received.sqs_id) == ("poison", "bulk", "first id")


def test_a_message_of_the_largest_size_moves_to_quarantine_without_its_first_id(broker, sqs) -> None:
    # Given a message with no room for an attribute, which was received too often
    consumer = broker.consume("work", prefetch=4)
    room = MAX_MESSAGE_BYTES - len(encode(message("")))
    body = arrive(sqs, "large", receives=QUARANTINE_AT, body=encode(message("x" * room)))
    consumer.step()
    # Then it moves as it is.
    (entry,) = sent_to(sqs, "poison")
    assert entry["MessageBody"] == body
    assert "MessageAttributes" not in entry


@pytest.mark.parametrize("receives", [1, GIVE_UP_AT - 1, GIVE_UP_AT, GIVE_UP_AT + 3])
def test_a_quarantined_message_is_given_up_at_its_third_receive(broker, sqs, receives: int) -> None:
    consumer = broker.consume("poison")
    arrive(sqs, "a", receives=receives)
    consumer.step()
    (received,) = took(consumer)
    assert received.is_given_up == (receives >= GIVE_UP_AT)


def test_a_process_has_one_quarantined_message_in_hand(broker, sqs, clock) -> None:
    # Given two quarantine queues, and a message received from one of them
    first, second = broker.consume("poison", prefetch=8), broker.consume("other_poison", prefetch=8)
    arrive(sqs, "a")
    arrive(sqs, "b", queue="other")
    first.step()
    (received,) = took(first)
    # When it is finished, but SQS has not confirmed its delete, then neither queue receives.
    received.ending = Delete()
    first.ack(received)
    sqs.answers[DELETE] = confirm_nothing
    for _ in range(5):
        first.leases.step()
        assert (first.step(), second.step()) == (None, None)
        clock.now += 1
    # When it is confirmed, without waiting for a full batch, then the other queue has its turn.
    sqs.answers[DELETE] = confirm
    clock.now += 15
    first.leases.step()
    assert second.receiver.loops[1].woken > 0
    assert first.step() == pytest.approx(QUARANTINE_REST)
    second.step()
    assert [each.sqs_id for each in took(second)] == ["b"]


def test_a_quarantined_message_whose_delete_is_refused_leaves_its_thread_to_others(broker, sqs) -> None:
    # Given a worker with one thread, which a quarantined message occupies
    poison, other = broker.consume("poison", prefetch=2), broker.consume("plain", prefetch=2)
    arrive(sqs, "a")
    poison.step()
    (received,) = took(poison)
    assert other.step() is None
    before = other.receiver.loops[1].woken
    # When it has ended, and SQS refuses its delete
    sqs.answers[DELETE] = confirm_nothing
    received.ending = Delete()
    poison.ack(received)
    poison.leases.step()
    # Then the other queue looks again.
    assert other.receiver.loops[1].woken > before
    assert other.step() == 0


def test_a_stop_in_quarantine_sends_the_message_again_so_that_it_is_no_trial(broker, sqs) -> None:
    # Given a quarantined message that no thread has started
    consumer = broker.consume("poison")
    body = arrive(sqs, "a", receives=2)
    consumer.step()
    # When the process is told to stop
    broker.in_hand.stop()
    consumer.step()
    consumer.leases.step()
    # Then a new message counts its receives from the start, and the old one is deleted.
    assert [entry["MessageBody"] for entry in sent_to(sqs, "poison")] == [body]
    assert sqs.handles(DELETE) == [["handle of a"]]
    assert sqs.of(CHANGE) == []


def test_empty_quarantine_queues_are_polled_less_and_less_and_block_no_other(broker, sqs, clock) -> None:
    # Given two quarantine queues that are empty
    consumers = [broker.consume(queue) for queue in ("poison", "other_poison")]
    waits = []
    for _ in range(8):
        for consumer in consumers:
            waits.append(consumer.step())
        clock.now += 15
    # Then no poll waits for messages, and each queue is polled after longer waits,
    assert [request["WaitTimeSeconds"] for (request,) in sqs.of(RECEIVE)] == [0] * 16
    assert max(waits[:2]) <= 0.5
    assert 7.5 <= min(waits[-2:]) < max(waits[-2:]) <= 15
    # until there is a message.
    arrive(sqs, "a")
    assert consumers[0].step() == 0
    assert len(took(consumers[0])) == 1


def test_a_quarantined_message_lets_its_queue_be_asked_in_quick_succession_again(broker, sqs, clock) -> None:
    # Given a quarantine queue that was found empty again and again
    consumer = broker.consume("poison")
    for _ in range(8):
        wait = consumer.step()
        clock.now += 15
    assert wait > 7
    # When it has a message, and that has ended
    arrive(sqs, "a", queue="work")
    consumer.step()
    (received,) = took(consumer)
    received.ending = Delete()
    consumer.ack(received)
    delete_all(consumer, clock)
    # Then more may wait, so it is soon asked again.
    assert consumer.step() <= 0.5
