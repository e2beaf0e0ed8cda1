"""Depth of every queue of the service. SQS counts are approximate and a few seconds old."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    from mypy_boto3_sqs.literals import QueueAttributeNameType

#: The `stage` of the input queue, and the `lane` of dead-letter queues.
INGEST, DEAD = "ingest", "dead"

_GIANTS = tuple(f"_{queue}" for queue in GIANT_QUEUES)

#: SQS's counts, in the order of the fields of `Depth`.
COUNTS: tuple[QueueAttributeNameType, ...] = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)

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
class StageCounts:
    """The messages of one stage. `in_flight` and `delayed` include both lanes."""

    stage: str
    waiting: int  #: in the live lane
    bulk: int  #: waiting in the bulk lane
    in_flight: int
    delayed: int
    dead: int
    quarantine: int  #: waiting and in flight, because they may kill their workers


def counts_of(stage: str, found: Iterable[Depth]) -> StageCounts:
    """Count the messages of a stage in all its queues."""
    ours = [depth for depth in found if depth.stage == stage]
    alive = [depth for depth in ours if depth.lane not in {DEAD, QUARANTINE}]
    return StageCounts(
        stage=stage,
        waiting=sum(depth.waiting for depth in alive if depth.lane == Lane.LIVE),
        bulk=sum(depth.waiting for depth in alive if depth.lane == Lane.BULK),
        in_flight=sum(depth.in_flight for depth in alive),
        delayed=sum(depth.delayed for depth in alive),
        dead=sum(depth.waiting + depth.in_flight for depth in ours if depth.lane == DEAD),
        quarantine=sum(depth.waiting + depth.in_flight for depth in ours if depth.lane == QUARANTINE),
    )


#: Queue URLs by name, for each client.
_urls: WeakKeyDictionary[SQSClient, dict[str, str]] = WeakKeyDictionary()


def depths() -> list[Depth]:
    """Return the depth of each existing queue, in the order of `queue_names`. Only URLs are cached.

    Raises:
        RetryableError: SQS could not be reached.
    """
    with aws.aws_errors("sqs", "read the depths of the queues"), ThreadPoolExecutor(THREADS) as pool:
        return [depth for depth in pool.map(_ask, *zip(*_queues(), strict=True)) if depth]


def queue_names() -> list[str]:
    """List the full names of all queues: the input queue, if QUEUE_URL is set, and all of `pipeline.stages`."""
    return [name for name, *_ in _queues()]


def _queues() -> Iterator[tuple[str, str, str]]:
    """Yield the full name, the stage and the lane of each queue."""
    settings = get_settings()
    full = settings.full_queue_name
    if settings.input_queue_name:
        yield settings.input_queue_name, INGEST, Lane.LIVE.value
    yield full(INGEST_DEAD_LETTER_QUEUE), INGEST, DEAD
    for stage in STAGES:
        for queue in stage.queues:
            yield full(queue), stage.name, lane_of_queue(queue).value
        yield full(stage.quarantine_queue), stage.name, QUARANTINE
        yield full(stage.dead_letter_queue), stage.name, DEAD
    for sweep in SWEEP_QUEUES:
        yield full(sweep), sweep, Lane.BULK.value
        yield full(dead_letter_queue_of(sweep)), sweep, DEAD


def _ask(name: str, stage: str, lane: str) -> Depth | None:
    client, settings = aws.sqs(), get_settings()
    try:
        url = settings.queue_url if name == settings.input_queue_name else _url(client, name)
        if url is None:
            return None
        counts = client.get_queue_attributes(
            QueueUrl=url,
            AttributeNames=COUNTS,
        )["Attributes"]
    except ClientError as error:
        if aws.aws_code(error) in MISSING_QUEUE:
            return None
        raise
    return Depth(name, stage, lane, *(int(counts[each]) for each in COUNTS))


def _url(client: SQSClient, name: str) -> str | None:
    known = _urls.setdefault(client, {})
    if name not in known and (url := find_queue(client, name)):
        known[name] = url
    return known.get(name)
