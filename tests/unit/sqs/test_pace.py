"""How much a consumer receives, and what waits for other messages."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipeline.sqs.consumer import PARTIAL_BATCH_PAUSE, SQSConsumer
from pipeline.sqs.in_hand import LaneQueue
from pipeline.sqs.leases import LAST_BACKOFF, MAX_LEASE
from pipeline.sqs.queues import LONG_POLL
from pipeline.sqs.settlement import Delete
from pipeline.sqs.wire import BACKLOG, decode
from tests.support.moved_clock import MovedClock
from tests.support.received import (
    RECEIVE,
    SEND,
    arrive,
    message,
    start,
    took,
)
from tests.support.scripted_sqs import Answer, Entry, ScriptedSQS, unreachable


def receive(consumer: SQSConsumer, sqs: ScriptedSQS, clock: MovedClock, count: int) -> float | None:
    """Receive so many new messages, and end them; returns how long the consumer pauses."""
    for n in range(count):
        arrive(sqs, f"{clock.now} {n}")
    wait = consumer.step()
    for each in took(consumer):
        consumer.leases.delete(each.lease)
    consumer.leases.step()
    return wait


def asked(sqs: ScriptedSQS) -> list[tuple[int, int]]:
    """Return of each receive how many messages it asked for, and for how long SQS might wait for the first."""
    return [(each["MaxNumberOfMessages"], each["WaitTimeSeconds"]) for (each,) in sqs.of(RECEIVE)]


class TestPace:
    """Messages wait for others, or behind others, only while there is a backlog anyway."""

    def test_without_a_backlog_no_receive_and_no_send_waits(self, broker, sqs, clock) -> None:
        # Given 60 messages a second for a while, some of them together
        consumer = broker.consume("work", prefetch=32)
        for _ in range(100):
            clock.now += 0.05
            assert receive(consumer, sqs, clock, 3) == 0
            assert broker.in_hand.expected_sends(bulk=False) == 0
        assert set(asked(sqs)) == {(10, LONG_POLL)}

    def test_a_receive_that_comes_back_full_shows_a_backlog_and_the_next_one_whether_it_goes_on(
        self, broker, sqs, clock
    ) -> None:
        # Given a receive that returned ten messages, and threads that work on them
        consumer = broker.consume("work", prefetch=32)
        for n in range(13):
            arrive(sqs, str(n))
        consumer.step()
        assert start(consumer) == 10
        # Then sends of this lane wait for each other, those of the other do not,
        assert broker.in_hand.expected_sends(bulk=False) == 10
        assert broker.in_hand.expected_sends(bulk=True) == 0
        # and the next receive does not wait. It brings three, so there is no backlog any more.
        consumer.step()
        assert asked(sqs) == [(10, LONG_POLL), (10, 0)]
        assert broker.in_hand.expected_sends(bulk=False) == 0

    def test_the_stages_after_a_backlog_batch_what_comes_from_it(self, broker, sqs, clock) -> None:
        # Given a message that was sent from a backlog
        consumer = broker.consume("work", prefetch=32)
        for n in range(10):
            arrive(sqs, str(n))
        consumer.step()
        assert start(consumer) == 10
        entry = broker.sender.entry(message("next"))
        assert decode(entry.body).options == {BACKLOG: True}
        # When another process receives it alone
        broker.in_hand.working.clear()
        consumer._full = 0
        arrive(sqs, "next", body=entry.body)
        # Then its next receive leaves time for a batch, and its sends do as well,
        assert consumer.step() == PARTIAL_BATCH_PAUSE
        assert start(consumer) == 1
        assert broker.in_hand.expected_sends(bulk=False) == 1
        # until a message comes that does not.
        broker.in_hand.working.clear()
        assert decode(broker.sender.entry(message("after", backlog=True)).body).options == {}

    @pytest.mark.parametrize(("received", "pause"), [(1, PARTIAL_BATCH_PAUSE), (4, PARTIAL_BATCH_PAUSE), (5, 0)])
    def test_a_receive_from_a_backlog_leaves_time_for_a_batch_if_it_fills_less_than_half_of_one(
        self, broker, sqs, received: int, pause: float
    ) -> None:
        consumer = broker.consume("work", prefetch=32)
        for n in range(received):
            arrive(sqs, str(n), backlog=True)
        assert consumer.step() == pytest.approx(pause)

    def test_no_more_is_received_than_can_start(self, broker, sqs) -> None:
        # Given a worker of six threads, whose receive is not full
        consumer = broker.consume("work", prefetch=12)
        for n in range(4):
            arrive(sqs, str(n))
        consumer.step()
        assert start(consumer) == 4
        # When the next one comes, then it asks for two.
        consumer.step()
        assert asked(sqs) == [(6, LONG_POLL), (2, LONG_POLL)]

    def test_a_busy_thread_alone_in_its_process_asks_for_nothing(self, broker, sqs) -> None:
        consumer = broker.consume("work", prefetch=2)
        arrive(sqs, "a")
        assert [consumer.step(), start(consumer)] == [0, 1]
        arrive(sqs, "b")
        assert consumer.step() is None
        assert asked(sqs) == [(1, LONG_POLL)]

    def test_a_free_thread_wakes_the_consumers_of_all_queues(self, broker, sqs) -> None:
        # Given two queues of a worker with one thread, which is busy
        first, second = broker.consume("work", prefetch=2), broker.consume("plain", prefetch=2)
        arrive(sqs, "a")
        first.step()
        assert second.step() is None
        before = second.receiver.loops[1].woken
        # When it has ended its message, then the other queue may receive.
        (message,) = took(first)
        message.ending = Delete()
        first.ack(message)
        assert second.receiver.loops[1].woken > before
        second.step()
        assert len(sqs.of(RECEIVE)) == 2

    def test_the_backlog_of_a_queue_does_not_starve_the_others(self, broker, sqs) -> None:
        # Given a queue with a backlog, which keeps all threads busy
        first, second = broker.consume("work", prefetch=4), broker.consume("plain", prefetch=4)
        for n in range(8):
            arrive(sqs, str(n))
        first.step()
        first.step()
        assert first.has_backlog
        assert broker.in_hand.waiting_or_working >= 2
        sqs.waiting.clear()
        # When a message of another queue comes, then the process receives it,
        arrive(sqs, "other", queue="plain")
        second.step()
        assert [each.sqs_id for each in took(second)] == ["other"]
        # and no more before that has ended.
        assert second.step() is None

    def test_a_message_that_waits_for_its_retry_leaves_its_backlog(self, broker, sqs) -> None:
        consumer = broker.consume("work", prefetch=32)
        for n in range(10):
            arrive(sqs, str(n))
        consumer.step()
        assert decode(broker.sender.entry(message("next")).body).options == {BACKLOG: True}
        assert decode(broker.sender.entry(message("retry", backlog=True), delay=60_000).body).options == {}

    def test_at_most_the_prefetch_is_leased_and_every_ending_frees_a_place(self, broker, sqs) -> None:
        # Given a backlog, and a consumer for two threads
        consumer = broker.consume("work", prefetch=4)
        for n in range(20):
            arrive(sqs, str(n))
        for _ in range(4):
            consumer.step()
        held = took(consumer)
        assert len(held) == 4
        # When its messages end in each possible way, then others follow.
        held[0].ending = Delete()
        consumer.ack(held[0])
        consumer.nack(held[1])
        consumer.requeue(held[2:])
        consumer.leases.step()
        for _ in range(4):
            consumer.step()
        assert len(took(consumer)) == 4

    def test_bulk_messages_take_half_of_the_threads_and_only_while_no_live_message_waits(self, broker, sqs) -> None:
        # Given a worker of four threads, and a live message that waits for one
        lanes = LaneQueue(lambda queue: queue == "bulk", broker.in_hand.wake, broker.in_hand.stopping)
        broker.in_hand.work_queue = lanes
        bulk = broker.consume("bulk", prefetch=8)
        lanes.put(SimpleNamespace(message=message(queue="work")))
        # Then no bulk message is received,
        assert bulk.step() is None
        assert sqs.of(RECEIVE) == []
        # until the live one has a thread.
        before = bulk.receiver.loops[1].woken
        lanes.get()
        assert bulk.receiver.loops[1].woken > before
        for n in range(9):
            arrive(sqs, str(n), queue="bulk")
        for _ in range(4):
            bulk.step()
        assert len(took(bulk)) == 2

    def test_a_pause_ends_the_backlog(self, broker, sqs) -> None:
        # Given a queue with a backlog, whose messages have ended
        consumer = broker.consume("work", prefetch=32)
        for n in range(10):
            arrive(sqs, str(n))
        consumer.step()
        consumer.leases.release([each.lease for each in took(consumer)])
        assert consumer.has_backlog
        # When it is paused, then messages of other queues wait for no batch.
        broker.in_hand.pause(["work"])
        consumer.step()
        assert not broker.in_hand.has_backlog(bulk=False)

    def test_a_poll_that_failed_before_a_pause_is_not_missing_after_it(self, broker, sqs, clock) -> None:
        consumer = broker.consume("work", prefetch=2)
        sqs.receive_message = lambda **_: unreachable([])
        consumer.step()
        assert consumer.receiver.unanswered_since is not None
        broker.in_hand.pause(["work"])
        clock.now += LAST_BACKOFF
        consumer.step()
        assert consumer.receiver.unanswered_since is None

    def test_letters_that_cannot_be_sent_leave_their_threads_to_other_queues(self, broker, sqs) -> None:
        # Given a message that cannot be sent on, and another queue that looks for a thread meanwhile
        first, second = broker.consume("work", prefetch=2), broker.consume("plain", prefetch=2)
        arrive(sqs, "bad", body="no json")
        waits, woken = [], []

        def refuse(entries: list[Entry]) -> Answer:
            waits.append(second.step())
            woken.append(second.receiver.loops[1].woken)
            return unreachable(entries)

        sqs.answers[SEND] = refuse
        first.step()
        # When the send has failed, then the other queue looks again.
        assert waits[0] is None
        assert second.receiver.loops[1].woken > woken[-1]
        assert second.step() == 0


def test_a_process_whose_threads_all_hang_receives_nothing(broker, sqs, clock) -> None:
    # Given a thread whose actor hangs, until its message is left to others
    consumer = broker.consume("work", prefetch=2)
    arrive(sqs, "a")
    consumer.step()
    assert start(consumer) == 1
    (message,) = broker.in_hand.working.values()
    message.lease.began = clock.now
    clock.now += MAX_LEASE
    consumer.leases.step()
    assert message.lease.is_lost
    # When more messages arrive
    arrive(sqs, "b")
    consumer.step()
    # Then they stay in SQS. Here they would wait forever, because their leases are extended.
    assert took(consumer) == []
    # When the actor ends after all, then its consumer is woken, and receives again.
    woken = consumer.receiver.loops[1].woken
    consumer.ack(message)
    assert consumer.receiver.loops[1].woken > woken
    consumer.step()
    assert len(took(consumer)) == 1
