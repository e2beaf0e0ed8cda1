"""The sending half of the queue layer: dramatiq-sqs made safe and cheap by subclassing its broker.

Knows no settings, no jobs and no stages. What differs from upstream, and why:

- a send waits for SQS's answer, but travels in a batch with those of other threads (upstream: one request each);
- delays of any length, by hops (upstream: more than 15 minutes raises, and the retry is lost with its message);
- dead letters carry their reason as message attributes (upstream: the bare body, and only if asked);
- everything is checked before it is sent, so that a test server which takes more than SQS does hides nothing;
- no client, and no credentials looked up, before the first use (upstream: at construction, so at import);
- bodies are plain JSON, a quarter smaller and readable in a console; upstream's base64 is still understood.

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

#: A bulk queue's prefetch is this part of what dramatiq asks for, which is two messages for each thread: bulk messages
#: take half of the threads at the most, and the others are free for who waits.
BULK_PREFETCH_DIVISOR = 4

#: Batches of one call that are under way at a time, where there is more than one, as a sweep's page has. One after the
#: other, they would go at 60 % of the rate at which the endpoint takes them.
MAX_PARALLEL_BATCHES = 8


class SQSBroker(upstream.SQSBroker):
    """A dramatiq broker on SQS.

    Parameters:
        namespace: the prefix of queue names: `<namespace>_<queue>`.
        middleware: dramatiq middleware, in its order.
        dead_letter_queue: the name, without the namespace, of a queue's dead-letter queue.
        visibility_timeout: seconds a received message is hidden between two extensions.
        clock: the Unix time in seconds, by which delays beyond 15 minutes are due.
        put_away: keeps a body that is too large for a dead letter with its reason, and returns the key of it.
        client: returns the SQS client that all threads share (boto3's clients may be shared, its resources may not).
        trials: remembers how often a message that may be what kills its workers was begun alone.
        is_bulk: whether a queue, by its name, holds messages that those of all other queues go before.
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
        self.queue_names: set[str] = set()  # before the middleware's hooks may declare some, as upstream has it
        dramatiq.Broker.__init__(self, middleware=middleware)
        self.namespace = namespace
        self.visibility = visibility_timeout
        self.dead_letter_queue = dead_letter_queue
        self.clock = clock
        self.claim_check = claim_check
        self.trials = trials
        self.is_bulk = is_bulk
        self.line: LaneQueue | None = None  # what this process has received and not begun
        self.consumers: set[SQSConsumer] = set()
        self.stopping = threading.Event()  # set when the process is told to stop
        self.in_progress: set[Lease] = set()  # begun in this process and not ended: each may soon send another message
        #: The suspect that runs alone in this process, or waits for it: nothing else is received or begun meanwhile.
        self.alone: SQSMessage | None = None
        self._fair = True  # whether the endpoint takes message groups on standard queues
        self._client = client
        self._lock = threading.Lock()
        self._urls: dict[str, str] = {}
        self._commits: dict[str, GroupCommit[SendEntry]] = {}

    @property
    def client(self) -> SQSClient:
        """The SQS client."""
        return self._client()

    def queue_url(self, queue_name: str) -> str:
        """The URL of a declared queue or of a dead-letter queue; the queue is made if it is missing."""
        if queue_name not in self._urls:
            spec = QueueSpec(self.full_name(queue_name))
            if queue_name in self.queue_names:
                spec = replace(spec, dead_letters=self.full_name(self.dead_letter_queue(queue_name)))
            self._urls[queue_name] = ensure_queue(self.client, spec)
        return self._urls[queue_name]

    def knows_url(self, queue_name: str) -> bool:
        """Whether SQS has told the URL of a queue."""
        return queue_name in self._urls

    def full_name(self, queue_name: str) -> str:
        """The name SQS knows a queue by."""
        return f"{self.namespace}_{queue_name}"

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 0) -> SQSConsumer:
        """A consumer of `queue_name` that leases up to `prefetch` messages; of a bulk queue, so few that half of the
        threads stay free of them. It polls as long as SQS lets it: `timeout` is dramatiq's own wait of a second, which
        would only make requests."""
        if queue_name not in self.queue_names:
            raise QueueNotFound(queue_name)
        bulk = self.is_bulk(queue_name)
        if bulk:
            prefetch = max(1, prefetch // BULK_PREFETCH_DIVISOR)
        return SQSConsumer(self, queue_name, prefetch=prefetch, bulk=bulk)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Send one message, after `delay` milliseconds.

        Raises:
            SendFailed: SQS did not confirm it.
            MessageTooLarge, ValueError: SQS would not take it.
        """
        if error := self.enqueue_many([message], delay=delay)[0]:
            raise error
        return message

    def enqueue_many(
        self, messages: Sequence[dramatiq.Message[Any]], *, delay: int | None = None
    ) -> list[Exception | None]:
        """Send messages, in batches; returns an error or None for each, in order, once SQS has answered for all."""
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
        """Keep `body` in the dead-letter queue of `queue_name`, with its reason; one too large for it is put away.

        Raises:
            SendFailed: SQS did not confirm it.
            MessageTooLarge, ValueError: SQS would not take it.
        """
        entry = SendEntry.of_dead_letter(body, reason)
        if entry.is_too_large and self.claim_check:
            entry = SendEntry.of_dead_letter("{}", replace(reason, key=self.claim_check(body.encode())))
        self._send_one(self.dead_letter_queue(queue_name), entry)

    def send(self, queue_name: str, entries: Sequence[SendEntry]) -> list[Exception | None]:
        """Send entries to a queue; returns an error or None for each. Few share a batch with those of other threads."""
        errors = [_error_in(entry) for entry in entries]
        good = [entry for entry, error in zip(entries, errors, strict=True) if error is None]
        batches = list(in_batches(good))
        if len(batches) <= 1:
            outcomes = iter(self._commit_of(queue_name).submit([(entry, entry.size) for entry in good]))
        else:  # they have nobody to wait for
            with ThreadPoolExecutor(min(len(batches), MAX_PARALLEL_BATCHES), thread_name_prefix="send") as pool:
                outcomes = chain.from_iterable(pool.map(partial(self._try_batch, queue_name), batches))
        return [error or next(outcomes) for error in errors]

    def hop(self, message: dramatiq.Message[Any]) -> None:
        """Send a message that was received before it is due on its next hop.

        Raises:
            SendFailed: SQS did not confirm it.
        """
        remaining = message.options[DUE] - int(self.clock() * 1000)
        self._send_one(message.queue_name, self._entry(message, max(0, remaining)))

    def send_copy(self, message: dramatiq.Message[Any], *, delay: int, **options: Any) -> None:
        """Send a received message again, with `options` of the queue layer's own, after `delay` seconds.

        Raises:
            SendFailed: SQS did not confirm it.
        """
        self._send_one(message.queue_name, self._entry(message, delay * 1000, **options))

    @property
    def lease_count(self) -> int:
        """How many messages this process holds."""
        return sum(len(consumer.leases) for consumer in list(self.consumers))

    @property
    def has_single_lease(self) -> bool:
        """Whether the death of this process would bring back one message, and no other."""
        return self.lease_count == 1 and not any(consumer.leases.has_undeleted for consumer in list(self.consumers))

    def begin_alone(self, message: SQSMessage) -> bool:
        """Let `message` be the one that runs alone; False if there is one already."""
        with self._lock:
            if self.alone is not None:
                return False
            self.alone = message
            return True

    def end_alone(self, message: SQSMessage) -> None:
        """Let the others go on, if `message` is the one that ran alone, or waited for it."""
        with self._lock:
            if self.alone is not message:
                return
            self.alone = None
        self.wake()

    @property
    def live_waits(self) -> bool:
        """Whether this process has received a message that is not bulk, and not begun it."""
        return self.line is not None and self.line.live > 0

    def wake(self) -> None:
        """Let every consumer look again at whether it may receive."""
        for consumer in list(self.consumers):
            consumer.wake()

    def join(self, queue_name: str, *, timeout: int | None = None) -> None:
        """Wait until `queue_name` is empty, for `timeout` milliseconds at the most (for tests)."""
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
        """Send a batch to an endpoint that does not know fair queues, and never ask it again."""
        self._fair = False
        self.logger.warning("The SQS endpoint takes no message groups on standard queues: going on without.")
        return self._send_batch(queue_name, batch)


def _error_in(entry: SendEntry) -> Exception | None:
    try:
        entry.check()
    except (MessageTooLarge, ValueError) as error:
        return error
    return None
