"""The `periodiq` command as a process, with SQS behind a proxy."""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.clients import aws
from pipeline.local.supervisor import Child, command_line
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from tests.chaos.proxy import Proxy
from tests.support.schedules import far_schedules
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[3]


@pytest.fixture
def proxy(environment: dict[str, str]) -> Iterator[Proxy]:
    for change in plan(get_settings()):
        change.apply()
    with Proxy(environment["AWS_ENDPOINT_URL"], random.Random(0)) as proxy:
        yield proxy


@contextmanager
def scheduler(proxy: Proxy, log: Path, *, last_run: datetime, schedule: str) -> Iterator[Child]:
    """Run the command with its output in `log`."""
    environ = (
        os.environ
        | far_schedules()
        | {
            "AWS_ENDPOINT_URL_SQS": proxy.url,
            "LAST_RUN": last_run.isoformat(),
            "SCHEDULE": schedule,
            "PYTHONPATH": str(ROOT),
            "LEVEL": "INFO",
        }
    )
    command = command_line(Path(sys.executable).with_name("periodiq"), "tests.support.timetable")
    with log.open("ab") as output:
        child = Child(command, environ=environ, cwd=ROOT, output=output)
        try:
            yield child
        finally:
            child.stop()


def sleeps_until(log: Path) -> datetime:
    """Return the last logged time at which the scheduler wakes up."""
    logged = re.findall(r"Nothing to do until (\S+ \S+)\.\n", log.read_text())
    return datetime.fromisoformat(logged[-1]) if logged else datetime.min.replace(tzinfo=UTC)


def messages() -> list[dict[str, Any]]:
    """Receive up to ten messages from the sweep's queue."""
    url = aws.sqs().get_queue_url(QueueName=f"{get_settings().queue_namespace}_sweep_channels")["QueueUrl"]
    received = aws.sqs().receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0)
    return [json.loads(message["Body"]) for message in received.get("Messages", [])]


def test_a_missed_run_is_sent_once_when_sqs_is_back(proxy: Proxy, tmp_path: Path) -> None:
    log, now = tmp_path / "log", datetime.now(UTC)
    with ExitStack() as outage:
        # Given a scheduler that was down for three days, and an SQS that is unreachable when it starts
        outage.enter_context(proxy.unreachable())
        with scheduler(proxy, log, last_run=now - timedelta(days=3), schedule="@daily") as child:
            # Then it keeps running and retries;
            wait_for(lambda: len(re.findall("sweep cannot be sent", log.read_text())) >= 3)
            assert not child.ended()
            # and when SQS is back, it sends the run once and waits for the next one.
            outage.close()
            (message,) = wait_for(messages)
            assert message["actor_name"] == "sweep"
            assert datetime.fromisoformat(message["options"]["scheduled_at"]) >= now - timedelta(seconds=1)
            wait_for(lambda: sleeps_until(log) - datetime.now(UTC) > timedelta(minutes=2))
            assert (child.ended(), messages()) == (False, [])
