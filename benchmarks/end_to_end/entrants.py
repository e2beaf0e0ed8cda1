"""The contenders as data: their processes, how they stage bytes, and how a job reaches their first queue."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import dramatiq
import dramatiq_sqs
import dramatiq_stages
from celery_home import celery_bin
from stack import PER_HOST

from pipeline.local.supervisor import command_line

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: Puts one job on the first queue in one request to SQS. All producers do the same, so that none has an advantage.
#: Threads may share it.
Send = Callable[[Mapping[str, str]], None]


@contextmanager
def as_json(environ: Mapping[str, str]) -> Iterator[Send]:
    """Send raw JSON to the input queue."""
    client = boto3.session.Session().client("sqs", region_name=environ["AWS_REGION"])

    def send(payload: Mapping[str, str]) -> None:
        client.send_message(QueueUrl=environ["QUEUE_URL"], MessageBody=json.dumps(payload))

    yield send


@contextmanager
def as_dramatiq(environ: Mapping[str, str]) -> Iterator[Send]:
    """Send a message to the first actor of plain dramatiq-sqs."""
    broker = dramatiq_sqs.SQSBroker(namespace=dramatiq_stages.namespace(environ))
    broker.declare_queue("fetch")

    def send(payload: Mapping[str, str]) -> None:
        message: dramatiq.Message[Any] = dramatiq.Message("fetch", "fetch", (payload,), {}, {})
        broker.enqueue(message)

    yield send


@contextmanager
def as_celery(environ: Mapping[str, str]) -> Iterator[Send]:
    """Send a message to the first Celery task, from a process in Celery's environment."""
    command = command_line(celery_bin() / "python", HERE / "celery_tasks.py")
    own = {"AWS_SDK_UA_APP_ID": os.environ["AWS_SDK_UA_APP_ID"], "PYTHONPATH": f"{ROOT}:{HERE}"}
    sender = subprocess.Popen(  # noqa: S602 - our own command
        f"exec {command}",
        shell=True,
        env=os.environ | environ | own,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    words, answers, turn = sender.stdin, sender.stdout, threading.Lock()
    assert words is not None  # noqa: S101 - pipes
    assert answers is not None  # noqa: S101

    def send(payload: Mapping[str, str]) -> None:
        with turn:
            print(json.dumps(payload), file=words, flush=True)
            if not answers.readline():
                raise RuntimeError("the sender of Celery tasks ended")

    try:
        yield send
    finally:
        words.close()
        sender.wait()


@dataclass(frozen=True)
class Entrant:
    """A contender."""

    title: str
    procfile: Path
    staging: str  #: the staging storage: `file` or `s3`
    sending: Callable[[Mapping[str, str]], AbstractContextManager[Send]]
    is_ours: bool = False
    slowness: int = 1  #: divides the number of jobs, because fewer are enough to measure it

    def environ(self, stack: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of its processes."""
        own = {name: value for name, value in os.environ.items() if name != "AWS_SDK_UA_APP_ID"}
        if self.title.startswith("Celery"):
            own["PATH"] = f"{celery_bin()}{os.pathsep}{own.get('PATH', os.defpath)}"
        if not self.is_ours:  # they cannot snooze a job
            own["NOTIFY_MAX_PER_HOST"] = PER_HOST
        return own | dict(stack) | {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}


ENTRANTS = {
    "file": Entrant("this project, file://", ROOT / "Procfile", "file", as_json, is_ours=True),
    "s3": Entrant("this project, s3://", ROOT / "Procfile", "s3", as_json, is_ours=True),
    "plain": Entrant("plain consumer", HERE / "plain.procfile", "file", as_json, slowness=8),
    "celery": Entrant("Celery, file://", HERE / "celery.procfile", "file", as_celery, slowness=2),
    "dramatiq": Entrant("dramatiq-sqs, file://", HERE / "dramatiq.procfile", "file", as_dramatiq),
    "dramatiq-s3": Entrant("dramatiq-sqs, s3://", HERE / "dramatiq.procfile", "s3", as_dramatiq),
}

_PROCESSES = re.compile(r"--processes[ =](\d+)")


def ready_lines(command: str) -> tuple[str, int]:
    """Return the log line that shows that a process of this command is ready, and how often it is logged.

    The count is 0 if the process logs no such line.
    """
    words = command.split()
    if "dramatiq" in words:
        given = _PROCESSES.search(command)
        return "Worker process is ready", int(given[1]) if given else os.cpu_count() or 1
    if "celery" in words:
        return " ready.", 1
    return "", 0
