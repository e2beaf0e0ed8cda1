"""Puts messages into a scripted SQS, and shows what a consumer makes of them."""

from __future__ import annotations

from typing import Any

import dramatiq

from pipeline.sqs.consumer import SQSConsumer
from pipeline.sqs.leases import DELETE_WAIT
from pipeline.sqs.settlement import SQSMessage
from pipeline.sqs.wire import encode
from tests.support.moved_clock import MovedClock
from tests.support.scripted_sqs import Entry, ScriptedSQS

SEND, DELETE, CHANGE, RECEIVE = (
    "send_message_batch",
    "delete_message_batch",
    "change_message_visibility_batch",
    "receive_message",
)


#: The actor of queues whose actor does not have their name.
ACTORS = {"work": "echo", "bulk": "echo"}


def message(*args: Any, queue: str = "work", **options: Any) -> dramatiq.Message[Any]:
    actor = ACTORS.get(queue, queue)
    return dramatiq.Message(queue_name=queue, actor_name=actor, args=args, kwargs={}, options=options)


def arrive(
    sqs: ScriptedSQS, name: str, *, receives: int = 1, queue: str = "work", body: str = "", **options: Any
) -> str:
    """Make a message wait in SQS; returns its body."""
    body = body or encode(message(name, queue=queue, **options))
    sqs.waiting.append(
        {
            "MessageId": name,
            "ReceiptHandle": f"handle of {name}",
            "Body": body,
            "Attributes": {"ApproximateReceiveCount": str(receives)},
        }
    )
    return body


def took(consumer: SQSConsumer) -> list[SQSMessage]:
    taken = []
    while (received := consumer.take()) is not None:
        taken.append(received)
    return taken


def start(consumer: SQSConsumer) -> int:
    """Let threads begin all received messages; returns their number."""
    taken = took(consumer)
    consumer._in_hand.working.update({each.lease: each for each in taken})
    return len(taken)


def sent_to(sqs: ScriptedSQS, queue: str) -> list[Entry]:
    return [e for entries in sqs.of(SEND) for e in entries if e["QueueUrl"] == f"http://sqs/test_{queue}"]


def delete_all(consumer: SQSConsumer, clock: MovedClock) -> None:
    consumer.leases.step()
    clock.now += DELETE_WAIT
    consumer.leases.step()
