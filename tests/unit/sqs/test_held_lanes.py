"""Lanes that are held back: their messages wait in this process or in SQS until they may start."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import inf
from queue import Empty
from types import SimpleNamespace

import pytest

from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.in_hand import LaneQueue
from pipeline.sqs.wire import MAX_BATCH
from tests.support.received import RECEIVE, arrive, took
from tests.support.waiting import wait_for


class Item(SimpleNamespace):
    """An entry of dramatiq's work queue."""

    def __init__(self, name: str, *, bulk: bool = False) -> None:
        super().__init__(name=name, message=SimpleNamespace(queue_name="work_bulk" if bulk else "work"))

    def __lt__(self, other: Item) -> bool:
        return self.name < other.name


def is_bulk(queue: str) -> bool:
    return queue.endswith("bulk")


@pytest.fixture
def lanes() -> LaneQueue:
    return LaneQueue(is_bulk, lambda: None, threading.Event())


@pytest.fixture
def threads(lanes: LaneQueue) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool
        for _ in range(4):  # ends threads that still wait if a test fails
            lanes.put(Item("z"))
        lanes.let_start(inf, bulk=False)
        lanes.let_start(inf, bulk=True)


def waiting_threads(lanes: LaneQueue) -> int:
    return len(lanes.not_empty.__dict__["_waiters"])


def test_a_message_of_a_lane_that_is_held_back_waits_although_a_thread_is_free(lanes, threads) -> None:
    # Given a thread that waits, and a lane of which no message may start
    lanes.let_start(0, bulk=False)
    taken = threads.submit(lanes.get)
    wait_for(lambda: waiting_threads(lanes) == 1)
    # When a message arrives, then the thread goes on waiting,
    lanes.put(Item("a"))
    wait_for(lambda: waiting_threads(lanes) == 1)
    assert not taken.done()
    # and takes it as soon as the lane is free.
    lanes.let_start(inf, bulk=False)
    assert taken.result(10).name == "a"


def test_as_many_messages_start_as_may(lanes, threads) -> None:
    lanes.let_start(0, bulk=False)
    taken = [threads.submit(lanes.get) for _ in range(3)]
    for name in "abc":
        lanes.put(Item(name))
    lanes.let_start(2, bulk=False)
    wait_for(lambda: lanes.live == 1)
    wait_for(lambda: waiting_threads(lanes) == 1)
    assert sorted(each.result(10).name for each in taken if each.done()) == ["a", "b"]


def test_every_waiting_thread_gets_a_message_although_all_were_woken_while_the_lane_was_held_back(
    lanes, threads
) -> None:
    # Given threads that were each woken by a message, found the lane held back and wait again
    lanes.let_start(0, bulk=False)
    taken = [threads.submit(lanes.get) for _ in range(4)]
    for name in "abcd":
        wait_for(lambda: waiting_threads(lanes) == 4)
        lanes.put(Item(name))
    wait_for(lambda: waiting_threads(lanes) == 4)
    # When the lane is free, then none waits until it looks again by itself.
    lanes.let_start(inf, bulk=False)
    assert sorted(each.result(5).name for each in taken) == [*"abcd"]


def test_a_live_message_starts_while_the_bulk_lane_is_held_back(lanes, threads) -> None:
    lanes.let_start(0, bulk=True)
    taken = threads.submit(lanes.get)
    lanes.put(Item("bulk", bulk=True))
    lanes.put(Item("live"))
    assert taken.result(10).name == "live"


def test_a_worker_that_stops_gets_the_messages_that_are_held_back(lanes) -> None:
    lanes.let_start(0, bulk=False)
    lanes.put(Item("a"))
    assert lanes.get_nowait().name == "a"
    with pytest.raises(Empty):
        lanes.get_nowait()


def put_into(broker: SQSBroker, *items: Item) -> LaneQueue:
    """Give the process of a broker a work queue with these messages."""
    in_hand = broker.in_hand
    in_hand.work_queue = LaneQueue(is_bulk, in_hand.wake, in_hand.stopping)
    for item in items:
        in_hand.work_queue.put(item)
    return in_hand.work_queue


def test_a_consumer_of_a_lane_that_is_held_back_leaves_messages_in_sqs(broker, sqs) -> None:
    # Given a lane that is held back, with a batch of messages in this process
    lanes = put_into(broker, *(Item(str(number)) for number in range(MAX_BATCH)))
    lanes.let_start(0, bulk=False)
    consumer = broker.consume("work", prefetch=100)
    # When the consumer could receive more, then it does not,
    arrive(sqs, "a")
    consumer.step()
    assert not sqs.of(RECEIVE)
    # until the lane is free.
    lanes.let_start(inf, bulk=False)
    consumer.step()
    assert len(took(consumer)) == 1


def test_a_consumer_of_a_lane_that_is_held_back_receives_a_batch_ahead(broker, sqs) -> None:
    # Given a lane that is held back, with less than a batch in this process, and many messages of the other lane
    bulk = [Item(str(number), bulk=True) for number in range(MAX_BATCH)]
    lanes = put_into(broker, *(Item(str(number)) for number in range(MAX_BATCH - 1)), *bulk)
    lanes.let_start(0, bulk=False)
    arrive(sqs, "a")
    # When its consumer receives, then it gets more.
    consumer = broker.consume("work", prefetch=100)
    consumer.step()
    assert len(took(consumer)) == 1


def test_a_consumer_of_a_bulk_lane_that_is_held_back_leaves_messages_in_sqs(broker, sqs) -> None:
    lanes = put_into(broker, *(Item(str(number), bulk=True) for number in range(MAX_BATCH)))
    lanes.let_start(0, bulk=True)
    consumer = broker.consume("bulk", prefetch=100)
    arrive(sqs, "a", queue="bulk")
    consumer.step()
    assert not sqs.of(RECEIVE)


def test_the_consumer_of_a_lane_that_was_held_back_is_woken(broker) -> None:
    # Given a bulk lane that is held back, with a batch of messages, so that its consumer sleeps
    lanes = put_into(broker, *(Item(str(number), bulk=True) for number in range(MAX_BATCH)))
    lanes.let_start(0, bulk=True)
    consumer = broker.consume("bulk", prefetch=100)
    assert consumer.receiver.woken == 0
    # When one of them starts, or the lane is free, then it may receive again.
    lanes.let_start(2, bulk=True)
    lanes.get()
    assert consumer.receiver.woken == 1
    lanes.get()
    assert consumer.receiver.woken == 1
    lanes.let_start(inf, bulk=True)
    assert consumer.receiver.woken == 2


def test_no_consumer_is_woken_for_each_message_of_a_lane_that_is_not_held_back(broker) -> None:
    lanes = put_into(broker, *(Item(str(number)) for number in range(MAX_BATCH + 5)))
    consumer = broker.consume("work", prefetch=100)
    for _ in range(MAX_BATCH + 4):
        lanes.get()
    assert consumer.receiver.woken == 0
