"""The messages that wait for threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from queue import Empty
from types import SimpleNamespace

import pytest

from pipeline.sqs.in_hand import LaneQueue
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
