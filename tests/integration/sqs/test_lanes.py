"""Bulk messages and live ones in one worker: the live ones first, whatever came before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import dramatiq
import pytest
from dramatiq.worker import Worker

from pipeline.clients import aws
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.lanes import Lanes
from pipeline.worker.middleware import GracefulShutdown, Suspects
from tests.support.echo import MemoryCrashCounter, count_requests, counts, message
from tests.support.waiting import wait_for


class Work:
    """What the threads of a worker do: begin a message, and end it when the test lets one go on."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._go_on = threading.Semaphore(0)

    def __call__(self, name: str) -> None:
        self.begun.append(name)
        assert self._go_on.acquire(timeout=60)

    def let(self, count: int) -> None:
        self._go_on.release(count)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def broker(environment: dict[str, str], work: Work) -> SQSBroker:
    broker = SQSBroker(
        namespace=environment["QUEUE_NAMESPACE"],
        middleware=[Suspects(), Lanes(), GracefulShutdown()],
        client=aws.sqs,
        trials=MemoryCrashCounter(),
        is_bulk="work_bulk".__eq__,
    )
    broker.declare_queue("work_bulk")
    dramatiq.actor(work, actor_name="echo", queue_name="work", broker=broker)
    return broker


@pytest.fixture
def start(broker: SQSBroker, work: Work) -> Iterator[Callable[[int], Worker]]:
    """Starts a worker with so many threads, and stops it."""
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


def held(broker: SQSBroker, queue: str) -> int:
    return sum(len(consumer.leases) for consumer in broker.consumers if consumer.queue_name == queue)


def test_a_live_message_is_the_next_to_begin_whatever_was_held_before(broker, work, start) -> None:
    # Given a worker with one thread, its bulk message in hand, and more bulk messages received and not begun
    send(broker, "work_bulk", [f"bulk {n}" for n in range(40)])
    worker = start(1)
    wait_for(lambda: work.begun)
    for consumer in broker.consumers:
        consumer.prefetch = 10
        consumer.wake()
    wait_for(lambda: worker.work_queue.qsize() >= 5)
    # When live ones come
    send(broker, "work", ["live 1", "live 2"])
    wait_for(lambda: worker.work_queue.live == 2)
    # Then they are begun next, each as soon as the thread is free,
    for n in range(2, 5):
        work.let(1)
        wait_for(lambda n=n: len(work.begun) == n)
    assert sorted(work.begun[1:3]) == ["live 1", "live 2"]
    # and then the bulk messages go on.
    assert work.begun[3].startswith("bulk")


def test_half_of_the_threads_are_free_of_bulk_messages(broker, work, start) -> None:
    # Given a worker with four threads, and many bulk messages
    send(broker, "work_bulk", [f"bulk {n}" for n in range(40)])
    worker = start(4)
    wait_for(lambda: len(work.begun) == 2)
    time.sleep(0.5)
    # Then two are in hand, no more are held,
    assert (len(work.begun), held(broker, "work_bulk"), worker.work_queue.qsize()) == (2, 2, 0)
    # and live ones are begun while none of them has ended.
    send(broker, "work", ["live 1", "live 2"])
    wait_for(lambda: sorted(work.begun[2:]) == ["live 1", "live 2"])


def test_nothing_bulk_is_received_while_live_messages_wait(broker, work, start) -> None:
    # Given a worker with one thread, live messages in hand and behind it, and room for many bulk ones
    send(broker, "work", ["live 1", "live 2"])
    start(1)
    wait_for(lambda: work.begun and broker.has_live_waiting)
    send(broker, "work_bulk", [f"bulk {n}" for n in range(30)])
    (bulk,) = [consumer for consumer in broker.consumers if consumer.bulk]
    bulk.prefetch = 20
    bulk.wake()
    # Then none is received but by the poll that was open before,
    time.sleep(0.7)
    assert len(bulk.leases) <= 1
    # and more are as soon as no live one waits, even before the thread is free;
    work.let(1)
    wait_for(lambda: len(work.begun) == 2)
    wait_for(lambda: len(bulk.leases) > 1, timeout=5)
    assert all(name.startswith("live") for name in work.begun)
    # all are done in the end.
    work.let(100)
    wait_for(lambda: len(work.begun) == 32, timeout=60)
    wait_for(lambda: counts(broker, "work_bulk") == (0, 0, 0))


def test_bulk_messages_alone_are_all_done_with_few_requests(broker, work, start) -> None:
    requests = count_requests(broker)
    send(broker, "work_bulk", [f"bulk {n}" for n in range(60)])
    work.let(60)
    start(8)
    wait_for(lambda: counts(broker, "work_bulk") == (0, 0, 0))
    assert len(work.begun) == 60
    assert requests["ReceiveMessage"] <= 30


def test_what_was_lost_while_it_waited_is_not_begun(broker, work, start) -> None:
    # Given a bulk message that waits behind the one in hand
    send(broker, "work", ["in hand"])
    worker = start(1)
    wait_for(lambda: work.begun == ["in hand"])
    send(broker, "work_bulk", ["bulk"])
    wait_for(lambda: worker.work_queue.qsize() == 1)
    (consumer,) = [each for each in broker.consumers if each.bulk]
    # When it is let go, as after 15 minutes,
    consumer.stop()
    consumer.leases._lose(list(consumer.leases._leases.values()))
    work.let(10)
    # then it is not begun, and not deleted: it is another worker's.
    wait_for(lambda: worker.work_queue.unfinished_tasks == 0)
    assert work.begun == ["in hand"]
    assert counts(broker, "work_bulk") == (0, 1, 0)
