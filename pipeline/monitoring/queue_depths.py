"""Depth of every queue of the service. SQS counts are approximate and a few seconds old."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from botocore.exceptions import ClientError

from pipeline.clients import aws
from pipeline.settings import get_settings
from pipeline.sqs.queues import MISSING_QUEUE, find_queue
from pipeline.stages import (
    GIANT_QUEUES,
    GIANTS,
    INGEST_DEAD_LETTER_QUEUE,
    QUARANTINE,
    STAGES,
    SWEEP_QUEUES,
    Lane,
    dead_letter_queue_of,
    lane_of_queue,
)

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: The `stage` of the input queue, and the `lane` of dead-letter queues.
INGEST, DEAD = "ingest", "dead"

_GIANTS = tuple(f"_{queue}" for queue in GIANT_QUEUES)

#: Number of queues queried in parallel.
THREADS = 8


@dataclass(frozen=True)
class Depth:
    """The message counts of one queue."""

    queue: str  #: full name
    stage: str  #: its consumer, or the stage that gave its messages up: `fetch`, ..., `ingest`, `sweep_channels`, ...
    lane: str  #: `live`, `bulk`, `quarantine`, or `dead` for a dead-letter queue
    waiting: int  #: ready to be received
    in_flight: int  #: received, and neither deleted nor visible again
    delayed: int  #: due later: retries and snoozed jobs

    @property
    def consumer(self) -> str:
        """Who takes its messages, as in `Process.stages`: its stage, `giants` or `quarantine`."""
        if self.lane == QUARANTINE:
            return QUARANTINE
        return GIANTS if self.queue.endswith(_GIANTS) else self.stage


@dataclass(frozen=True)
class _Queue:
    name: str
    stage: str
    lane: str
    url: str | None = None  #: None: to be looked up


#: Queue URLs by name, for each client.
_urls: WeakKeyDictionary[SQSClient, dict[str, str]] = WeakKeyDictionary()


def depths() -> list[Depth]:
    """Return the depth of each existing queue, in the order of `queue_names`. Only URLs are cached.

    Raises:
        RetryableError: SQS could not be reached.
    """
    with aws.aws_errors("sqs", "read the depths of the queues"), ThreadPoolExecutor(THREADS) as pool:
        return [depth for depth in pool.map(_ask, _queues()) if depth]


def queue_names() -> list[str]:
    """List the full names of all queues: the input queue, if QUEUE_URL is set, and all of `pipeline.stages`."""
    return [queue.name for queue in _queues()]


def _queues() -> Iterator[_Queue]:
    settings = get_settings()
    full = settings.full_queue_name
    if settings.input_queue_name:
        yield _Queue(settings.input_queue_name, INGEST, Lane.LIVE.value, settings.queue_url)
    yield _Queue(full(INGEST_DEAD_LETTER_QUEUE), INGEST, DEAD)
    for stage in STAGES:
        for queue in stage.queues:
            yield _Queue(full(queue), stage.name, lane_of_queue(queue).value)
        yield _Queue(full(stage.quarantine_queue), stage.name, QUARANTINE)
        yield _Queue(full(stage.dead_letter_queue), stage.name, DEAD)
    for sweep in SWEEP_QUEUES:
        yield _Queue(full(sweep), sweep, Lane.BULK.value)
        yield _Queue(full(dead_letter_queue_of(sweep)), sweep, DEAD)


def _ask(queue: _Queue) -> Depth | None:
    client = aws.sqs()
    try:
        url = queue.url or _url(client, queue.name)
        if url is None:
            return None
        counts = client.get_queue_attributes(
            QueueUrl=url,
            AttributeNames=[
                "ApproximateNumberOfMessages",
                "ApproximateNumberOfMessagesNotVisible",
                "ApproximateNumberOfMessagesDelayed",
            ],
        )["Attributes"]
    except ClientError as error:
        if aws.aws_code(error) in MISSING_QUEUE:
            return None
        raise
    return Depth(
        queue=queue.name,
        stage=queue.stage,
        lane=queue.lane,
        waiting=int(counts["ApproximateNumberOfMessages"]),
        in_flight=int(counts["ApproximateNumberOfMessagesNotVisible"]),
        delayed=int(counts["ApproximateNumberOfMessagesDelayed"]),
    )


def _url(client: SQSClient, name: str) -> str | None:
    known = _urls.setdefault(client, {})
    if name not in known and (url := find_queue(client, name)):
        known[name] = url
    return known.get(name)
