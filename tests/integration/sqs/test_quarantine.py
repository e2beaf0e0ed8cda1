"""Quarantine on a real SQS endpoint: poison messages are given up, and their neighbours are not blamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import dramatiq
import pytest

from pipeline.clients import aws
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.consumer import SQSConsumer
from pipeline.sqs.settlement import SQSMessage
from tests.integration.sqs.conftest import on_ministack
from tests.support.echo import close_soon, counts, die, done, message, take
from tests.support.waiting import wait_for


def a_broker(namespace: str) -> SQSBroker:
    broker = SQSBroker(namespace, aws.sqs, quarantine={"work": "quarantine"}, visibility=2)
    dramatiq.actor(lambda *args: None, actor_name="echo", queue_name="work", broker=broker)
    return broker


@pytest.fixture
def broker(environment: dict[str, str]) -> SQSBroker:
    return a_broker(environment["QUEUE_NAMESPACE"])


@pytest.fixture
def process(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SQSConsumer]]:
    """Return a function that starts a process: a broker of its own, with one consumer."""
    made: list[SQSConsumer] = []

    def start(queue: str, prefetch: int = 1) -> SQSConsumer:
        made.append(a_broker(environment["QUEUE_NAMESPACE"]).consume(queue, prefetch=prefetch))
        return made[-1]

    yield start
    close_soon(made, monkeypatch)


@on_ministack
def test_a_killer_is_given_up_and_its_neighbours_run(broker, process) -> None:
    # Given three messages that three dead workers received together
    broker.enqueue_many([message(name) for name in ("first", "kills", "last")])
    for _ in range(3):
        take(worker := process("work", prefetch=6), 3)
        die(worker)
    # When they are received a fourth time, then they move to quarantine without being run.
    worker = process("work", prefetch=6)
    wait_for(lambda: sum(counts(broker, "quarantine")) == 3)
    wait_for(lambda: counts(broker) == (0, 0, 0))
    assert worker.take(0.25) is None
    worker.close()
    # When a process of quarantine dies of the poison message each time
    ended: dict[str, SQSMessage] = {}
    deaths = 0
    alone = process("quarantine", prefetch=3)
    while len(ended) < 3:
        (received,) = take(alone)
        assert len(alone.leases) == 1
        if received.args == ("kills",) and not received.is_given_up:
            deaths += 1
            die(alone)
            alone = process("quarantine", prefetch=3)
        else:
            ended[received.args[0]] = received
            done(alone, received)
    # Then it is given up at its third receive, and the others ran.
    assert deaths == 2
    assert {name: received.is_given_up for name, received in ended.items()} == {
        "first": False,
        "kills": True,
        "last": False,
    }
    wait_for(lambda: counts(broker, "quarantine") == (0, 0, 0))


def test_a_stop_is_not_counted_against_a_quarantined_message(broker, process) -> None:
    # Given a message in quarantine
    broker.sender.send("quarantine", [broker.sender.entry(message("innocent"))])
    # When the processes that received it are stopped, started or not
    for _ in range(4):
        worker = process("quarantine")
        (received,) = take(worker)
        assert received.receives == 1
        worker._in_hand.stop()
        worker.ack(received)
        worker.close()
    # Then it is in the queue once, and can still run.
    wait_for(lambda: counts(broker, "quarantine") == (1, 0, 0))
    assert not take(process("quarantine"))[0].is_given_up
