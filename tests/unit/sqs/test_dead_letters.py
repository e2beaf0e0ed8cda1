"""Dead letters that wait in another queue until theirs takes them, on a scripted SQS."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from typing import Any

import dramatiq
from botocore.exceptions import ClientError

from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.queues import Queue
from pipeline.sqs.wire import LETTER_WAIT, WAITING_FOR, Reason
from tests.support.received import (
    ACTORS,
    SEND,
    arrive,
    sent_to,
    took,
)
from tests.support.scripted_sqs import (
    Answer,
    Entry,
    StillLoop,
    blame_service,
    confirm,
)


def test_a_letter_that_its_queue_refuses_waits_in_the_queue_it_comes_from(broker, sqs, clock) -> None:
    # Given a dead-letter queue that refuses letters, and a bad message
    consumer = broker.consume("work", prefetch=4)
    sqs.answers[SEND] = refuse_letters
    arrive(sqs, "bad", body="no json")
    # When it is received, then its letter waits in its own queue, and its lease ends.
    consumer.step()
    (waiting,) = sent_to(sqs, "work")
    assert (waiting["MessageBody"], waiting["DelaySeconds"]) == ("no json", LETTER_WAIT)
    assert waiting["MessageAttributes"][WAITING_FOR]["StringValue"] == "work_dlq"
    assert len(consumer.leases) == 0
    # When it is received again, and the dead-letter queue takes it
    sqs.answers[SEND] = confirm
    sqs.waiting.append({"MessageId": "2", "ReceiptHandle": "2", "Body": "no json"} | attributes_of(waiting))
    consumer.step()
    # Then its reason is that of the first receive.
    *_, letter = sent_to(sqs, "work_dlq")
    assert letter["MessageAttributes"]["error_code"]["StringValue"] == "bad_message"
    assert WAITING_FOR not in letter["MessageAttributes"]
    assert len(consumer.leases) == 0


def test_a_letter_that_its_queue_refuses_waits_for_no_batch(sqs, clock, monkeypatch) -> None:
    # Given a queue with a backlog, in which sends wait a minute for each other
    bulk = Queue("bulk", dead_letters="work_dlq", bulk=True)
    broker = SQSBroker("test", lambda: sqs, queues=[bulk], clock=clock, loop=StillLoop, window=60)
    broker.declare_queue("bulk")
    monkeypatch.setattr(broker.in_hand, "expected_sends", lambda bulk: 2 * bulk)
    sqs.answers[SEND] = refuse_letters
    # When its dead-letter queue refuses a letter, then that waits in the queue at once, because a lease depends on it.
    began = time.monotonic()
    broker.bury("bulk", "a", Reason("x", "X."))
    assert time.monotonic() - began < 10
    assert len(sent_to(sqs, "bulk")) == 1


def test_a_message_cannot_name_another_queue_as_that_of_its_letter(broker, sqs) -> None:
    consumer = broker.consume("work", prefetch=4)
    arrive(sqs, "a")
    sqs.waiting[0]["MessageAttributes"] = {WAITING_FOR: {"DataType": "String", "StringValue": "work"}}
    consumer.step()
    assert (len(took(consumer)), sqs.of(SEND)) == (1, [])


def test_a_waiting_letter_is_for_its_own_queue_or_for_one_that_no_worker_consumes(sqs, clock) -> None:
    # Given a queue that letters of another service's input queue may wait in
    queues = [Queue("input", dead_letters="input_dlq")]
    broker = SQSBroker("test", lambda: sqs, queues=queues, clock=clock, rng=random.Random(1), loop=StillLoop)
    for queue in ("work", "plain"):
        dramatiq.actor(lambda *args: None, actor_name=ACTORS.get(queue, queue), queue_name=queue, broker=broker)
    consumer = broker.consume("work", prefetch=8)
    for target in ("work_dlq", "input_dlq", "plain_dlq"):
        arrive(sqs, target)
        sqs.waiting[-1]["MessageAttributes"] = {WAITING_FOR: {"DataType": "String", "StringValue": target}}
    # When they are received, then a sender has not chosen the dead letters of another queue.
    consumer.step()
    assert [len(sent_to(sqs, queue)) for queue in ("work_dlq", "input_dlq", "plain_dlq")] == [1, 1, 0]
    assert [each.sqs_id for each in took(consumer)] == ["plain_dlq"]


def test_an_attribute_of_another_type_holds_up_no_message(broker, sqs) -> None:
    # Given a letter that waits, whose sender gave its reason a type that we never write
    consumer = broker.consume("work", prefetch=8)
    arrive(sqs, "forged")
    sqs.waiting[0]["MessageAttributes"] = {
        WAITING_FOR: {"DataType": "String", "StringValue": "work_dlq"},
        "stage": {"DataType": "Binary", "BinaryValue": b"x"},
    }
    # and a message of which a sender says, in another type, that it is a letter
    arrive(sqs, "good")
    sqs.waiting[1]["MessageAttributes"] = {WAITING_FOR: {"DataType": "Binary", "BinaryValue": b"work_dlq"}}
    # When they are received, then the second is handed on.
    consumer.step()
    assert [each.sqs_id for each in took(consumer)] == ["good"]
    assert len(sent_to(sqs, "work_dlq")) == 1


def test_the_url_of_a_queue_that_was_deleted_is_looked_up_again(broker, sqs) -> None:
    # Given a dead-letter queue that is deleted after its first letter
    missing = ClientError({"Error": {"Code": "AWS.SimpleQueueService.NonExistentQueue"}}, "SendMessageBatch")
    urls = ["http://sqs/first", "http://sqs/second"]
    sqs.get_queue_url = lambda QueueName: {"QueueUrl": urls.pop(0)}
    broker.bury("work", "a", Reason("x", "X."))
    sqs.answers[SEND] = lambda entries: raise_(missing) if "first" in entries[0]["QueueUrl"] else confirm(entries)
    with suppress(IndexError):  # the queue that the letter comes from has no URL here
        broker.bury("work", "b", Reason("x", "X."))
    urls[:] = ["http://sqs/second"]
    # When the next letter is sent, then it goes to the queue's new URL.
    broker.bury("work", "c", Reason("x", "X."))
    assert sqs.of(SEND)[-1][0]["QueueUrl"] == "http://sqs/second"


def refuse_letters(entries: list[Entry]) -> Answer:
    return blame_service(entries) if entries[0]["QueueUrl"].endswith("_dlq") else confirm(entries)


def attributes_of(entry: Entry) -> Answer:
    return {"MessageAttributes": entry["MessageAttributes"]}


def raise_(error: Exception) -> Any:
    raise error
