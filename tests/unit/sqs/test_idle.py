"""Idle threads: they wait for messages without waking up, and end at once when the process has to stop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.support.received import arrive


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
