"""Reading dead-letter queues. SQS cannot browse: to look at a message is to receive it, which hides it from others.

So whatever a reading receives stays hidden until it ends, and each message comes once; then all that was not deleted is
made visible again, at once, however the reading ended. Only `kill -9` leaves messages hidden, until the time is over
that they were hidden for. Dead-letter queues have no redrive policy, so how often a letter was received does no harm.

Knows nothing of letters. Limits: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_all
from email.utils import parsedate_to_datetime
from functools import partial
from threading import Event, Lock
from typing import TYPE_CHECKING, TypeVar

from botocore.exceptions import ClientError
from dramatiq_sqs.utils import batched

from pipeline.clients import aws
from pipeline.errors import RetryableError
from pipeline.sqs.queues import find_queue
from pipeline.sqs.wire import MAX_BATCH

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import (
        ChangeMessageVisibilityBatchRequestEntryTypeDef,
        DeleteMessageBatchRequestEntryTypeDef,
        MessageTypeDef,
    )

    #: Is called with messages that were received for the first time, from several threads.
    Handler = Callable[["Reading", list[MessageTypeDef]], None]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds of one poll. A long poll, be it short, asks all of SQS's servers: an empty answer means an empty queue.
POLL = 1

#: Seconds a message is hidden at the least, and messages that are read in a second at the worst: from far away.
LEAST_HIDDEN, SLOWEST = 60, 100

#: Seconds that SQS hides a message at the most.
MOST_HIDDEN = 12 * 3600

#: Messages of one queue that a reading holds at the most; SQS refuses to hide more than 120,000.
MAX_HELD = 100_000

#: Polls in a row without a message that concerns the reading, after which it ends: new ones may come for ever.
FRUITLESS = 3

#: Messages that are there for each thread that reads a queue, and such threads at the most.
PER_THREAD, MAX_THREADS = 500, 4

#: Seconds between attempts while SQS is in trouble.
PAUSES = (0.5, 1.0, 2.0)

_OVER_QUOTA = frozenset({"OverLimit", "AWS.SimpleQueueService.OverLimit"})


class Reading:
    """One pass through one queue, by any number of threads.

    Args:
        name: the queue's name, for people.
        url: where it is.
        until: what was sent after this time, in Unix seconds by SQS's clock, does not concern the reading; by default,
            what is sent after it began.
        rate: messages a second that the handler takes at the most, if there is such a limit.
        stopped: set when the reading is to end.
    """

    def __init__(
        self, client: SQSClient, name: str, url: str, *, stopped: Event, until: float | None, rate: float | None
    ) -> None:
        self.name = name
        self.url = url
        self._client = client
        self._stopped = stopped
        self._ended = Event()
        self._lock = Lock()  # guards what follows
        self._handles: dict[str, str] = {}  # the latest receipt handle of what is held, by MessageId
        self._seen: set[str] = set()
        self._fruitless = 0
        self.complete = True  #: whether nothing was left unread for too much being held
        self.waiting, self.elsewhere, now = self._look()
        self.until = now if until is None else until
        seconds = LEAST_HIDDEN + self.waiting / SLOWEST + (self.waiting / rate if rate else 0)
        self._hide_for = min(int(seconds), MOST_HIDDEN)

    @property
    def threads(self) -> int:
        """How many threads to read it with."""
        return min(MAX_THREADS, 1 + self.waiting // PER_THREAD)

    def receive(self) -> list[MessageTypeDef]:
        """Up to ten messages that concern the reading, each handed out once; none when it is at its end.

        Raises:
            RetryableError: SQS refuses, or cannot be reached.
        """
        while not (self._ended.is_set() or self._stopped.is_set()):
            received = self._patiently(f"read the queue {self.name}", self._poll)
            if not received:
                self._ended.set()
            if fresh := self._admit(received):
                return fresh
        return []

    def delete(self, messages: Sequence[MessageTypeDef]) -> list[MessageTypeDef]:
        """Delete messages; returns those that SQS would not delete: they become visible again.

        Raises:
            RetryableError: SQS refuses, or cannot be reached.
        """
        refused: list[MessageTypeDef] = []
        for batch in batched(messages, MAX_BATCH):
            members = list(batch)
            with self._lock:
                handles = [self._handles.get(message["MessageId"], message["ReceiptHandle"]) for message in members]
            entries: list[DeleteMessageBatchRequestEntryTypeDef] = [
                {"Id": str(i), "ReceiptHandle": handle} for i, handle in enumerate(handles)
            ]
            answer = self._patiently(
                f"delete what was read of the queue {self.name}",
                partial(self._client.delete_message_batch, QueueUrl=self.url, Entries=entries),
            )
            failed = {int(failure["Id"]) for failure in answer.get("Failed", [])}
            refused += [message for i, message in enumerate(members) if i in failed]
            with self._lock:
                for i, message in enumerate(members):
                    if i not in failed:
                        self._handles.pop(message["MessageId"], None)
        return refused

    def give_back(self) -> None:
        """Make what is held visible again. Where SQS does not answer, that comes to pass by itself."""
        with self._lock:
            handles, self._handles = list(self._handles.values()), {}
        failed = Event()
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(partial(self._show, failed), batched(handles, MAX_BATCH)))
        if failed.is_set():
            logger.warning(
                "What was read of the queue %s is hidden still, for SQS did not answer: for %d s at the most.",
                self.name,
                self._hide_for,
            )

    def _look(self) -> tuple[int, int, float]:
        """How many messages are visible, how many others hold, and SQS's time."""
        with aws.aws_errors("sqs", f"look at the queue {self.name}"):
            answer = self._client.get_queue_attributes(
                QueueUrl=self.url,
                AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
            )
        counts = answer["Attributes"]
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        try:
            now = parsedate_to_datetime(date).timestamp() + 1 if date else time.time()  # it tells no fractions
        except ValueError:
            now = time.time()
        return int(counts["ApproximateNumberOfMessages"]), int(counts["ApproximateNumberOfMessagesNotVisible"]), now

    def _poll(self) -> list[MessageTypeDef]:
        try:
            answer = self._client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=MAX_BATCH,
                WaitTimeSeconds=POLL,
                VisibilityTimeout=self._hide_for,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["All"],
            )
        except ClientError as error:
            if aws.aws_code(error) not in _OVER_QUOTA:
                raise
            self.complete = False
            return []
        return answer.get("Messages", [])

    def _admit(self, received: Sequence[MessageTypeDef]) -> list[MessageTypeDef]:
        """Hold what was received; returns what is new and concerns the reading."""
        fresh: list[MessageTypeDef] = []
        again: list[MessageTypeDef] = []
        with self._lock:
            for message in received:
                id_ = message["MessageId"]
                if id_ in self._seen and id_ not in self._handles:
                    again.append(message)  # it was deleted, and SQS delivers it once more
                elif id_ not in self._seen and sent_at(message) <= self.until:
                    fresh.append(message)
                self._seen.add(id_)
                self._handles[id_] = message["ReceiptHandle"]
            self._fruitless = 0 if fresh else self._fruitless + 1
            if self._fruitless >= FRUITLESS:
                self._ended.set()
            if len(self._handles) >= MAX_HELD:
                self.complete = False
                self._ended.set()
        if again:
            self.delete(again)
        return fresh

    def _show(self, failed: Event, handles: Iterable[str]) -> None:
        if failed.is_set():
            return
        entries: list[ChangeMessageVisibilityBatchRequestEntryTypeDef] = [
            {"Id": str(i), "ReceiptHandle": handle, "VisibilityTimeout": 0} for i, handle in enumerate(handles)
        ]
        change = partial(self._client.change_message_visibility_batch, QueueUrl=self.url, Entries=entries)
        try:
            self._patiently(f"give back what was read of the queue {self.name}", change, PAUSES[:1])
        except RetryableError:
            failed.set()

    def _patiently(self, doing: str, call: Callable[[], T], pauses: Sequence[float] = PAUSES) -> T:
        for pause in (*pauses, None):
            try:
                with aws.aws_errors("sqs", doing):
                    return call()
            except RetryableError:
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError  # pragma: no cover


def open_readings(
    names: Iterable[str], *, stopped: Event, until: float | None = None, rate: float | None = None
) -> list[Reading]:
    """A reading of each queue of `names` that exists; nothing is received yet.

    Raises:
        RetryableError: SQS refuses, or cannot be reached.
    """
    client = aws.sqs()

    def open_one(name: str) -> Reading | None:
        with aws.aws_errors("sqs", f"find the queue {name}"):
            url = find_queue(client, name)
        return Reading(client, name, url, stopped=stopped, until=until, rate=rate) if url else None

    with ThreadPoolExecutor(16) as pool:
        return [reading for reading in pool.map(open_one, names) if reading]


def read_through(readings: Sequence[Reading], handle: Handler, stopped: Event) -> None:
    """Hand all messages of the queues to `handle`, and give back what it did not delete.

    An exception, KeyboardInterrupt in the main thread included, ends the reading; a call of `handle` that is under way
    is seen through first.
    """

    def work(reading: Reading) -> None:
        while messages := reading.receive():
            handle(reading, messages)

    workers = [reading for reading in readings for _ in range(reading.threads)]
    if not workers:
        return
    pool = ThreadPoolExecutor(len(workers), thread_name_prefix="dead-letters")
    try:
        futures = [pool.submit(work, reading) for reading in workers]
        for future in wait_for_all(futures, return_when=FIRST_EXCEPTION).done:
            future.result()
    finally:
        stopped.set()
        pool.shutdown(wait=True)
        with ThreadPoolExecutor(len(readings)) as giving_back:
            list(giving_back.map(Reading.give_back, readings))


def sent_at(message: MessageTypeDef) -> float:
    """When a message was sent, in Unix seconds by SQS's clock. SQS keeps it where it moves the message itself."""
    return int(message["Attributes"]["SentTimestamp"]) / 1000
