"""Idle threads: they wait for messages without waking up, and end at once when the process has to stop."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from queue import Empty
from types import SimpleNamespace

import pytest

from pipeline.sqs.in_hand import LaneQueue
from tests.support.received import arrive
from tests.support.waiting import wait_for


def item(queue: str = "work") -> SimpleNamespace:
    return SimpleNamespace(message=SimpleNamespace(queue_name=queue))


@pytest.fixture
def stopping() -> threading.Event:
    return threading.Event()


@pytest.fixture
def lanes(stopping: threading.Event) -> LaneQueue:
    return LaneQueue(lambda queue: queue == "work_bulk", lambda: None, stopping)


def is_waiting(lanes: LaneQueue) -> bool:
    return len(lanes.not_empty.__dict__["_waiters"]) == 1


def test_a_thread_without_work_waits_beyond_the_timeout_of_dramatiq(lanes: LaneQueue) -> None:
    with ThreadPoolExecutor(1) as pool:
        # Given a thread that waits although its timeout is over
        taken = pool.submit(lanes.get, timeout=0)
        wait_for(lambda: is_waiting(lanes))
        # When a message comes, then it gets it.
        lanes.put(expected := item())
        assert taken.result(10) is expected


def test_a_thread_without_work_ends_when_the_process_has_to_stop(lanes: LaneQueue, stopping: threading.Event) -> None:
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(lanes.get, timeout=60)
        wait_for(lambda: is_waiting(lanes))
        stopping.set()
        lanes.wake()
        assert isinstance(taken.exception(5), Empty)


def test_the_thread_of_an_idle_consumer_looks_whether_to_go_on_when_the_process_has_to_stop(broker, sqs) -> None:
    # Given a thread of dramatiq that waits for a message
    consumer = broker.consume("work")
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(next, consumer)
        arrive(sqs, "a")
        consumer.step()
        assert taken.result(5) is not None
        taken = pool.submit(next, consumer)
        # When the process has to stop
        broker.in_hand.stop()
        # Then the thread is told.
        assert taken.result(5) is None
        assert next(consumer) is None


def test_what_waits_is_given_back_though_the_thread_was_woken_before(broker, sqs) -> None:
    consumer = broker.consume("work", prefetch=4)
    consumer.give_back()
    arrive(sqs, "a")
    arrive(sqs, "b")
    consumer.step()
    consumer.give_back()
    consumer.leases.step()
    assert len(consumer.leases) == 0
