"""A broker with one queue and one actor on the embedded SQS, its consumers, and helpers to inspect the queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import dramatiq
import pytest

from pipeline.clients import aws
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.consumer import SQSConsumer
from pipeline.sqs.loop import Clock
from pipeline.sqs.settlement import Delete, SQSMessage
from tests.support.waiting import wait_for

COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]


class MovedClock(Clock):
    """A clock whose Unix time the test moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def broker(environment: dict[str, str], clock: MovedClock) -> SQSBroker:
    """Return a broker with one actor, `echo`, on the queue `work`; its visibility timeout is 2 s."""
    broker = SQSBroker(
        environment["QUEUE_NAMESPACE"],
        aws.sqs,
        quarantine={"work": "work_quarantine"},
        visibility_timeout=2,
        clock=clock,
    )
    broker.declare_queue("work")
    dramatiq.actor(lambda *args: None, actor_name="echo", queue_name="work", broker=broker)
    return broker


@pytest.fixture
def consume(broker: SQSBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SQSConsumer]]:
    """Return a function that makes consumers; close them at the end."""
    made: list[SQSConsumer] = []

    def make(prefetch: int = 10, queue: str = "work") -> SQSConsumer:
        made.append(broker.consume(queue, prefetch=prefetch))
        return made[-1]

    yield make
    close_soon(made, monkeypatch)


def close_soon(consumers: Iterable[SQSConsumer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Close the consumers of a test that has ended: nobody needs what they still hold, so nothing is waited for."""
    monkeypatch.setattr("pipeline.sqs.consumer.CLOSE_TIMEOUT", 0)
    for consumer in consumers:
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


def die(consumer: SQSConsumer) -> None:
    """End a consumer as a killed worker does: its messages reappear after the visibility timeout.

    Its prefetch is full, so it has no open poll that could receive more.
    """
    consumer._closed = True
    consumer._ready.put(None)
    for loop in consumer.receiver.loops:
        loop.end()
    consumer._in_hand.consumers.remove(consumer)


def dead_letters(broker: SQSBroker, queue: str = "work_dlq") -> list[tuple[str, dict[str, str]]]:
    """Return the bodies and attributes of the dead letters."""
    received = broker.sender.client().receive_message(
        QueueUrl=broker.queues.url(queue), MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    )
    return [
        (m["Body"], {name: value["StringValue"] for name, value in m.get("MessageAttributes", {}).items()})
        for m in received.get("Messages", [])
    ]


def count_requests(broker: SQSBroker) -> dict[str, int]:
    """Count the broker's requests from now on, by operation."""
    seen: dict[str, int] = {}

    def count(model: Any, **_: Any) -> None:
        seen[model.name] = seen.get(model.name, 0) + 1

    broker.sender.client().meta.events.register("before-call.sqs", count)
    return seen
