"""The Procfile's processes behind the proxy, with access to their queues and their bucket."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.clients import aws, lazy, mongo
from pipeline.job_ids import input_job_id
from pipeline.local.embedded import EmbeddedStack
from pipeline.local.supervisor import Supervisor
from pipeline.ops.provision import plan
from pipeline.settings import Settings, get_settings
from pipeline.sqs.queues import queue_arn
from pipeline.stages import own_queues
from tests.chaos.orders import RENDITIONS, SECRET, Order
from tests.chaos.proxy import Proxy
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]

#: Two of each kind, so one can take over from the other.
CONCURRENCY = {"fetch": 2, "resize": 2, "upload": 2, "notify": 2, "ingest": 2, "sweep": 2, "scheduler": 0}

#: Seconds that messages are hidden, instead of 45. A dead worker's messages are received sooner, so a run ends within
#: minutes.
VISIBILITY = 6

#: Timeout of sources and receivers, in seconds. Their faults take longer.
TIMEOUT = 3

COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]
ENDPOINTS = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_SQS"]

#: Short retry delays, and enough retries that no fault makes a job fail for good.
SOON = "0.5,1,1,2,2,3,3,4,4,5,5,5,5,5,5,8,8,8,8,8"


@dataclass
class Line:
    """A line that a process printed."""

    at: float
    process: str
    text: str

    @property
    def kind(self) -> str:
        """The process type: fetch, resize, …"""
        return self.process.partition(".")[0]

    @property
    def is_end(self) -> bool:
        """Whether it is the supervisor's line about the end of a process."""
        return "restarting in" in self.text


@dataclass
class Service:
    """The running processes. This process itself bypasses the proxy."""

    proxy: Proxy
    queues: dict[str, str]  #: names of the queues for redirected results
    dead_input: str = ""  #: URL of the input queue's own dead-letter queue, if it has one
    lines: list[Line] = field(default_factory=list)
    kills: list[tuple[float, str]] = field(default_factory=list)  #: time and stage of each kill
    supervisor: Supervisor = field(init=False)

    @property
    def ready(self) -> set[str]:
        """The names of the processes whose workers have started."""
        return {line.process for line in list(self.lines) if "process is ready" in line.text}

    def send(self, order: Order) -> None:
        """Send an order by its door, and record its id."""
        from pipeline.actors import fetch_image

        if order.door == "send":
            order.id = fetch_image.send(order.body).message_id
        elif order.door == "queue":
            body = order.body if isinstance(order.body, str) else json.dumps(order.body)
            url = get_settings().queue_url or ""
            fifo = {"MessageGroupId": secrets.token_hex(8), "MessageDeduplicationId": secrets.token_hex(8)}
            sent = aws.sqs().send_message(QueueUrl=url, MessageBody=body, **(fifo if url.endswith(".fifo") else {}))
            order.id = input_job_id(sent["MessageId"])
        else:
            aws.sqs().send_message(QueueUrl=self.url(order.door), MessageBody=order.body)

    def url(self, queue: str) -> str:
        return aws.sqs().get_queue_url(QueueName=get_settings().full_queue_name(queue))["QueueUrl"]

    def counts(self, url: str) -> list[int]:
        """Return how many messages are waiting, in flight and delayed."""
        attributes = aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=COUNTS)["Attributes"]
        return [int(attributes[name]) for name in COUNTS]

    def unfinished(self) -> dict[str, list[int]]:
        """Return the queues that are not empty, except dead-letter queues."""
        urls = {queue: self.url(queue) for queue in own_queues() if not queue.endswith("_dlq")}
        urls["input"] = get_settings().queue_url or ""
        found = {name: self.counts(url) for name, url in urls.items()}
        return {name: counts for name, counts in found.items() if any(counts)}

    def is_busy(self, kind: str) -> bool:
        """Return whether a kind of process has messages in progress."""
        own = {"sweep": "sweep_episodes"}
        url = get_settings().queue_url or "" if kind == "ingest" else self.url(own.get(kind, kind))
        return self.counts(url)[1] > 0

    def sweep(self) -> None:
        """Start a run over the episodes."""
        from pipeline.actors import sweep_episodes

        sweep_episodes.send()

    def take_all(self, url: str) -> list[dict[str, Any]]:
        """Receive and delete all messages of a queue: bodies and attributes."""
        taken = []
        request: Any = {"MaxNumberOfMessages": 10, "WaitTimeSeconds": 0, "MessageAttributeNames": ["All"]}
        while received := aws.sqs().receive_message(QueueUrl=url, **request).get("Messages", []):
            for message in received:
                attributes = {k: v["StringValue"] for k, v in message.get("MessageAttributes", {}).items()}
                taken.append({"body": message["Body"], **attributes})
                aws.sqs().delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return taken

    def dead_letters(self) -> list[dict[str, Any]]:
        """Return the contents of the dead-letter queues, each with its queue."""
        queues = sorted(queue for queue in own_queues() if queue.endswith("_dlq"))
        return [letter | {"queue": queue} for queue in queues for letter in self.take_all(self.url(queue))]

    def staged(self) -> dict[str, bytes]:
        """Return the objects in staging by path."""
        bucket = get_settings().s3_bucket
        pages = aws.s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="pipeline-staging/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: aws.s3().get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def signal(self, kind: str, signum: int, rng: random.Random, *, group: bool = False) -> list[int]:
        """Send a signal to a worker of a kind, or to a process with all its workers; returns their ids."""
        names = [name for name in self.supervisor.names if name.startswith(f"{kind}.") and self.supervisor.pid(name)]
        if not names:
            return []
        leader = self.supervisor.pid(rng.choice(names))
        if leader is None:
            return []
        workers = _workers(leader)
        chosen = [leader, *workers] if group else [leader if signum == signal.SIGTERM or not workers else workers[0]]
        if signum == signal.SIGKILL:
            self.kills.append((time.monotonic(), kind))
        for pid in chosen:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)
        return chosen

    def proceed(self, pids: list[int]) -> None:
        """Continue stopped processes."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _workers(leader: int) -> list[int]:
    """Return the worker processes of a dramatiq command."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    processes = [line.split(None, 2) for line in listed.splitlines()]
    return [int(p[0]) for p in processes if int(p[1]) == leader and len(p) > 2 and "resource_tracker" not in p[2]]


@contextmanager
def running_service(
    stack: EmbeddedStack,
    proxy: Proxy,
    procfile: Path,
    *,
    through: Iterable[str] = ENDPOINTS,
    fifo: bool = True,
    max_receives: int = 0,
    concurrency: Mapping[str, int] | None = None,
    **more: str,
) -> Iterator[Service]:
    """Run the service with its own queues and bucket.

    Args:
        stack: The servers.
        proxy: Stands between the processes and the servers.
        procfile: The processes.
        through: The variables of the endpoints that lead to the proxy.
        fifo: Whether the input queue is a FIFO queue.
        max_receives: How often a message of the input queue may be received before it moves to a queue of its own; 0
            means any number of times.
        concurrency: Numbers of processes that differ from `CONCURRENCY`.
        more: Other variables.
    """
    unique = secrets.token_hex(4)
    kept = {k: v for k, v in os.environ.items() if k.lower() not in {*Settings.model_fields, "environment"}}
    queues = {"standard": f"results-{unique}", "fifo": f"results-{unique}.fifo"}
    ours = {
        **stack.environ,
        **dict.fromkeys(["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY_S3", "AWS_SECRET_KEY_SQS"], f"{SECRET}-aws"),
        "QUEUE_NAMESPACE": f"chaos-{unique}",
        "S3_BUCKET": f"chaos-{unique}",
        "PUBLIC_BASE_URL": "https://covers.example",
        "ALLOWED_NETWORKS": "127.0.0.0/8",
        "JOB_KEY": f"{SECRET}-key-of-jobs".ljust(32, "-"),
        "POSTBACK_SECRET_KEY": f"{SECRET}-key",
        "VISIBILITY": str(VISIBILITY),  # for tests.chaos.workers
        **dict.fromkeys(["FETCH_TIMEOUT", "POSTBACK_TIMEOUT"], str(TIMEOUT)),
        "FETCH_MAX_PER_HOST": "64",  # all sources of a run are on one host
        **dict.fromkeys(["FETCH_RETRY_DELAYS", "RETRY_DELAYS", "POSTBACK_RETRY_DELAYS"], SOON),
        "RENDITIONS": ",".join(RENDITIONS),
        "LEVEL": "DEBUG",
        "PYTHONPATH": str(ROOT),
        **more,
    }
    with mock.patch.dict(os.environ, {**kept, **ours}, clear=True):
        lazy.forget()
        try:
            if get_settings().database_url:  # with more patience than `provision` has, because the machine is busy
                mongo.database().command("ping")
            for change in plan(get_settings(), create_bucket=True):
                change.apply()
            for name in queues.values():
                _create_queue(name)
            os.environ["QUEUE_URL"], dead_input = _input_queue(f"input-{unique}", ".fifo" * fifo, max_receives)
            lazy.forget()
            _point_broker_here()
            service = Service(proxy, queues, dead_input)
            environ = {**os.environ, **dict.fromkeys(through, proxy.url)}
            with Supervisor(
                procfile,
                lambda name, text: service.lines.append(Line(time.monotonic(), name, text)),
                environ=environ,
                concurrency={**CONCURRENCY, **(concurrency or {})},
            ) as supervisor:
                service.supervisor = supervisor
                supervisor.start()
                workers = {name for name in supervisor.names if not name.startswith(("ingest", "scheduler"))}
                wait_for(lambda: service.ready >= workers, timeout=90)
                yield service
                supervisor.stop(timeout=0.0)
        finally:
            lazy.forget()
    lazy.forget()


def _create_queue(name: str, **attributes: str) -> str:
    fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
    return aws.sqs().create_queue(QueueName=name, Attributes=fifo | attributes)["QueueUrl"]


def _input_queue(name: str, ending: str, max_receives: int) -> tuple[str, str]:
    """Create an input queue; returns its URL and that of its dead-letter queue."""
    if not max_receives:
        return _create_queue(name + ending), ""
    dead = _create_queue(f"{name}-dead{ending}")
    policy = {"deadLetterTargetArn": queue_arn(aws.sqs(), dead), "maxReceiveCount": max_receives}
    return _create_queue(name + ending, RedrivePolicy=json.dumps(policy)), dead


def _point_broker_here() -> None:
    from pipeline.actors import broker

    broker.queues.namespace = get_settings().queue_namespace


def harmful_procfile(folder: Path) -> Path:
    """Write the project's Procfile with workers that also load `tests.chaos.workers`."""
    text = (ROOT / "Procfile").read_text()
    changes = {
        "dramatiq pipeline.actors --threads 6": "dramatiq pipeline.actors --processes 1 --threads 6",
        "dramatiq pipeline.actors": "dramatiq pipeline.actors tests.chaos.workers",
        "image-pipeline ingest": "python -m tests.chaos.workers",
    }
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    path = folder / "Procfile"
    path.write_text(text)
    return path
