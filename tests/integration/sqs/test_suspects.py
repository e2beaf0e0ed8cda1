"""Messages that may be what kills their workers: suspected, run alone, given up; and neighbours not blamed."""

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
    """End a consumer as a killed worker does: what it held comes back when its visibility timeout ends.

    It holds as many as it may, or one that runs alone: so it has no poll under way that would go on receiving.
    """
    consumer._stopping.set()
    consumer.leases._closed.set()
    consumer.wake()
    consumer.broker.consumers.discard(consumer)
    consumer.broker.alone = None


def test_a_message_received_four_times_runs_alone_and_after_two_trials_is_given_up(broker, consume) -> None:
    # Given a message whose workers die each time
    broker.enqueue(message("kills"))
    seen = []
    for _ in range(5):
        (held,) = take(worker := consume(prefetch=1))
        seen.append((held.is_suspect, broker.alone is held, held.is_given_up))
        die(worker)
    # Then it is nothing special three times, runs alone twice,
    assert seen == [(False, False, False)] * 3 + [(True, True, False)] * 2
    # and is handed over for the sixth time to be given up, not to be run.
    (held,) = take(worker := consume(prefetch=1))
    assert held.is_given_up
    worker.ack(held)
    assert not +broker.trials


def test_a_suspect_waits_for_deletes_that_its_worker_would_take_along(broker, consume) -> None:
    # Given a message whose workers died, sent again as a suspect's copy while SQS takes no deletes
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
    # When it could run alone but for the delete, then it waits;
    assert [next(worker) for _ in range(4)] == [None] * 4
    # and once that is through, its death would bring back nothing but itself.
    deletes_fail.clear()
    (held,) = take(worker)
    assert (broker.alone is held, counts(broker)) == (True, (0, 1, 0))
    worker.ack(held)


def test_neighbours_of_a_killer_run_alone_too_and_are_not_blamed(broker, consume) -> None:
    # Given three messages that were always received together, in three workers that died
    broker.enqueue_many([message(name) for name in ("first", "kills", "last")])
    for _ in range(3):
        take(worker := consume(prefetch=3), 3)
        die(worker)
    # When workers take them from then on, each of which dies of the killer
    ended, deaths, given_up = [], 0, None
    worker = consume(prefetch=3)
    while not (given_up and len(ended) == 2):
        (held,) = take(worker)
        assert broker.alone is held
        assert broker.lease_count == 1
        if held.is_given_up:
            given_up = held
            worker.ack(held)
        elif held.args == ("kills",):
            deaths += 1
            die(worker)
            worker = consume(prefetch=3)
        else:
            worker.ack(held)
            ended.append(held.args[0])
    # Then the innocent ones ended, and only the killer was blamed.
    assert (sorted(ended), deaths, given_up.args) == (["first", "last"], 2, ("kills",))


def test_a_suspect_whose_workers_die_before_it_begins_is_not_blamed(broker, consume) -> None:
    # Given a suspect, and workers that die while it waits for what they have in hand
    broker.send_copy(message("suspect"), delay=0, suspect=1)
    for _ in range(2):
        worker = consume(prefetch=3)
        wait_for(lambda: broker.alone is not None)
        worker.leases.add("of another message that never ends")
        assert next(worker) is None
        die(worker)
    # When one is free for it, then it runs, and nothing was held against it.
    (suspect,) = take(worker := consume())
    assert (suspect.receives, suspect.trials) == (3, 0)
    worker.ack(suspect)


def test_nothing_is_received_beside_a_suspect_and_all_goes_on_after_it(broker, consume) -> None:
    # Given a suspect that runs alone
    broker.send_copy(message("suspect"), delay=0, suspect=1)
    (suspect,) = take(worker := consume())
    assert broker.alone
    # When others are sent, then they wait,
    broker.enqueue_many([message(n) for n in range(3)])
    until = [next(worker) for _ in range(4)]
    assert until == [None] * 4
    # and they follow when it has ended.
    worker.ack(suspect)
    assert len(take(worker, 3)) == 3
    assert not broker.alone


def test_a_suspect_waits_until_what_is_in_hand_has_ended(broker, consume) -> None:
    broker.enqueue(message("in hand"))
    (in_hand,) = take(worker := consume())
    broker.send_copy(message("suspect"), delay=0, suspect=1)
    wait_for(lambda: broker.alone)
    assert [next(worker) for _ in range(3)] == [None] * 3
    worker.ack(in_hand)
    (suspect,) = take(worker)
    assert suspect.args == ("suspect",)


class Handed(queue.SimpleQueue):
    """What a consumer has handed over, taken since or not."""

    def __init__(self) -> None:
        self.all: list[SQSMessage] = []

    def put(self, item, block=True, timeout=None) -> None:
        self.all.append(item)
        super().put(item)


def test_what_is_received_together_with_a_suspect_is_not_begun_beside_it(broker, consume) -> None:
    # Given a suspect that follows others in one batch
    worker = consume(prefetch=1)
    broker.enqueue(message("in hand"))
    (in_hand,) = take(worker)
    broker.enqueue_many([message(n) for n in range(3)])
    broker.send_copy(message("suspect"), delay=0, suspect=1)
    worker.prefetch, worker._ready = 10, (handed := Handed())
    # When they are received together, then the suspect runs first, and nothing else is there for a worker to begin;
    worker.ack(in_hand)
    (suspect,) = take(worker)
    assert suspect.args == ("suspect",)
    assert not handed.all
    # the others follow when it has ended.
    worker.ack(suspect)
    assert len(take(worker, 3)) == 3


def test_what_a_worker_has_not_begun_when_a_suspect_comes_is_given_back(broker) -> None:
    # Given a worker with one thread, busy, and three messages behind the one in hand
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
    # When a suspect comes
    suspect = message("suspect", actor_name="work")
    alone = SQSMessage(suspect.copy(options={"suspect": 1}), Lease("handle", 2), receives=1)
    assert broker.begin_alone(alone)
    go_on.set()
    # Then what was not begun is back in the queue, and runs when the suspect has ended.
    wait_for(lambda: broker.lease_count == 0)
    assert ran == ["m0"]
    broker.end_alone(alone)
    wait_for(lambda: ran == ["m0", "m1"])
    worker.stop()


def test_a_shutdown_is_not_counted_against_a_suspect(broker, consume) -> None:
    # Given a suspect that was begun alone once, in vain
    broker.trials.record("id of it", 1)
    broker.send_copy(message("suspect", message_id="id of it"), delay=0, suspect=1)
    # When workers that have begun it are told to stop, then that is not counted,
    for _ in range(5):
        (suspect,) = take(worker := consume())
        assert suspect.trials == 1
        worker.stop()
        worker.requeue([suspect])
        worker.close()
    wait_for(lambda: counts(broker) == (1, 0, 0))
    # and when it ends in the end, nothing is left of its trials.
    (suspect,) = take(worker := consume())
    worker.ack(suspect)
    assert not +broker.trials


def test_a_suspect_that_somebody_else_has_is_forgotten(broker, consume) -> None:
    # Given a suspect that waits for what is in hand
    broker.enqueue(message("in hand"))
    (in_hand,) = take(worker := consume())
    broker.send_copy(message("suspect"), delay=0, suspect=1)
    wait_for(lambda: worker._suspect)
    # When its hold is lost, and what is in hand ends
    worker.leases._lose([worker._suspect.lease])
    broker.client.purge_queue(QueueUrl=broker.queue_url("work"))
    worker.ack(in_hand)
    # Then it is not begun, and others are received again.
    broker.enqueue(message("next"))
    (following,) = take(worker)
    assert following.args == ("next",)
    assert broker.alone is None


def test_a_trial_that_cannot_be_noted_is_run_all_the_same(broker, consume, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no number")

    monkeypatch.setattr(broker.trials, "count", fail)
    broker.send_copy(message("suspect"), delay=0, suspect=1)
    (suspect,) = take(worker := consume())
    worker.ack(suspect)
    broker.enqueue(message("next"))
    assert take(worker)[0].args == ("next",)


def test_what_is_received_again_and_again_and_never_settled_is_given_up(broker, consume, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.sqs.message.MAX_COPIES", 2)
    broker.send_copy(message("never settled"), delay=0, suspect=1)
    given_up = False
    while not given_up:
        (held,) = take(worker := consume(prefetch=1))
        given_up = held.is_given_up
        held.release()
        worker.ack(held)
        worker.close()
    assert held.copies == 2


def test_an_endpoint_without_fair_queues_is_asked_for_them_once(broker) -> None:
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
    # When messages with groups are sent, then they are there, and groups are given up.
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
