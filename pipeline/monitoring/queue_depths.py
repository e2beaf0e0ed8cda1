"""How much waits in every queue of the service, as SQS counts it: approximately, and a few seconds late."""

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
from pipeline.stages import INGEST_DEAD_LETTER_QUEUE, STAGES, SWEEP_QUEUES, Lane, dead_letter_queue_of

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: The stage that the input queue is before, and the lane of dead-letter queues.
INGEST, DEAD = "ingest", "dead"

#: Queues that are asked at the same time.
THREADS = 8


@dataclass(frozen=True)
class Depth:
    """The messages of one queue, in SQS's three counts."""

    queue: str  #: its full name
    stage: str  #: which consumes it, or gave its messages up: `fetch`, ..., `ingest`, `sweep_channels`, ...
    lane: str  #: `live`, `bulk`, or `dead` for a dead-letter queue
    waiting: int  #: to be received
    in_flight: int  #: received and neither deleted nor visible again
    delayed: int  #: not to be received before their time: retries, and jobs whose host has no turn for them


@dataclass(frozen=True)
class _Queue:
    name: str
    stage: str
    lane: str
    url: str | None = None  #: where it is known


#: The URLs of queues by their names, for each client.
_urls: WeakKeyDictionary[SQSClient, dict[str, str]] = WeakKeyDictionary()


def depths() -> list[Depth]:
    """The depth of every queue that `queue_names` lists and that exists, in that order. Only URLs are cached.

    Raises:
        RetryableError: SQS could not be asked.
    """
    with aws.aws_errors("sqs", "ask for the depth of the queues"), ThreadPoolExecutor(THREADS) as pool:
        return [depth for depth in pool.map(_ask, _queues()) if depth]


def queue_names() -> list[str]:
    """The full names of QUEUE_URL, where it is set, and of every queue that `pipeline.stages` names."""
    return [queue.name for queue in _queues()]


def _queues() -> Iterator[_Queue]:
    settings = get_settings()
    full = settings.full_queue_name
    if settings.input_queue_name:
        yield _Queue(settings.input_queue_name, INGEST, Lane.LIVE.value, settings.queue_url)
    yield _Queue(full(INGEST_DEAD_LETTER_QUEUE), INGEST, DEAD)
    for stage in STAGES:
        for lane in Lane:
            yield _Queue(full(stage.queue(lane)), stage.name, lane.value)
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
