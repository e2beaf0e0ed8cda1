"""Which messages a consumer admits, and under which ids: messages of a sender who may write to the queue."""

from __future__ import annotations

import json
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import pytest

from pipeline.sqs.consumer import FIRST_ID
from pipeline.sqs.queues import QUARANTINE_AT
from pipeline.sqs.wire import encode
from tests.support.received import SEND, arrive, message, sent_to, took
from tests.support.scripted_sqs import ScriptedSQS


def by(actor: str, queue: str = "work") -> str:
    return encode(message("secret-word", queue=queue), actor_name=actor)


def refused(sqs: ScriptedSQS, queue: str) -> list[dict[str, str]]:
    """Return the attributes of the dead letters of a queue."""
    letters = sent_to(sqs, f"{queue}_dlq")
    return [{name: value["StringValue"] for name, value in each["MessageAttributes"].items()} for each in letters]


@pytest.mark.parametrize("queue", ["work", "bulk", "poison"])
def test_a_queue_does_not_take_the_actor_of_another(broker, sqs, queue: str) -> None:
    # Given a message for an actor of another queue
    consumer = broker.consume(queue, prefetch=4)
    arrive(sqs, "forged", body=by("plain"))
    # When it is received, then it does not run, and is a dead letter with a reason.
    consumer.step()
    assert took(consumer) == []
    (attributes,) = refused(sqs, "work")
    assert (attributes["error_code"], attributes["stage"]) == ("bad_message", queue)
    assert "plain" in attributes["error_message"]


@pytest.mark.parametrize(
    ("queue", "actor"), [("work", "echo"), ("bulk", "echo"), ("poison", "echo"), ("plain", "plain")]
)
def test_queues_that_share_dead_letters_take_the_same_actors(broker, sqs, queue: str, actor: str) -> None:
    consumer = broker.consume(queue, prefetch=4)
    arrive(sqs, "a", body=by(actor, queue="plain" if queue == "plain" else "work"))
    consumer.step()
    assert [each.actor_name for each in took(consumer)] == [actor]


#: Changes of a good message to values that later code cannot handle.
CHANGES: list[dict[str, Any]] = [
    {"queue_name": "elsewhere"},
    {"actor_name": "unknown"},
    {"message_timestamp": "now"},
    {"message_timestamp": 10**400},
    {"message_timestamp": -1},
    {"options": None},
    {"options": {"throws": "ValueError"}},
    {"options": {"throws": ["ValueError"]}},
    {"options": {"eta": 1}},
    {"options": {"due": "x"}},
    {"options": {"due": None}},
    {"options": {"due": 2**62}},
    {"options": {"group": "not good"}},
    {"options": {"attempts": {"source": -1000}}},
    {"options": {"attempts": {"source": 2**70}}},
    {"options": {"attempts": {"source": "x"}}},
]


@pytest.mark.parametrize(
    "body",
    [
        *("no json, and secret-word", "{}", '{"secret-word": 1}', "[1]", "c2VjcmV0LXdvcmQ="),
        *(json.dumps(message("secret-word").asdict() | changes) for changes in CHANGES),
    ],
)
def test_an_invalid_message_becomes_one_dead_letter(broker, sqs, caplog, body: str) -> None:
    # Given an invalid body, followed by a good message
    consumer = broker.consume("work", prefetch=4)
    arrive(sqs, "bad", body=body)
    arrive(sqs, "good")
    # When they are received, then only the good one runs,
    consumer.step()
    assert [each.sqs_id for each in took(consumer)] == ["good"]
    # and the other is a dead letter with a reason, which is not quoted.
    assert [each["MessageBody"] for each in sent_to(sqs, "work_dlq")] == [body]
    (attributes,) = refused(sqs, "work")
    assert (attributes["error_code"], attributes["stage"]) == ("bad_message", "work")
    assert "secret-word" not in caplog.text + attributes["error_message"]


def test_an_id_that_is_not_ours_is_replaced_by_the_same_in_quarantine(broker, sqs) -> None:
    # Given a message whose id could not be logged
    consumer = broker.consume("work", prefetch=4)
    body = encode(message("a"), message_id="order 7/2026")
    arrive(sqs, "first id", body=body, receives=QUARANTINE_AT - 1)
    consumer.step()
    (live,) = took(consumer)
    # When it moves to quarantine, where SQS gives it another MessageId
    arrive(sqs, "first id", body=body, receives=QUARANTINE_AT)
    consumer.leases.release([live.lease])
    consumer.leases.step()
    consumer.step()
    ((entry,),) = sqs.of(SEND)
    arrive(sqs, "second id", body=entry["MessageBody"])
    sqs.waiting[-1]["MessageAttributes"] = entry["MessageAttributes"]
    poison = broker.consume("poison")
    poison.step()
    # Then its id, by which receivers drop duplicates, is the same.
    (quarantined,) = took(poison)
    assert quarantined.message_id == live.message_id
    assert live.message_id == str(uuid5(uuid5(NAMESPACE_DNS, "message.image-pipeline"), "first id"))


def test_the_first_id_of_a_sender_does_not_count_on_a_live_queue(broker, sqs) -> None:
    # Given a message whose sender set the attribute that quarantined messages have
    consumer = broker.consume("work", prefetch=4)
    arrive(sqs, "id of SQS")
    sqs.waiting[-1]["MessageAttributes"] = {FIRST_ID: {"DataType": "String", "StringValue": "chosen"}}
    consumer.step()
    # Then it has the id that the sender does not know.
    assert [each.sqs_id for each in took(consumer)] == ["id of SQS"]
