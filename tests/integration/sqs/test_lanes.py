"""Bulk and live messages in one worker: live messages always start first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import dramatiq
import pytest
from dramatiq.worker import Worker

from pipeline.clients import aws
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.queues import Queue
from tests.support.echo import count_requests, counts, die, message
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


def leased(broker: SQSBroker, queue: str) -> int:
    return sum(len(consumer.leases) for consumer in broker.in_hand.consumers if consumer.queue.name == queue)


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


def test_half_of_the_threads_are_reserved_for_live_messages(broker, work, start) -> None:
    # Given a worker with four threads, and many bulk messages
    send(broker, "work_bulk", [f"bulk {n}" for n in range(40)])
    worker = start(4)
    wait_for(lambda: len(work.started) == 2)
    time.sleep(0.5)
    # Then two are in progress, and no more are leased,
    assert (len(work.started), leased(broker, "work_bulk"), worker.work_queue.qsize()) == (2, 2, 0)
    # and live messages start although neither has ended.
    send(broker, "work", ["live 1", "live 2"])
    wait_for(lambda: sorted(work.started[2:]) == ["live 1", "live 2"])


def test_no_bulk_message_is_received_while_live_messages_wait(broker, work, start) -> None:
    # Given a worker with one thread, live messages in progress and waiting, and room for many bulk messages
    send(broker, "work", ["live 1", "live 2"])
    start(1)
    wait_for(lambda: work.started)
    live, bulk = sorted(broker.in_hand.consumers, key=lambda consumer: consumer.queue.bulk)
    live.threads = 2
    live.receiver.wake()
    wait_for(lambda: not broker.in_hand.may_receive(bulk=True))
    send(broker, "work_bulk", [f"bulk {n}" for n in range(30)])
    bulk.prefetch = bulk.threads = 20
    bulk.receiver.wake()
    # Then bulk messages are received only by the poll that was already open,
    time.sleep(0.7)
    assert len(bulk.leases) <= 1
    # and more follow as soon as no live message waits, even before the thread is free;
    work.let(1)
    wait_for(lambda: len(work.started) == 2)
    wait_for(lambda: len(bulk.leases) > 1, timeout=5)
    assert all(name.startswith("live") for name in work.started)
    # finally all are done.
    work.let(100)
    wait_for(lambda: len(work.started) == 32, timeout=60)
    wait_for(lambda: counts(broker, "work_bulk") == (0, 0, 0))


def test_bulk_messages_alone_are_all_processed_with_few_requests(broker, work, start) -> None:
    requests = count_requests(broker)
    send(broker, "work_bulk", [f"bulk {n}" for n in range(60)])
    work.let(60)
    start(8)
    wait_for(lambda: counts(broker, "work_bulk") == (0, 0, 0))
    assert len(work.started) == 60
    assert requests["ReceiveMessage"] <= 30


def test_a_message_whose_lease_was_lost_is_not_started(broker, work, start) -> None:
    # Given a bulk message that waits for the one in progress
    send(broker, "work", ["in progress"])
    worker = start(1)
    wait_for(lambda: work.started == ["in progress"])
    send(broker, "work_bulk", ["bulk"])
    wait_for(lambda: worker.work_queue.qsize() == 1)
    (consumer,) = [each for each in broker.in_hand.consumers if each.queue.bulk]
    # When its lease ends, as it does after 15 minutes,
    die(consumer)
    consumer.leases._lose(list(consumer.leases._held.values()))
    work.let(10)
    # then it is neither started nor deleted, because another worker has it.
    wait_for(lambda: worker.work_queue.unfinished_tasks == 0)
    assert work.started == ["in progress"]
    assert counts(broker, "work_bulk") == (0, 1, 0)
