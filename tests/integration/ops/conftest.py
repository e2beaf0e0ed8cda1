"""Dead-letter queues on the embedded SQS, and responses of SQS that are spoiled."""

from __future__ import annotations

import pytest

from pipeline.clients import aws
from pipeline.settings import get_settings


@pytest.fixture
def broker(environment, monkeypatch):
    """The service's broker with this test's queues."""
    from pipeline.actors import broker

    monkeypatch.setattr(broker.queues, "namespace", get_settings().queue_namespace)
    return broker


@pytest.fixture
def dead(broker):
    from pipeline.ops.dead_letters import actions as dead_letters

    return dead_letters


@pytest.fixture
def spoiled(monkeypatch):
    """`spoiled(name, wrapper)` replaces a method of the SQS client by `wrapper(method)`."""

    def spoil(name, wrapper):
        monkeypatch.setattr(aws.sqs(), name, wrapper(getattr(aws.sqs(), name)))

    return spoil
