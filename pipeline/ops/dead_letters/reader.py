"""Reads dead-letter queues. SQS cannot browse: to see a message is to receive it, which hides it from other readers.

Received messages stay hidden until the reader ends, and each is returned once. Then every message that was not deleted
becomes visible again at once, even after an error. Only `kill -9` leaves messages hidden, until their visibility
timeout ends. Dead-letter queues have no redrive policy, so the number of receives does not matter.

Does not parse the messages. Limits: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/
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

    #: Called from several threads with messages that were received for the first time.
    Handler = Callable[["QueueReader", list[MessageTypeDef]], None]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds of one poll. Even a short long poll asks all of SQS's servers, so an empty answer means an empty queue.
POLL = 1

#: Minimum visibility timeout in seconds, and the read rate in messages per second that it assumes: a slow, distant SQS.
LEAST_HIDDEN, SLOWEST = 60, 100

#: Maximum visibility timeout of SQS, in seconds.
MOST_HIDDEN = 12 * 3600

#: Maximum number of messages that a reader leases. SQS allows 120,000 in flight; beyond, a long poll is empty.
MAX_LEASED = 100_000

#: Consecutive polls without a relevant message after which a reader ends. Newer messages may keep arriving.
FRUITLESS = 3

#: Messages per reading thread, and the maximum number of threads per queue.
PER_THREAD, MAX_THREADS = 500, 4

#: Seconds between attempts while SQS fails.
PAUSES = (0.5, 1.0, 2.0)


class QueueReader:
    """Reads one queue once, with any number of threads.

    Args:
        client: The SQS client.
        name: The queue's name, for messages to people.
        url: The queue's URL.
        stopped: Set when the reader is to end.
        until: Ignore messages sent later, in Unix seconds by SQS's clock. The default is the start of the reader.
        rate: Maximum number of messages per second that the handler takes, if it has a limit.

    Attributes:
        waiting: Approximate number of visible messages at the start.
        hidden: Approximate number of messages that other readers had leased at the start.
        complete: Whether all messages could be read within SQS's limit of messages in flight.
    """

    def __init__(
        self, client: SQSClient, name: str, url: str, *, stopped: Event, until: float | None, rate: float | None
    ) -> None:
        self.name = name
        self.url = url
        self._client = client
        self._stopped = stopped
        self._ended = Event()
        self._lock = Lock()  # guards the fields below
        self._handles: dict[str, str] = {}  # the latest receipt handle of each leased message, by MessageId
        self._seen: set[str] = set()
        self._fruitless = 0
        self.complete = True
        self.waiting, self.hidden, now = self._count()
        self.until = now if until is None else until
        seconds = LEAST_HIDDEN + self.waiting / SLOWEST + (self.waiting / rate if rate else 0)
        self._visibility_timeout = min(int(seconds), MOST_HIDDEN)

    @property
    def threads(self) -> int:
        """Number of threads to read it with."""
        return min(MAX_THREADS, 1 + self.waiting // PER_THREAD)

    def receive(self) -> list[MessageTypeDef]:
        """Return up to ten relevant messages, each only once; an empty list at the end.

        Raises:
            RetryableError: SQS refuses the request or cannot be reached.
        """
        while not (self._ended.is_set() or self._stopped.is_set()):
            received = self._retried(f"read the queue {self.name}", self._poll)
            if not received:
                self._ended.set()
            if fresh := self._admit(received):
                return fresh
        return []

    def delete(self, messages: Sequence[MessageTypeDef]) -> list[MessageTypeDef]:
        """Delete messages; return the messages that SQS did not delete, which become visible again at the end.

        Raises:
            RetryableError: SQS refuses the request or cannot be reached.
        """
        refused: list[MessageTypeDef] = []
        for batch in batched(messages, MAX_BATCH):
            members = list(batch)
            with self._lock:
                handles = [self._handles.get(message["MessageId"], message["ReceiptHandle"]) for message in members]
            entries: list[DeleteMessageBatchRequestEntryTypeDef] = [
                {"Id": str(i), "ReceiptHandle": handle} for i, handle in enumerate(handles)
            ]
            answer = self._retried(
                f"delete messages from the queue {self.name}",
                partial(self._client.delete_message_batch, QueueUrl=self.url, Entries=entries),
            )
            failed = {int(failure["Id"]) for failure in answer.get("Failed", [])}
            refused += [message for i, message in enumerate(members) if i in failed]
            with self._lock:
                for i, message in enumerate(members):
                    if i not in failed:
                        self._handles.pop(message["MessageId"], None)
        return refused

    def release(self) -> None:
        """Make all leased messages visible again. If SQS fails, they reappear after their visibility timeout."""
        with self._lock:
            handles, self._handles = list(self._handles.values()), {}
        failed = Event()
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(partial(self._make_visible, failed), batched(handles, MAX_BATCH)))
        if failed.is_set():
            logger.warning(
                "SQS did not answer, so messages read from the queue %s stay hidden for up to %d s.",
                self.name,
                self._visibility_timeout,
            )

    def _count(self) -> tuple[int, int, float]:
        """Return the number of visible and of hidden messages, and SQS's time in Unix seconds."""
        with aws.aws_errors("sqs", f"count the messages of the queue {self.name}"):
            answer = self._client.get_queue_attributes(
                QueueUrl=self.url,
                AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
            )
        counts = answer["Attributes"]
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        try:
            now = parsedate_to_datetime(date).timestamp() + 1 if date else time.time()  # the header has whole seconds
        except ValueError:
            now = time.time()
        return int(counts["ApproximateNumberOfMessages"]), int(counts["ApproximateNumberOfMessagesNotVisible"]), now

    def _poll(self) -> list[MessageTypeDef]:
        answer = self._client.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=MAX_BATCH,
            WaitTimeSeconds=POLL,
            VisibilityTimeout=self._visibility_timeout,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        return answer.get("Messages", [])

    def _admit(self, received: Sequence[MessageTypeDef]) -> list[MessageTypeDef]:
        """Keep the leases of the received messages; return the new and relevant ones."""
        fresh: list[MessageTypeDef] = []
        again: list[MessageTypeDef] = []
        with self._lock:
            for message in received:
                id_ = message["MessageId"]
                if id_ in self._seen and id_ not in self._handles:
                    again.append(message)  # deleted, but delivered again by SQS
                elif id_ not in self._seen and sent_at(message) <= self.until:
                    fresh.append(message)
                self._seen.add(id_)
                self._handles[id_] = message["ReceiptHandle"]
            self._fruitless = 0 if fresh else self._fruitless + 1
            if self._fruitless >= FRUITLESS:
                self._ended.set()
            if len(self._handles) >= MAX_LEASED:
                self.complete = False
                self._ended.set()
        if again:
            self.delete(again)
        return fresh

    def _make_visible(self, failed: Event, handles: Iterable[str]) -> None:
        if failed.is_set():
            return
        entries: list[ChangeMessageVisibilityBatchRequestEntryTypeDef] = [
            {"Id": str(i), "ReceiptHandle": handle, "VisibilityTimeout": 0} for i, handle in enumerate(handles)
        ]
        change = partial(self._client.change_message_visibility_batch, QueueUrl=self.url, Entries=entries)
        try:
            self._retried(f"release messages of the queue {self.name}", change, PAUSES[:1])
        except RetryableError:
            failed.set()

    def _retried(self, doing: str, call: Callable[[], T], pauses: Sequence[float] = PAUSES) -> T:
        for pause in (*pauses, None):
            try:
                with aws.aws_errors("sqs", doing):
                    return call()
            except RetryableError:
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError  # pragma: no cover


def open_readers(
    names: Iterable[str], *, stopped: Event, until: float | None = None, rate: float | None = None
) -> list[QueueReader]:
    """Make a reader for each queue that exists; nothing is received yet. The arguments are those of `QueueReader`.

    Raises:
        RetryableError: SQS refuses the request or cannot be reached.
    """
    client = aws.sqs()

    def open_one(name: str) -> QueueReader | None:
        with aws.aws_errors("sqs", f"find the queue {name}"):
            url = find_queue(client, name)
        return QueueReader(client, name, url, stopped=stopped, until=until, rate=rate) if url else None

    with ThreadPoolExecutor(16) as pool:
        return [reader for reader in pool.map(open_one, names) if reader]


def read_all(readers: Sequence[QueueReader], handle: Handler, stopped: Event) -> None:
    """Call `handle` with all messages of the queues, then release the messages that it did not delete.

    Any exception, KeyboardInterrupt in the main thread included, ends the reading after the running calls of `handle`.
    """

    def work(reader: QueueReader) -> None:
        while messages := reader.receive():
            handle(reader, messages)

    workers = [reader for reader in readers for _ in range(reader.threads)]
    if not workers:
        return
    pool = ThreadPoolExecutor(len(workers), thread_name_prefix="dead-letters")
    try:
        futures = [pool.submit(work, reader) for reader in workers]
        for future in wait_for_all(futures, return_when=FIRST_EXCEPTION).done:
            future.result()
    finally:
        stopped.set()
        pool.shutdown(wait=True)
        with ThreadPoolExecutor(len(readers)) as releasing:
            list(releasing.map(QueueReader.release, readers))


def sent_at(message: MessageTypeDef) -> float:
    """Return when a message was sent, in Unix seconds by SQS's clock. A move by SQS itself does not change it."""
    return int(message["Attributes"]["SentTimestamp"]) / 1000
