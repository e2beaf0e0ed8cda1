"""A broker with one queue and one actor on the embedded SQS, its consumers, and helpers to inspect the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest

from pipeline.clients import aws
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.consumer import SQSConsumer
from pipeline.sqs.settlement import Delete, SQSMessage
from tests.support.waiting import wait_for

COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]


@pytest.fixture
def broker(environment: dict[str, str]) -> SQSBroker:
    """Return a broker with one actor, `echo`, on the queue `work`; its visibility timeout is 2 s."""
    broker = SQSBroker(environment["QUEUE_NAMESPACE"], aws.sqs, visibility_timeout=2)
    dramatiq.actor(lambda *args: None, actor_name="echo", queue_name="work", broker=broker)
    return broker


@pytest.fixture
def consume(broker: SQSBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SQSConsumer]]:
    """Return a function that makes consumers; close them at the end, without waiting for what they still hold."""
    yield lambda: broker.consume("work", prefetch=10)
    monkeypatch.setattr("pipeline.sqs.consumer.CLOSE_TIMEOUT", 0)
    for consumer in list(broker.in_hand.consumers):
        consumer.close()


def message(*args: Any, **changes: Any) -> dramatiq.Message[Any]:
    fields: dict[str, Any] = {"queue_name": "work", "actor_name": "echo", "args": args, "kwargs": {}, "options": {}}
    return dramatiq.Message(**fields | changes)


def counts(broker: SQSBroker, queue: str = "work") -> tuple[int, int, int]:
    """Count the messages that are waiting, in flight and delayed."""
    attributes = broker.sender.client().get_queue_attributes(QueueUrl=broker.queues.url(queue), AttributeNames=COUNTS)
    waiting, in_flight, delayed = (int(attributes["Attributes"][name]) for name in COUNTS)
    return waiting, in_flight, delayed


def take(consumer: SQSConsumer, count: int = 1) -> list[Any]:
    taken: list[Any] = []
    wait_for(lambda: taken.extend(filter(None, [consumer.take(0.25)])) or len(taken) >= count)
    return taken


def done(consumer: SQSConsumer, received: SQSMessage) -> None:
    """End a message as the layer's middleware does after its actor returned."""
    received.ending = Delete()
    consumer.ack(received)


def dead_letters(broker: SQSBroker, queue: str = "work_dlq") -> list[tuple[str, dict[str, str]]]:
    """Return the bodies and attributes of the dead letters."""
    received = broker.sender.client().receive_message(
        QueueUrl=broker.queues.url(queue), MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    )
    return [
        (m["Body"], {name: value["StringValue"] for name, value in m.get("MessageAttributes", {}).items()})
        for m in received.get("Messages", [])
    ]
