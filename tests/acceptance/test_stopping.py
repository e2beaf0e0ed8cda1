"""Idle processes stop by themselves on SIGTERM."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pipeline.local.embedded import EmbeddedStack
from tests.acceptance.conftest import Service, running_service
from tests.support.line import Line
from tests.support.waiting import wait_for

#: The processes, each with a text that it logs when it is ready.
READY = {
    "fetch.1": "Worker process is ready",
    "notify.1": "Worker process is ready",
    "ingest.1": "Taking messages",
    "scheduler.1": "Registered periodic actors",
}


@pytest.fixture(scope="module")
def line(acceptance_stack: EmbeddedStack) -> Iterator[Line]:
    """The processes' line to SQS."""
    with Line(int(acceptance_stack.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])) as line:
        yield line


@pytest.fixture(scope="module")
def idle(acceptance_stack: EmbeddedStack, line: Line) -> Iterator[Service]:
    concurrency = {"resize": 0, "upload": 0, "sweep": 0}
    sqs = f"http://127.0.0.1:{line.port}"
    with running_service(acceptance_stack, concurrency=concurrency, AWS_ENDPOINT_URL_SQS=sqs) as service:
        yield service


@pytest.mark.parametrize(
    ("process", "ending"),
    [
        ("fetch.1", "ended with status 0"),
        ("notify.1", "ended with status 0"),
        ("ingest.1", "ended with status 0"),
        ("scheduler.1", "killed by SIGTERM"),  # periodiq keeps the default handler
    ],
)
def test_an_idle_process_ends_by_itself_on_sigterm(idle: Service, process: str, ending: str) -> None:
    def logged(*texts: str) -> list[str]:
        return [text for name, text in idle.lines if name == process and any(each in text for each in texts)]

    # Given an idle process
    wait_for(lambda: logged(READY[process]))
    # When it receives SIGTERM, and no one kills it afterwards
    os.kill(idle.supervisor.pid(process) or 0, signal.SIGTERM)
    # Then it ends by itself.
    (ended,) = wait_for(lambda: logged("it starts again in"))
    assert ended.startswith(ending)
