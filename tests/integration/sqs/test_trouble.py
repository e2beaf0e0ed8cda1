"""The queue layer on a real SQS endpoint: refusals, failures and dead letters."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from dramatiq_sqs.exceptions import MessageTooLarge

from pipeline.sqs.queues import MAX_MESSAGE_BYTES
from pipeline.sqs.settlement import Bury, Plan, Settling
from pipeline.sqs.wire import Reason, SendEntry, SendFailed, decode, encode
from tests.integration.sqs.conftest import on_ministack
from tests.support.echo import broker, clock, consume, count_requests, counts, dead_letters, done, message, take
from tests.support.waiting import wait_for

__all__ = ["broker", "clock", "consume"]  # fixtures


def test_a_failed_message_becomes_a_dead_letter_with_its_reason(broker, consume) -> None:
    sent = broker.enqueue(message("bad"))
    (received,) = take(consumer := consume())
    reason = Reason("too_large", "It is too large.", stage="work", attempts=3, first=0.0, last=90.0)
    received.settle(Plan(Bury(reason)))
    settling = Settling(received, broker)
    assert settling.step() is None
    received.ending = settling.ending
    consumer.ack(received)
    ((body, attributes),) = wait_for(lambda: dead_letters(broker))
    assert decode(body).message_id == sent.message_id
    assert attributes == {
        "stage": "work",
        "error_code": "too_large",
        "error_message": "It is too large.",
        "attempts": "3",
        "first_at": "1970-01-01T00:00:00+00:00",
        "last_at": "1970-01-01T00:01:30+00:00",
    }
    wait_for(lambda: counts(broker) == (0, 0, 0))


@on_ministack
@pytest.mark.parametrize(
    "body",
    [
        "no json, and secret-word",
        "{}",
        '{"secret-word": 1}',
        "[1]",
        "c2VjcmV0LXdvcmQ=",
        encode(message("secret-word", queue_name="elsewhere")),
        encode(message("secret-word", options={"due": "x"})),
        encode(message("secret-word", options={"due": None})),
        encode(message("secret-word", options={"due": 99999999999999, "group": "not good"})),
        encode(message("secret-word", options={"due": 2**62})),
        encode(message("secret-word", options={"attempts": {"source": -1000}})),
        encode(message("secret-word", options={"attempts": {"source": 2**70}})),
        encode(message("secret-word", options={"attempts": {"source": "x"}})),
        encode(message("secret-word", options={"eta": 99999999999999})),
        encode(message("secret-word", message_timestamp="now")),
        encode(message("secret-word", actor_name="unknown")),
        encode(message("secret-word"))
        .replace('"options":{}', '"options":null')
        .replace('"options": {}', '"options": null'),
    ],
)
def test_an_invalid_message_becomes_one_dead_letter(broker, consume, caplog, body: str) -> None:
    # Given an invalid body, followed by a good message
    broker.sender.client().send_message(QueueUrl=broker.queues.url("work"), MessageBody=body)
    broker.enqueue(message("good"))
    # When they are received
    consumer = consume()
    assert take(consumer)[0].args == ("good",)
    # Then the invalid body is one dead letter with a reason, and the log does not contain it.
    ((kept, attributes),) = wait_for(lambda: dead_letters(broker))
    assert kept == body
    assert (attributes["error_code"], attributes["stage"]) == ("bad_message", "work")
    wait_for(lambda: counts(broker) == (0, 1, 0))
    assert "secret-word" not in caplog.text
    assert "secret-word" not in attributes["error_message"]


@on_ministack
@pytest.mark.parametrize("forged", ["two\nlines", "\ud800", "x" * 65, "", "a b"])
def test_an_id_that_could_not_be_logged_is_replaced_by_one_of_the_sqs_message(broker, consume, forged: str) -> None:
    # Given a message with such an id, and one with a good id
    body = encode(message("forged", message_id=forged))
    sqs_id = broker.sender.client().send_message(QueueUrl=broker.queues.url("work"), MessageBody=body)["MessageId"]
    good = broker.enqueue(message("good"))
    # When they are received, then only the first has another id, which a repeated delivery has too.
    ids = {each.args[0]: each.message_id for each in take(consume(), 2)}
    assert ids["good"] == good.message_id
    assert ids["forged"] == str(uuid5(uuid5(NAMESPACE_DNS, "message.image-pipeline"), sqs_id))


@on_ministack
def test_entries_that_sqs_would_refuse_are_not_sent(broker) -> None:
    broker.queues.url("work")
    requests = count_requests(broker)
    with pytest.raises(MessageTooLarge):
        broker.enqueue(message("x" * MAX_MESSAGE_BYTES))
    refused = [
        SendEntry("x", delay=901),
        SendEntry("x", group="g" * 129),
        SendEntry("x", group="a b"),
        SendEntry("x", attributes=(("name", ""),)),
        SendEntry("x", attributes=tuple((f"a{n}", "v") for n in range(11))),
        SendEntry(""),
        SendEntry("\x00"),
    ]
    assert [type(error) for error in broker.sender.send("work", refused)] == [ValueError] * len(refused)
    assert requests == {}


def test_a_refused_entry_does_not_block_the_others(broker) -> None:
    errors = broker.enqueue_many([message("a"), message("x" * MAX_MESSAGE_BYTES), message("b")])
    assert [type(error) for error in errors] == [type(None), MessageTooLarge, type(None)]
    assert counts(broker)[0] == 2


def test_a_send_that_is_not_confirmed_raises_at_its_caller(broker) -> None:
    broker.queues.url("work")

    def refuse(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="http://down")

    broker.sender.client().meta.events.register("before-call.sqs.SendMessageBatch", refuse)
    with pytest.raises(SendFailed):
        broker.enqueue(message("a"))


@on_ministack
def test_errors_while_receiving_and_deleting_are_retried(broker, consume) -> None:
    # Given an SQS that fails the first requests of each kind
    broker.enqueue_many([message(n) for n in range(3)])
    left = {"ReceiveMessage": 2, "DeleteMessageBatch": 2}

    def refuse(model: Any, **_: Any) -> None:
        if left.get(model.name, 0):
            left[model.name] -= 1
            raise EndpointConnectionError(endpoint_url="http://down")

    broker.sender.client().meta.events.register("before-call.sqs", refuse)
    # When messages are received and acknowledged, then all of them are finally deleted.
    consumer = consume()
    for each in take(consumer, 3):
        done(consumer, each)
    wait_for(lambda: counts(broker) == (0, 0, 0))
    assert left == {"ReceiveMessage": 0, "DeleteMessageBatch": 0}


def test_a_body_too_large_for_its_reason_goes_to_staging(broker, consume) -> None:
    # Given an invalid body just under SQS's limit
    kept: list[bytes] = []
    broker.sender.oversize = lambda body: kept.append(body) or "key-1"
    body = "x" * MAX_MESSAGE_BYTES
    broker.sender.client().send_message(QueueUrl=broker.queues.url("work"), MessageBody=body)
    consume()
    # When it becomes a dead letter, then the letter has the body's staging key.
    ((left, attributes),) = wait_for(lambda: dead_letters(broker))
    assert (left, attributes["staging_key"], attributes["error_code"]) == ("{}", "key-1", "bad_message")
    assert kept == [body.encode()]


def test_a_dead_letter_of_a_message_with_an_absurd_timestamp_is_kept(broker, consume) -> None:
    broker.bury("work", "{}", Reason("bad_job", "No job.", first=1.7e18, last=None))
    ((_, attributes),) = dead_letters(broker)
    assert attributes["error_code"] == "bad_job"
    assert "first_at" not in attributes


def test_message_groups_are_tried_once_on_an_endpoint_without_fair_queues(broker) -> None:
    # Given an endpoint that refuses message groups on standard queues
    def refuse(params, **_) -> None:
        if any("MessageGroupId" in entry for entry in params["Entries"]):
            text = "The request include parameter MessageGroupId which is not valid for this queue type"
            raise ClientError({"Error": {"Code": "InvalidParameterValue", "Message": text}}, "SendMessageBatch")

    broker.queues.url("work")
    broker.sender.client().meta.events.register(
        "provide-client-params.sqs.SendMessageBatch", lambda params, **kw: refuse(params)
    )
    requests = count_requests(broker)
    # When messages with groups are sent, then they arrive, and later sends omit the group.
    grouped = [message(n, options={"group": "FOLDER"}) for n in range(3)]
    assert broker.enqueue_many(grouped) == [None] * 3
    broker.enqueue(grouped[0])
    assert counts(broker)[0] == 4
    assert requests["SendMessageBatch"] == 2


def test_a_group_travels_with_its_message(broker) -> None:
    broker.enqueue(message("x", options={"group": "FOLDER"}))
    received = broker.sender.client().receive_message(
        QueueUrl=broker.queues.url("work"), MessageSystemAttributeNames=["MessageGroupId"]
    )
    assert received["Messages"][0]["Attributes"]["MessageGroupId"] == "FOLDER"
