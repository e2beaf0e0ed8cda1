"""Idle processes stop by themselves on SIGTERM, without waiting for the end of their long poll."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pipeline.local.embedded import EmbeddedStack
from tests.acceptance.conftest import STAGES_ALONE, Service, running_service
from tests.support.waiting import wait_for
from tests.unit.monitoring.test_http_server import free_port

#: The processes, each with a text that it logs when it is ready.
READY = {
    "fetch.1": "Worker process is ready",
    "notify.1": "Worker process is ready",
    "ingest.1": "Taking messages",
    "scheduler.1": "scheduler: metrics and health at",
}

#: Seconds. A process that waited for its poll of 20 s would need longer.
SHORTER_THAN_A_POLL = 15


@pytest.fixture(scope="module")
def idle(acceptance_stack: EmbeddedStack) -> Iterator[Service]:
    ports = {"METRICS_PORT": str(free_port())}
    with running_service(acceptance_stack, concurrency=STAGES_ALONE | {"scheduler": 1}, **ports) as service:
        yield service


@pytest.mark.parametrize("process", READY)
def test_an_idle_process_ends_by_itself_on_sigterm(idle: Service, process: str) -> None:
    def logged(text: str) -> list[str]:
        return [line for name, line in idle.lines if name == process and text in line]

    # Given an idle process
    wait_for(lambda: logged(READY[process]))
    # When it receives SIGTERM, and no one kills it afterwards
    os.kill(idle.supervisor.pid(process) or 0, signal.SIGTERM)
    # Then it ends by itself, and not by the signal's default, which the first process of a container ignores.
    (ended,) = wait_for(lambda: logged("restarting in"), timeout=SHORTER_THAN_A_POLL)
    assert ended.startswith(
        "ended with status 0"
    )  # not by the default of SIGTERM, which a container's first process ignores
