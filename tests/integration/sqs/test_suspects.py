"""Suspected poison messages: they run alone and are quarantined, and their neighbours are not blamed."""

from __future__ import annotations

import queue
import threading

import dramatiq
import pytest
from botocore.exceptions import EndpointConnectionError
from dramatiq.worker import Worker

from pipeline.sqs.leases import Lease
from pipeline.sqs.message import SQSMessage
from tests.support.echo import broker, clock, consume, count_requests, counts, message, take
from tests.support.waiting import wait_for

__all__ = ["broker", "clock", "consume"]


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:
    monkeypatch.setattr("pipeline.sqs.consumer.SUSPECT_DELAY", 1)


def die(consumer) -> None:
    """End a consumer as a killed worker does: its messages reappear after the visibility timeout.

    Its prefetch is full, or its message runs alone, so it has no open poll that could receive more.
    """
    consumer._stopping.set()
    consumer._keeper.end()
    consumer.wake()
    consumer.broker.consumers.discard(consumer)
    consumer.broker.alone = None


def test_a_message_received_four_times_runs_alone_and_is_given_up_after_two_crashes(broker, consume) -> None:
    # Given a message whose workers die each time
    broker.enqueue(message("kills"))
    seen = []
    for _ in range(5):
        (received,) = take(worker := consume(prefetch=1))
        seen.append((received.is_suspect, broker.alone is received, received.is_given_up))
        die(worker)
    # Then it runs normally three times, runs alone twice,
    assert seen == [(False, False, False)] * 3 + [(True, True, False)] * 2
    # and is given up at the sixth receive without being run.
    (received,) = take(worker := consume(prefetch=1))
    assert received.is_given_up
    worker.ack(received)
    assert not +broker.trials


def test_a_suspect_waits_for_deletes_that_a_crash_would_lose(broker, consume) -> None:
    # Given a message whose workers died, re-sent as a suspect's copy while SQS refuses deletes
    broker.enqueue(message("kills"))
    for _ in range(3):
        take(worker := consume(prefetch=1))
        die(worker)
    deletes_fail = threading.Event()
    deletes_fail.set()

    def refuse(**_) -> None:
        if deletes_fail.is_set():
            raise EndpointConnectionError(endpoint_url="http://down")

    broker.client.meta.events.register("before-call.sqs.DeleteMessageBatch", refuse)
    worker = consume(prefetch=1)
    wait_for(lambda: broker.alone)
    # When only the delete is pending, then it waits;
    assert [next(worker) for _ in range(4)] == [None] * 4
    # and once that succeeds, it runs, because a crash would bring back only itself.
    deletes_fail.clear()
    (received,) = take(worker)
    assert (broker.alone is received, counts(broker)) == (True, (0, 1, 0))
    worker.ack(received)


def test_neighbours_of_a_killer_run_alone_too_and_are_not_blamed(broker, consume) -> None:
    # Given three messages that three dead workers received together
    broker.enqueue_many([message(name) for name in ("first", "kills", "last")])
    for _ in range(3):
        take(worker := consume(prefetch=3), 3)
        die(worker)
    # When further workers receive them, and each dies of the poison message
    ended, deaths, given_up = [], 0, None
    worker = consume(prefetch=3)
    while not (given_up and len(ended) == 2):
        (received,) = take(worker)
        assert broker.alone is received
        assert broker.lease_count == 1
        if received.is_given_up:
            given_up = received
            worker.ack(received)
        elif received.args == ("kills",):
            deaths += 1
            die(worker)
            worker = consume(prefetch=3)
        else:
            worker.ack(received)
            ended.append(received.args[0])
    # Then the harmless messages ended, and only the poison message was given up.
    assert (sorted(ended), deaths, given_up.args) == (["first", "last"], 2, ("kills",))


def test_a_suspect_whose_workers_die_before_it_begins_is_not_blamed(broker, consume) -> None:
    # Given a suspect, and workers that die while it waits for their other messages
    broker.send_copy(message("suspect"), delay=0, suspect=1)
    for _ in range(2):
        worker = consume(prefetch=3)
        wait_for(lambda: broker.alone is not None)
        worker.leases.add("another", "of another message that never ends")
        assert next(worker) is None
        die(worker)
    # When an idle worker receives it, then it runs, and no crash was counted.
    (suspect,) = take(worker := consume())
    assert (suspect.receives, suspect.trials) == (3, 0)
    worker.ack(suspect)


def test_nothing_is_received_while_a_suspect_runs(broker, consume) -> None:
    # Given a suspect that runs alone
    broker.send_copy(message("suspect"), delay=0, suspect=1)
    (suspect,) = take(worker := consume())
    assert broker.alone
    # When others are sent, then they wait,
    broker.enqueue_many([message(n) for n in range(3)])
    until = [next(worker) for _ in range(4)]
    assert until == [None] * 4
    # and they are received once it has ended.
    worker.ack(suspect)
    assert len(take(worker, 3)) == 3
    assert not broker.alone


def test_a_suspect_waits_until_messages_in_progress_have_ended(broker, consume) -> None:
    broker.enqueue(message("in progress"))
    (in_progress,) = take(worker := consume())
    broker.send_copy(message("suspect"), delay=0, suspect=1)
    wait_for(lambda: broker.alone)
    assert [next(worker) for _ in range(3)] == [None] * 3
    worker.ack(in_progress)
    (suspect,) = take(worker)
    assert suspect.args == ("suspect",)


class Handed(queue.SimpleQueue):
    """A queue that also records everything that the consumer put into it."""

    def __init__(self) -> None:
        self.all: list[SQSMessage] = []

    def put(self, item, block=True, timeout=None) -> None:
        self.all.append(item)
        super().put(item)


def test_messages_received_together_with_a_suspect_wait_for_it(broker, consume) -> None:
    # Given a suspect that follows others in one batch
    worker = consume(prefetch=1)
    broker.enqueue(message("in progress"))
    (in_progress,) = take(worker)
    broker.enqueue_many([message(n) for n in range(3)])
    broker.send_copy(message("suspect"), delay=0, suspect=1)
    worker.prefetch, worker._ready = 10, (handed := Handed())
    # When they are received together, then the suspect runs first, and no other message can be started;
    worker.ack(in_progress)
    (suspect,) = take(worker)
    assert suspect.args == ("suspect",)
    assert not handed.all
    # the others follow once it has ended.
    worker.ack(suspect)
    assert len(take(worker, 3)) == 3


def test_unstarted_messages_are_released_when_a_suspect_arrives(broker) -> None:
    # Given a worker whose only thread is busy, and a prefetched message
    busy, go_on, ran = threading.Event(), threading.Event(), []

    def work(name: str) -> None:
        ran.append(name)
        busy.set()
        assert go_on.wait(20)

    dramatiq.actor(work, actor_name="work", queue_name="work", broker=broker)
    broker.enqueue_many([message(f"m{n}", actor_name="work") for n in range(2)])
    worker = Worker(broker, worker_threads=1, worker_timeout=100)
    worker.start()
    assert busy.wait(10)
    wait_for(lambda: worker.work_queue.qsize() == 1)
    # When a suspect arrives
    suspect = message("suspect", actor_name="work")
    alone = SQSMessage(suspect.copy(options={"suspect": 1}), Lease("id", "handle", 0.0, 2.0), receives=1)
    assert broker.begin_alone(alone)
    go_on.set()
    # Then the unstarted message is back in the queue, and runs once the suspect has ended.
    wait_for(lambda: broker.lease_count == 0)
    assert ran == ["m0"]
    broker.end_alone(alone)
    wait_for(lambda: ran == ["m0", "m1"])
    worker.stop()


def test_a_shutdown_is_not_counted_against_a_suspect(broker, consume) -> None:
    # Given a suspect that crashed a worker once
    broker.trials.record("id of it", 1)
    broker.send_copy(message("suspect", message_id="id of it"), delay=0, suspect=1)
    # When workers are stopped after they started it, then that is not counted,
    for _ in range(5):
        (suspect,) = take(worker := consume())
        assert suspect.trials == 1
        worker.stop()
        worker.requeue([suspect])
        worker.close()
    wait_for(lambda: counts(broker) == (1, 0, 0))
    # and when it finally ends, its crash counter is removed.
    (suspect,) = take(worker := consume())
    worker.ack(suspect)
    assert not +broker.trials


def test_a_suspect_whose_lease_is_lost_is_dropped(broker, consume) -> None:
    # Given a suspect that waits for a message in progress
    broker.enqueue(message("in progress"))
    (in_progress,) = take(worker := consume())
    broker.send_copy(message("suspect"), delay=0, suspect=1)
    wait_for(lambda: worker._suspect)
    # When its lease is lost, and that message ends
    worker.leases._lose([worker._suspect.lease])
    broker.client.purge_queue(QueueUrl=broker.queue_url("work"))
    worker.ack(in_progress)
    # Then it is not started, and others are received again.
    broker.enqueue(message("next"))
    (following,) = take(worker)
    assert following.args == ("next",)
    assert broker.alone is None


def test_a_suspect_runs_even_if_its_crash_counter_fails(broker, consume, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no number")

    monkeypatch.setattr(broker.trials, "count", fail)
    broker.send_copy(message("suspect"), delay=0, suspect=1)
    (suspect,) = take(worker := consume())
    worker.ack(suspect)
    broker.enqueue(message("next"))
    assert take(worker)[0].args == ("next",)


def test_a_message_that_is_never_settled_is_given_up(broker, consume, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.sqs.message.MAX_COPIES", 2)
    broker.send_copy(message("never settled"), delay=0, suspect=1)
    given_up = False
    while not given_up:
        (received,) = take(worker := consume(prefetch=1))
        given_up = received.is_given_up
        received.release()
        worker.ack(received)
        worker.close()
    assert received.copies == 2


def test_message_groups_are_tried_once_on_an_endpoint_without_fair_queues(broker) -> None:
    from botocore.exceptions import ClientError

    # Given an endpoint that refuses message groups on standard queues
    def refuse(params, **_) -> None:
        if any("MessageGroupId" in entry for entry in params["Entries"]):
            text = "The request include parameter MessageGroupId which is not valid for this queue type"
            raise ClientError({"Error": {"Code": "InvalidParameterValue", "Message": text}}, "SendMessageBatch")

    broker.queue_url("work")
    broker.client.meta.events.register(
        "provide-client-params.sqs.SendMessageBatch", lambda params, **kw: refuse(params)
    )
    requests = count_requests(broker)
    # When messages with groups are sent, then they arrive, and later sends omit the group.
    grouped = [message(n, options={"group": "FOLDER"}) for n in range(3)]
    assert broker.enqueue_many(grouped) == [None] * 3
    broker.enqueue(grouped[0])
    assert counts(broker)[0] == 4
    assert requests["SendMessageBatch"] == 2


def test_a_group_travels_with_its_message(broker) -> None:
    broker.enqueue(message("x", options={"group": "FOLDER"}))
    received = broker.client.receive_message(
        QueueUrl=broker.queue_url("work"), MessageSystemAttributeNames=["MessageGroupId"]
    )
    assert received["Messages"][0]["Attributes"]["MessageGroupId"] == "FOLDER"
