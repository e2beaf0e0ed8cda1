"""A broker with one queue and one actor on the embedded SQS, its consumers, and helpers to inspect the queue."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest

from pipeline.clients import aws
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.consumer import SQSConsumer
from pipeline.worker.middleware import GracefulShutdown, Suspects
from tests.support.waiting import wait_for

COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class MemoryCrashCounter(Counter[str]):
    """Counts in memory how often suspected poison messages were started alone; a test's workers share it."""

    def count(self, message_id: str) -> int:
        return self[message_id]

    def record(self, message_id: str, count: int) -> None:
        self[message_id] = count


@pytest.fixture
def broker(environment: dict[str, str], clock: Clock) -> SQSBroker:
    """Return a broker with one actor, `echo`, on the queue `work`; its visibility timeout is 2 s."""
    broker = SQSBroker(
        namespace=environment["QUEUE_NAMESPACE"],
        middleware=[Suspects(), GracefulShutdown()],
        client=aws.sqs,
        trials=MemoryCrashCounter(),
        visibility_timeout=2,
        clock=clock,
    )
    broker.declare_queue("work")
    dramatiq.actor(lambda *args: None, actor_name="echo", queue_name="work", broker=broker)
    return broker


@pytest.fixture
def consume(broker: SQSBroker) -> Iterator[Callable[..., SQSConsumer]]:
    """Return a function that makes consumers; close them at the end."""
    made: list[SQSConsumer] = []

    def make(prefetch: int = 10) -> SQSConsumer:
        made.append(broker.consume("work", prefetch=prefetch))
        return made[-1]

    yield make
    for consumer in made:
        consumer.close()


def message(*args: Any, **changes: Any) -> dramatiq.Message[Any]:
    fields: dict[str, Any] = {"queue_name": "work", "actor_name": "echo", "args": args, "kwargs": {}, "options": {}}
    return dramatiq.Message(**fields | changes)


def counts(broker: SQSBroker, queue: str = "work") -> tuple[int, int, int]:
    """Count the messages that are waiting, in flight and delayed."""
    attributes = broker.client.get_queue_attributes(QueueUrl=broker.queue_url(queue), AttributeNames=COUNTS)
    waiting, in_flight, delayed = (int(attributes["Attributes"][name]) for name in COUNTS)
    return waiting, in_flight, delayed


def take(consumer: SQSConsumer, count: int = 1) -> list[Any]:
    taken: list[Any] = []
    wait_for(lambda: taken.extend(filter(None, [next(consumer)])) or len(taken) >= count)
    return taken


def dead_letters(broker: SQSBroker, queue: str = "work_dlq") -> list[tuple[str, dict[str, str]]]:
    """Return the bodies and attributes of the dead letters."""
    received = broker.client.receive_message(
        QueueUrl=broker.queue_url(queue), MaxNumberOfMessages=10, MessageAttributeNames=["All"]
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

    broker.client.meta.events.register("before-call.sqs", count)
    return seen
