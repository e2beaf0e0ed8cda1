"""The layer's middleware: what dramatiq's hooks do with a message, whatever happens in between."""

from __future__ import annotations

import queue
import random
import signal
import threading
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import SkipMessage, TimeLimitExceeded
from dramatiq.worker import Worker, WorkerThread, _WorkQueueItem

from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.consumer import SQSConsumer
from pipeline.sqs.leases import DELETE_WAIT
from pipeline.sqs.middleware import QueueLayer
from pipeline.sqs.settlement import Delete, Enqueue, Release, Settlement
from pipeline.sqs.wire import encode
from tests.support.scripted_sqs import MovedClock, ScriptedSQS, StillLoop, confirm, unreachable

SEND, DELETE, CHANGE = "send_message_batch", "delete_message_batch", "change_message_visibility_batch"


class Late(dramatiq.Middleware):
    """Raises what the test wants in its after-hook."""

    def __init__(self) -> None:
        self.raises: list[BaseException] = []

    def after_process_message(self, broker: Any, message: Any, *, result: Any = None, exception: Any = None) -> None:
        if self.raises:
            raise self.raises.pop(0)


class Rig:
    """A broker with one actor, whose message is processed by dramatiq's own code."""

    def __init__(self, sqs: ScriptedSQS, clock: MovedClock) -> None:
        self.sqs, self.clock, self.late = sqs, clock, Late()
        self.broker = SQSBroker(
            "test", lambda: sqs, middleware=[self.late], clock=clock, rng=random.Random(1), loop=StillLoop, window=0
        )
        self.actor: Any = lambda message: None
        dramatiq.actor(lambda name: self.actor(self.message), actor_name="echo", queue_name="work", broker=self.broker)
        self.consumer: SQSConsumer = self.broker.consume("work", prefetch=4)
        body = encode(self.broker.actors["echo"].message("x"))
        sqs.waiting = [{"MessageId": "id", "ReceiptHandle": "handle", "Body": body}]
        self.consumer.step()
        self.message = self.consumer.take()
        sqs.requests.clear()

    def process(self) -> None:
        """Process the message as a worker thread does, and let the leases do what follows."""
        consumers: Any = {"work": Consumers(self.consumer)}
        thread = WorkerThread(
            broker=self.broker, consumers=consumers, work_queue=queue.PriorityQueue(), worker_timeout=1
        )
        thread.work_queue.unfinished_tasks = 1
        thread.process_message(self.message)
        self.consumer.leases.step()
        self.clock.now += DELETE_WAIT
        self.consumer.leases.step()

    @property
    def end(self) -> str:
        """How the message ended in SQS."""
        assert self.broker.in_hand.working == {}
        released = [entry["VisibilityTimeout"] for entries in self.sqs.of(CHANGE) for entry in entries]
        if self.sqs.of(DELETE):
            return "deleted"
        return f"released after {released[0]}" if released else "kept"


class Consumers:
    """Ends a message as dramatiq's consumer thread does."""

    def __init__(self, consumer: SQSConsumer) -> None:
        self.consumer = consumer

    def post_process_message(self, message: Any) -> None:
        (self.consumer.nack if message.failed else self.consumer.ack)(message)


@pytest.fixture
def rig(sqs: ScriptedSQS, clock: MovedClock) -> Rig:
    return Rig(sqs, clock)


def fails(_: Any) -> None:
    raise ValueError


@pytest.mark.parametrize(
    ("actor", "error", "end"),
    [
        (lambda message: None, None, "deleted"),
        (lambda message: None, ValueError(), "deleted"),
        (fails, None, "released after 15"),
    ],
)
def test_a_message_ends_as_its_actor_does_whatever_a_later_hook_raises(
    rig: Rig, actor: Any, error: Exception | None, end: str
) -> None:
    rig.actor, rig.late.raises = actor, [error] if error else []
    rig.process()
    assert rig.end == end


def test_a_message_that_dramatiq_rejects_becomes_a_dead_letter(rig: Rig) -> None:
    rig.actor = lambda message: message.fail()
    rig.process()
    ((letter,),) = rig.sqs.of(SEND)
    assert letter["QueueUrl"].endswith("work_dlq")
    assert letter["MessageAttributes"]["stage"]["StringValue"] == "work"
    assert letter["MessageAttributes"]["error_code"]["StringValue"] == "failed"
    assert rig.end == "deleted"


def test_a_rejected_message_whose_burial_fails_is_neither_lost_nor_deleted(rig: Rig) -> None:
    rig.actor = lambda message: message.fail()
    rig.sqs.answers[SEND] = lambda entries: rig.broker.in_hand.stopping.set() or unreachable(entries)
    rig.process()
    assert rig.end == "released after 0"


def test_the_decision_of_an_actor_is_carried_out(rig: Rig) -> None:
    following = rig.broker.actors["echo"].message("next")
    rig.actor = lambda message: message.settle(Settlement(Delete(), (Enqueue(following),)))
    rig.process()
    ((sent,),) = rig.sqs.of(SEND)
    assert (sent["MessageBody"], rig.end) == (encode(following), "deleted")


@pytest.mark.parametrize("actor", [lambda message: None, fails])
def test_a_time_limit_that_strikes_in_the_after_hooks_deletes_nothing_and_ends_no_thread(rig: Rig, actor: Any) -> None:
    # Given an interruption that arrives after the actor has ended
    rig.actor = actor
    rig.late.raises = [TimeLimitExceeded()]
    # When the thread goes on
    if actor is fails:  # dramatiq's hooks after an error are its last
        with pytest.raises(TimeLimitExceeded):
            rig.process()
        rig.consumer.leases.step()
    else:
        rig.process()
    # Then the message is received again.
    assert rig.end.startswith("released")


def test_settlement_waits_for_sqs_and_keeps_the_lease(rig: Rig) -> None:
    # Given an SQS that refuses the first three sends
    refused = [1, 2, 3]

    def answer(entries: Any) -> Any:
        return (refused.pop() and unreachable(entries)) if refused else confirm(entries)

    rig.sqs.answers[SEND] = answer
    waits: list[float] = []
    rig.broker.in_hand.stopping.wait = waits.append  # type: ignore[method-assign,assignment,return-value,func-returns-value]
    following = rig.broker.actors["echo"].message("next")
    rig.actor = lambda message: message.settle(Settlement(Delete(), (Enqueue(following),)))
    # When the message is settled, then each wait is longer, the lease is kept for that, and it is deleted in the end.
    rig.process()
    assert (len(waits), rig.message.lease.began, rig.end) == (3, None, "deleted")
    # Waits vary by chance, so that processes that failed together try again apart.
    assert all(0.5 <= wait / full < 1 for wait, full in zip(waits, (0.5, 1, 2), strict=True))


def test_a_stop_in_the_middle_of_trouble_releases_the_message(rig: Rig) -> None:
    rig.sqs.answers[SEND] = unreachable
    following = rig.broker.actors["echo"].message("next")

    def work(message: Any) -> None:
        message.settle(Settlement(Delete(), (Enqueue(following),)))
        threading.Timer(0.05, rig.broker.in_hand.stopping.set).start()

    rig.actor = work
    rig.process()
    assert rig.end == "released after 0"


def test_a_message_whose_lease_is_lost_is_not_settled(rig: Rig) -> None:
    def work(message: Any) -> None:
        rig.consumer.leases._lose([message.lease])

    rig.actor = work
    rig.process()
    assert (rig.end, rig.message.ending) == ("kept", Release())


@pytest.mark.parametrize("why", ["lost", "stopping"])
def test_a_message_that_must_not_start_is_skipped(rig: Rig, why: str) -> None:
    ran = []
    rig.actor = ran.append
    if why == "lost":
        rig.consumer.leases._lose([rig.message.lease])
    else:
        rig.broker.in_hand.stopping.set()
    with pytest.raises(SkipMessage):
        rig.broker.middleware[0].before_process_message(rig.broker, rig.message)
    rig.process()
    assert (ran, rig.end) == ([], "kept" if why == "lost" else "released after 0")


@pytest.mark.parametrize(("rejects", "code"), [(False, "skipped"), (True, "failed")])
def test_a_message_that_another_middleware_skips_becomes_a_dead_letter(rig: Rig, rejects: bool, code: str) -> None:
    # Given a middleware that skips the message, and may reject it as dramatiq's AgeLimit does
    class Skips(dramatiq.Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            if rejects:
                message.fail()
            raise SkipMessage

    rig.broker.add_middleware(Skips())
    ran = []
    rig.actor = ran.append
    # When it is processed, then it ends, and its letter gives the reason.
    rig.process()
    ((letter,),) = rig.sqs.of(SEND)
    assert letter["MessageAttributes"]["error_code"]["StringValue"] == code
    assert (ran, rig.end) == ([], "deleted")


def test_a_stop_releases_what_waits_for_a_thread(rig: Rig) -> None:
    # Given a worker with a message in its work queue, while all threads are busy
    layer, worker = rig.broker.middleware[0], Worker(rig.broker)
    layer.before_worker_boot(rig.broker, worker)
    worker.work_queue.put(_WorkQueueItem(0, rig.message))
    # When the process is told to stop
    layer.before_worker_shutdown(rig.broker, worker)
    rig.consumer.leases.step()
    # Then the message is released at once.
    assert rig.end == "released after 0"


def test_the_layer_adds_its_middleware_before_all_others(rig: Rig) -> None:
    assert [type(each).__name__ for each in rig.broker.middleware] == ["QueueLayer", "Late"]


def test_a_second_sigterm_is_ignored(broker) -> None:
    # Given a worker with a handler of SIGTERM, as dramatiq installs one
    handled: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, _: handled.append(signum))
    try:
        QueueLayer().before_worker_boot(broker, SimpleNamespace())
        # When two arrive, one for the process group and one from dramatiq's main process
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    # Then the handler has run once.
    assert handled == [signal.SIGTERM]
