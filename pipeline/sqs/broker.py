"""The broker: it sends messages, and holds the state that the consumers of a process share.

`SQSBroker` subclasses the upstream broker and differs in these points:

- Sending waits for SQS to confirm, and shares a batch with the sends of other threads. Upstream makes one request for
  each message.
- Delays may be of any length: a message hops through the queue until it is due. Upstream raises above 15 minutes, and
  a retry with such a delay is lost.
- Dead letters carry their reason in message attributes. Upstream keeps only the body, and only on request.
- Every message is checked against the limits of SQS before it is sent, because test servers accept more than SQS does.
- No client is made and no credentials are looked up before the first use. Upstream does both in the constructor,
  usually at import.
- Bodies are plain JSON: 25 % smaller than upstream's base64, and readable in the AWS console. Upstream's bodies are
  still accepted.

The receiving half is `pipeline.sqs.consumer`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import dramatiq
import dramatiq_sqs.broker as upstream
from botocore.exceptions import BotoCoreError, ClientError
from dramatiq.errors import QueueJoinTimeout, QueueNotFound
from dramatiq_sqs.exceptions import MessageTooLarge

from pipeline.sqs.consumer import SQSConsumer, Trials
from pipeline.sqs.group_commit import GroupCommit
from pipeline.sqs.leases import Lease
from pipeline.sqs.message import SQSMessage
from pipeline.sqs.queues import MAX_MESSAGE_BYTES, VISIBILITY_TIMEOUT, QueueSpec, ensure_queue
from pipeline.sqs.wire import (
    DUE,
    GROUP,
    MAX_BATCH,
    MAX_DELAY,
    SUSPECT,
    Reason,
    SendEntry,
    SendFailed,
    describe,
    encode,
    in_batches,
)

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

    from pipeline.sqs.lanes import LaneQueue

#: Divides the prefetch of a bulk queue. dramatiq asks for two messages per thread, so bulk messages occupy at most half
#: of the threads, and the others stay free for live messages.
BULK_PREFETCH_DIVISOR = 4

#: How many batches of one call are sent in parallel. Sent in sequence, they reach only 60 % of the endpoint's rate.
MAX_PARALLEL_BATCHES = 8


class SQSBroker(upstream.SQSBroker):
    """A dramatiq broker on SQS.

    Args:
        namespace: The prefix of queue names: `<namespace>_<queue>`.
        middleware: dramatiq middleware, in order.
        client: Returns the SQS client that all threads share. boto3 clients are thread-safe; its resources are not.
        trials: Counts, for all workers, how often a suspect ran alone without finishing.
        dead_letter_queue: Maps a queue to its dead-letter queue, both without the namespace.
        visibility_timeout: How long a received message stays hidden unless its lease is extended, in seconds.
        clock: Returns Unix time in seconds. Delays beyond 15 minutes are due by this clock.
        claim_check: Stores a body that is too large to share a dead letter with its reason, and returns its key.
        is_bulk: Whether the messages of a queue give way to those of all other queues.

    Attributes:
        stopping: Set once the process is told to stop.
        in_progress: The leases of messages that this process is working on. Each may soon lead to another send.
        alone: The suspect that runs alone in this process, or waits to. No other message is received or started
            until it ends.
        work_queue: The messages that this process has received and not started.
    """

    def __init__(
        self,
        *,
        namespace: str,
        middleware: list[dramatiq.Middleware],
        client: Callable[[], SQSClient],
        trials: Trials,
        dead_letter_queue: Callable[[str], str] = "{}_dlq".format,
        visibility_timeout: int = VISIBILITY_TIMEOUT,
        clock: Callable[[], float] = time.time,
        claim_check: Callable[[bytes], str] | None = None,
        is_bulk: Callable[[str], bool] = lambda queue: False,
    ) -> None:
        self.queue_names: set[str] = set()  # set first, because hooks of the middleware may declare queues
        dramatiq.Broker.__init__(self, middleware=middleware)
        self.namespace = namespace
        self.visibility = visibility_timeout
        self.dead_letter_queue = dead_letter_queue
        self.clock = clock
        self.claim_check = claim_check
        self.trials = trials
        self.is_bulk = is_bulk
        self.work_queue: LaneQueue | None = None
        self.consumers: set[SQSConsumer] = set()
        self.stopping = threading.Event()
        self.in_progress: set[Lease] = set()
        self.alone: SQSMessage | None = None
        self._fair = True  # whether the endpoint accepts message groups on standard queues
        self._client = client
        self._lock = threading.Lock()
        self._urls: dict[str, str] = {}
        self._commits: dict[str, GroupCommit[SendEntry]] = {}

    @property
    def client(self) -> SQSClient:
        """The SQS client that all threads share."""
        return self._client()

    def queue_url(self, queue_name: str) -> str:
        """Return the URL of a declared queue or of a dead-letter queue, and create the queue if it does not exist."""
        if queue_name not in self._urls:
            spec = QueueSpec(self.full_name(queue_name))
            if queue_name in self.queue_names:
                spec = replace(spec, dead_letters=self.full_name(self.dead_letter_queue(queue_name)))
            self._urls[queue_name] = ensure_queue(self.client, spec)
        return self._urls[queue_name]

    def knows_url(self, queue_name: str) -> bool:
        """Return whether the URL of a queue is known without asking SQS."""
        return queue_name in self._urls

    def full_name(self, queue_name: str) -> str:
        """Return the name of a queue in SQS."""
        return f"{self.namespace}_{queue_name}"

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 0) -> SQSConsumer:
        """Return a consumer that leases up to `prefetch` messages of a queue, or a quarter of that of a bulk queue.

        `timeout` is ignored: dramatiq asks for polls of one second, and the longest poll that SQS allows costs fewer
        requests.
        """
        if queue_name not in self.queue_names:
            raise QueueNotFound(queue_name)
        bulk = self.is_bulk(queue_name)
        if bulk:
            prefetch = max(1, prefetch // BULK_PREFETCH_DIVISOR)
        return SQSConsumer(self, queue_name, prefetch=prefetch, bulk=bulk)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Send one message, to be received after `delay` milliseconds.

        Raises:
            SendFailed: SQS did not confirm the message.
            MessageTooLarge: The message exceeds the size limit of SQS.
            ValueError: The message breaks another limit of SQS.
        """
        if error := self.enqueue_many([message], delay=delay)[0]:
            raise error
        return message

    def enqueue_many(
        self, messages: Sequence[dramatiq.Message[Any]], *, delay: int | None = None
    ) -> list[Exception | None]:
        """Send messages in batches and wait until SQS has answered for all of them.

        Returns:
            An error or None for each message, in order.
        """
        for message in messages:
            if message.queue_name not in self.queue_names:
                raise QueueNotFound(message.queue_name)
            self.emit_before("enqueue", message, delay)
        entries = [(message.queue_name, self._entry(message, delay or 0)) for message in messages]
        errors: list[Exception | None] = [None] * len(messages)
        for queue_name in {message.queue_name for message in messages}:
            places = [place for place, (name, _) in enumerate(entries) if name == queue_name]
            for place, error in zip(places, self.send(queue_name, [entries[p][1] for p in places]), strict=True):
                errors[place] = error
        for message, error in zip(messages, errors, strict=True):
            if error is None:
                self.emit_after("enqueue", message, delay)
        return errors

    def bury(self, queue_name: str, body: str, reason: Reason) -> None:
        """Send `body` to the dead-letter queue of `queue_name`, with `reason` in its attributes.

        A body that leaves no room for the reason goes to `claim_check`, and the dead letter carries its key instead.

        Raises:
            SendFailed: SQS did not confirm the dead letter.
            MessageTooLarge: The dead letter exceeds the size limit of SQS.
            ValueError: The dead letter breaks another limit of SQS.
        """
        entry = SendEntry.of_dead_letter(body, reason)
        if entry.is_too_large and self.claim_check:
            entry = SendEntry.of_dead_letter("{}", replace(reason, key=self.claim_check(body.encode())))
        self._send_one(self.dead_letter_queue(queue_name), entry)

    def send(self, queue_name: str, entries: Sequence[SendEntry]) -> list[Exception | None]:
        """Send entries to a queue; entries that fit into one batch share it with those of other threads.

        Returns:
            An error or None for each entry, in order.
        """
        errors = [_error_in(entry) for entry in entries]
        good = [entry for entry, error in zip(entries, errors, strict=True) if error is None]
        batches = list(in_batches(good))
        if len(batches) <= 1:
            outcomes = iter(self._commit_of(queue_name).submit([(entry, entry.size) for entry in good]))
        else:  # full batches gain nothing from waiting for other threads
            with ThreadPoolExecutor(min(len(batches), MAX_PARALLEL_BATCHES), thread_name_prefix="send") as pool:
                outcomes = chain.from_iterable(pool.map(partial(self._try_batch, queue_name), batches))
        return [error or next(outcomes) for error in errors]

    def hop(self, message: dramatiq.Message[Any]) -> None:
        """Send a message again that was received before it is due, with as much of its delay as SQS allows.

        Raises:
            SendFailed: SQS did not confirm the message.
        """
        remaining = message.options[DUE] - int(self.clock() * 1000)
        self._send_one(message.queue_name, self._entry(message, max(0, remaining)))

    def send_copy(self, message: dramatiq.Message[Any], *, delay: int, **options: Any) -> None:
        """Send a received message again after `delay` seconds, with internal `options` of the queue layer.

        Raises:
            SendFailed: SQS did not confirm the message.
        """
        self._send_one(message.queue_name, self._entry(message, delay * 1000, **options))

    @property
    def lease_count(self) -> int:
        """How many messages this process leases."""
        return sum(len(consumer.leases) for consumer in list(self.consumers))

    @property
    def has_single_lease(self) -> bool:
        """Whether SQS would redeliver exactly one message if this process died now."""
        return self.lease_count == 1 and not any(consumer.leases.has_undeleted for consumer in list(self.consumers))

    def begin_alone(self, message: SQSMessage) -> bool:
        """Reserve this process for `message`; returns False if another message has already reserved it."""
        with self._lock:
            if self.alone is not None:
                return False
            self.alone = message
            return True

    def end_alone(self, message: SQSMessage) -> None:
        """Allow other messages again, if this process was reserved for `message`."""
        with self._lock:
            if self.alone is not message:
                return
            self.alone = None
        self.wake()

    @property
    def has_live_waiting(self) -> bool:
        """Whether a live message is waiting for a thread of this process."""
        return self.work_queue is not None and self.work_queue.live > 0

    def wake(self) -> None:
        """Make every consumer check again whether it may receive."""
        for consumer in list(self.consumers):
            consumer.wake()

    def join(self, queue_name: str, *, timeout: int | None = None) -> None:
        """Wait until `queue_name` is empty. For tests.

        Raises:
            QueueJoinTimeout: The queue was not empty after `timeout` milliseconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout / 1000
        counts: list[QueueAttributeNameType] = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesDelayed",
            "ApproximateNumberOfMessagesNotVisible",
        ]
        url = self.queue_url(queue_name)
        while True:
            attributes = self.client.get_queue_attributes(QueueUrl=url, AttributeNames=counts)["Attributes"]
            if not any(int(attributes[name]) for name in counts):
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise QueueJoinTimeout(queue_name)
            time.sleep(0.2)

    def _entry(self, message: dramatiq.Message[Any], delay: int, **own: Any) -> SendEntry:
        if delay > MAX_DELAY * 1000:
            own[DUE] = int(self.clock() * 1000) + delay
        options = {key: value for key, value in message.options.items() if key not in {DUE, SUSPECT}}
        return SendEntry(
            body=encode(message, options=options | own),
            delay=min(-(-delay // 1000), MAX_DELAY),
            group=options.get(GROUP),
        )

    def _send_one(self, queue_name: str, entry: SendEntry) -> None:
        if error := self.send(queue_name, [entry])[0]:
            raise error

    def _commit_of(self, queue_name: str) -> GroupCommit[SendEntry]:
        with self._lock:
            if queue_name not in self._commits:
                self._commits[queue_name] = GroupCommit(
                    lambda batch: self._send_batch(queue_name, batch),
                    max_entries=MAX_BATCH,
                    max_bytes=MAX_MESSAGE_BYTES,
                    expected=lambda: len(self.in_progress),
                )
            return self._commits[queue_name]

    def _try_batch(self, queue_name: str, batch: list[SendEntry]) -> Sequence[Exception | None]:
        try:
            return self._send_batch(queue_name, batch)
        except Exception as error:
            return [error] * len(batch)

    def _send_batch(self, queue_name: str, batch: list[SendEntry]) -> list[Exception | None]:
        grouped = self._fair and any(entry.group for entry in batch)
        try:
            response = self.client.send_message_batch(
                QueueUrl=self.queue_url(queue_name),
                Entries=[entry.request(str(place), grouped=grouped) for place, entry in enumerate(batch)],
            )
        except (BotoCoreError, ClientError) as error:
            if grouped and "MessageGroupId" in str(error):
                return self._resend_ungrouped(queue_name, batch)
            raise SendFailed(f"SQS did not confirm {len(batch)} messages: {describe(error)}") from error
        failures = {int(failure["Id"]): failure for failure in response.get("Failed", [])}
        if grouped and any("MessageGroupId" in failure.get("Message", "") for failure in failures.values()):
            places = sorted(failures)
            again = dict(zip(places, self._resend_ungrouped(queue_name, [batch[p] for p in places]), strict=True))
            return [again.get(place) for place in range(len(batch))]
        return [
            SendFailed(f"SQS refused a message: {failures[place]['Code']}") if place in failures else None
            for place in range(len(batch))
        ]

    def _resend_ungrouped(self, queue_name: str, batch: list[SendEntry]) -> list[Exception | None]:
        """Send a batch without message groups, and remember that the endpoint does not support fair queues."""
        self._fair = False
        self.logger.warning("This SQS endpoint does not support fair queues. Messages are sent without a group.")
        return self._send_batch(queue_name, batch)


def _error_in(entry: SendEntry) -> Exception | None:
    try:
        entry.check()
    except (MessageTooLarge, ValueError) as error:
        return error
    return None
