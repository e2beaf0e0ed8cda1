"""Readiness of a worker: which troubles keep it from taking work, and what it says about them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.monitoring import health
from pipeline.monitoring.health import WorkerHealth
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.consumer import SQSConsumer
from pipeline.sqs.wire import Unavailable
from tests.support.moved_clock import MovedClock
from tests.support.received import DELETE, arrive
from tests.support.scripted_sqs import ScriptedSQS, StillLoop, fail


class Rig:
    """A worker whose consumer only the test steps."""

    def __init__(self, **options: Any) -> None:
        self.sqs, self.clock = ScriptedSQS(), MovedClock()
        made = {"clock": self.clock, "rng": random.Random(1), "loop": StillLoop}
        self.broker = SQSBroker("test", lambda: self.sqs, **made, **options)
        for queue in ("work", "other"):
            self.broker.declare_queue(queue)
        worker: Any = SimpleNamespace(workers=[], consumers=dict.fromkeys(("work", "other")))
        self.health = WorkerHealth(self.broker, worker)
        self.consumers = {queue: self.broker.consume(queue, prefetch=2) for queue in ("work", "other")}

    @property
    def problems(self) -> list[str]:
        return list(self.health.not_ready())

    def go_on(self, consumer: SQSConsumer, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.now += 1
            consumer.step()
            consumer.leases.step()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Rig]]:
    class Watched(Rig):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=self.clock.monotonic))

    return Watched  # type: ignore[return-value]


def test_a_worker_that_is_too_busy_to_look_at_all_its_queues_is_ready(made: Any) -> None:
    # Given a worker whose only thread works on a message of one queue
    rig = made()
    lease = rig.consumers["work"].leases.add("a", "handle of a")
    rig.broker.in_hand.working[lease] = SimpleNamespace()
    rig.broker.queues.url("work")
    # When it has never received from the other, then it is ready.
    assert rig.problems == []


def test_a_worker_that_refused_deletes_keep_from_receiving_is_not_ready(made: Any, monkeypatch) -> None:
    # Given a message that is done
    monkeypatch.setattr("pipeline.sqs.leases.MAX_UNDELETED", 1)
    rig = made()
    for queue in ("work", "other"):
        rig.broker.queues.url(queue)
    consumer = rig.consumers["work"]
    lease = consumer.leases.add("a", "handle of a")
    # When SQS refuses to delete it
    rig.sqs.answers[DELETE] = fail
    consumer.leases.delete(lease)
    rig.go_on(consumer, 70)
    assert rig.problems == ["work: no answer from SQS for more than 60 s"]
    # Until it accepts that.
    rig.sqs.answers.clear()
    rig.go_on(consumer, 30)
    assert rig.problems == []


def test_a_worker_whose_dead_letters_cannot_be_stored_does_not_blame_sqs(made: Any) -> None:
    # Given a dead letter that is too large for SQS with its reason, and a store that fails
    def refuse(body: bytes) -> str:
        raise Unavailable("staging is down")

    rig = made(oversize=refuse)
    for queue in ("work", "other"):
        rig.broker.queues.url(queue)
    arrive(rig.sqs, "large", body="x" * (1024 * 1024 - 10))
    rig.go_on(rig.consumers["work"], 90)
    # Then the worker says so.
    assert rig.problems == ["work: no answer from the store of large messages for more than 60 s"]


def test_a_worker_whose_threads_are_all_busy_waits_for_no_answer(made: Any, monkeypatch) -> None:
    # Given a poll without an answer
    rig = made()
    for queue in ("work", "other"):
        rig.broker.queues.url(queue)
    consumer = rig.consumers["work"]
    with monkeypatch.context() as patch:
        patch.setattr(rig.sqs, "receive_message", lambda **_: fail([]))
        rig.go_on(consumer, 1)
    # When messages of another queue take all threads, so that it polls no more
    for name in ("a", "b"):
        rig.consumers["other"].leases.add(name, f"handle of {name}")
    rig.go_on(consumer, 90)
    # Then the worker is ready.
    assert rig.problems == []
