"""Idle processes stop by themselves on SIGTERM, also if SQS never answers the polls that are out."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest

from pipeline.local.embedded import EmbeddedStack
from tests.acceptance.conftest import STAGES_ALONE, Service, running_service
from tests.chaos.proxy import RECEIVES, Act, Proxy, Trouble
from tests.support.waiting import wait_for
from tests.unit.monitoring.test_http_server import free_port

#: The processes, each with a text that it logs when it is ready.
READY = {
    "fetch.1": "Worker process is ready",
    "notify.1": "Worker process is ready",
    "ingest.1": "Taking messages",
    "scheduler.1": "scheduler: metrics and health at",
}

#: Polls of the service at any time: two queues of fetch and of notify, and the queue of ingest.
POLLS = 5


def logged(service: Service, process: str, text: str) -> list[str]:
    return [line for name, line in service.lines if name == process and text in line]


@pytest.fixture(scope="module")
def asked_to_stop(acceptance_stack: EmbeddedStack) -> Iterator[Service]:
    """A service whose idle processes have received SIGTERM, and that no one kills afterwards.

    Its polls are never answered, so a process that waits for the end of one does not end.
    """
    ports = {"METRICS_PORT": str(free_port())}
    processes = STAGES_ALONE | {"resize": 0, "upload": 0, "scheduler": 1}
    with (
        Proxy(acceptance_stack.environ["AWS_ENDPOINT_URL"], random.Random(1)) as sqs,
        sqs.trouble(Trouble(Act.HOLD, RECEIVES)),
        running_service(acceptance_stack, concurrency=processes, AWS_ENDPOINT_URL_SQS=sqs.url, **ports) as service,
    ):
        wait_for(lambda: sqs.acts[Act.HOLD.name] >= POLLS)
        for process, text in READY.items():
            wait_for(lambda process=process, text=text: logged(service, process, text))
        for process in READY:
            os.kill(service.supervisor.pid(process) or 0, signal.SIGTERM)
        yield service


@pytest.mark.parametrize("process", READY)
def test_an_idle_process_ends_by_itself_on_sigterm(asked_to_stop: Service, process: str) -> None:
    # It ends by itself, and not by the signal's default, which the first process of a container ignores.
    (ended, *_) = wait_for(lambda: logged(asked_to_stop, process, "restarting in"))
    assert ended.startswith("ended with status 0")
