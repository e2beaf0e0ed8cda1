"""Bulk and live messages in one worker: live messages always start first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import dramatiq
import pytest
from dramatiq.worker import Worker

from pipeline.clients import aws
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.queues import Queue
from tests.support.echo import message
from tests.support.waiting import wait_for


class Work:
    """The actor of a worker: it records each message it starts, and ends it when the test allows."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self._go_on = threading.Semaphore(0)

    def __call__(self, name: str) -> None:
        self.started.append(name)
        assert self._go_on.acquire(timeout=60)

    def let(self, count: int) -> None:
        self._go_on.release(count)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def broker(environment: dict[str, str], work: Work) -> SQSBroker:
    bulk = Queue("work_bulk", dead_letters="work_dlq", bulk=True)
    broker = SQSBroker(environment["QUEUE_NAMESPACE"], aws.sqs, queues=[bulk])
    broker.declare_queue("work_bulk")
    dramatiq.actor(work, actor_name="echo", queue_name="work", broker=broker)
    return broker


@pytest.fixture
def start(broker: SQSBroker, work: Work) -> Iterator[Callable[[int], Worker]]:
    """Starts a worker with a number of threads, and stops it after the test."""
    workers: list[Worker] = []

    def start(threads: int) -> Worker:
        workers.append(Worker(broker, worker_threads=threads, worker_timeout=100))
        workers[-1].start()
        return workers[-1]

    yield start
    work.let(1000)
    for worker in workers:
        worker.stop()


def send(broker: SQSBroker, queue: str, names: list[str]) -> None:
    assert not any(broker.enqueue_many([message(name, queue_name=queue) for name in names]))


def test_a_live_message_starts_before_bulk_messages_received_earlier(broker, work, start) -> None:
    # Given a worker with one thread, a bulk message in progress, and prefetched bulk messages
    send(broker, "work_bulk", [f"bulk {n}" for n in range(40)])
    worker = start(1)
    wait_for(lambda: work.started)
    for consumer in broker.in_hand.consumers:
        consumer.prefetch = consumer.threads = 10
        consumer.receiver.wake()
    wait_for(lambda: worker.work_queue.qsize() >= 5)
    for consumer in broker.in_hand.consumers:
        consumer.threads = 20  # there is room for live messages, although no thread is free
        consumer.receiver.wake()
    # When live messages arrive
    send(broker, "work", ["live 1", "live 2"])
    wait_for(lambda: worker.work_queue.live == 2)
    # Then they start next, each as soon as the thread is free,
    for n in range(2, 5):
        work.let(1)
        wait_for(lambda n=n: len(work.started) == n)
    assert sorted(work.started[1:3]) == ["live 1", "live 2"]
    # and the bulk messages follow.
    assert work.started[3].startswith("bulk")
