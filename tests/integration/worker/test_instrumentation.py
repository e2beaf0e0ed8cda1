"""The gauges of a process."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pipeline.clients import aws
from pipeline.errors import RetryableError
from pipeline.metrics import PREFIX, REGISTRY
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from pipeline.worker import instrumentation
from pipeline.worker.instrumentation import QueueGauges
from tests.support.line import Line
from tests.support.waiting import wait_for


def test_queue_depths_are_cached_and_absent_while_sqs_is_down(environment: dict[str, str], line: Line) -> None:
    # Given a waiting message and a dead letter
    for change in plan(get_settings()):
        change.apply()
    name = get_settings().queue_namespace
    for queue in ("fetch", "fetch_dlq"):
        url = aws.sqs().get_queue_url(QueueName=f"{name}_{queue}")["QueueUrl"]
        aws.sqs().send_message(QueueUrl=url, MessageBody="x")
    now, asked = [0.0], []

    def ask():
        asked.append(now[0])
        return instrumentation.depths()

    gauges = QueueGauges(ask, clock=lambda: now[0])

    def depth() -> tuple[float | None, float | None]:
        gauges.refresh()
        waiting = {"queue": f"{name}_fetch", "stage": "fetch", "lane": "live", "state": "waiting"}
        dead = {"queue": f"{name}_fetch_dlq", "stage": "fetch"}
        return tuple(
            REGISTRY.get_sample_value(f"{PREFIX}_{gauge}", labels)
            for gauge, labels in {"queue_messages": waiting, "dead_letters": dead}.items()
        )

    # When it is scraped often, then SQS is queried every 15 s;
    assert (depth(), depth()) == ((1, 1), (1, 1))
    now[0] = 14.9
    assert (depth(), asked) == ((1, 1), [0.0])
    # and while SQS does not answer, the metric is absent.
    line.go_down()
    now[0] = 15.0
    assert (depth(), asked) == ((None, None), [0.0, 15.0])
    line.come_up()
    now[0] = 30.0
    assert depth() == (1, 1)


def test_a_scrape_waits_for_queue_depths_for_a_limited_time(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.setattr(instrumentation, "DEPTHS_TIMEOUT", 0.1)
    answers = threading.Event()

    def ask() -> list[Any]:
        answers.wait(60)
        raise RetryableError("sqs_error", "Too late.")

    gauges = QueueGauges(ask)
    for _ in range(3):
        gauges.refresh()
    assert [thread.name for thread in threading.enumerate()].count("depths") == 1
    answers.set()
    wait_for(lambda: "depths" not in [thread.name for thread in threading.enumerate()])
