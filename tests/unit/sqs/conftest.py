"""A scripted SQS, a clock that tests move, and a broker on both."""

from __future__ import annotations

import random

import dramatiq
import pytest

from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.queues import Queue
from tests.support.moved_clock import MovedClock
from tests.support.scripted_sqs import ScriptedSQS, StillLoop


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def sqs() -> ScriptedSQS:
    return ScriptedSQS()


@pytest.fixture
def broker(sqs: ScriptedSQS, clock: MovedClock) -> SQSBroker:
    broker = SQSBroker(
        "test",
        lambda: sqs,
        queues=[Queue("bulk", dead_letters="work_dlq", bulk=True)],
        quarantine={"work": "poison", "other": "other_poison"},
        clock=clock,
        rng=random.Random(1),
        loop=StillLoop,
    )
    dramatiq.actor(lambda *args: None, actor_name="echo", queue_name="work", broker=broker)
    broker.declare_queue("bulk")
    for queue in ("other", "plain"):
        dramatiq.actor(lambda *args: None, actor_name=queue, queue_name=queue, broker=broker)
    return broker
