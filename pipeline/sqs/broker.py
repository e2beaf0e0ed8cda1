"""The broker: the public API of the queue layer. `README.md` describes its guarantees."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dramatiq
import dramatiq_sqs
from dramatiq.encoder import Encoder, JSONEncoder
from dramatiq.errors import QueueNotFound
from dramatiq_sqs.broker import MAX_MESSAGE_RETENTION_SECONDS, MIN_MESSAGE_RETENTION_SECONDS

from pipeline.sqs.consumer import SQSConsumer
from pipeline.sqs.in_hand import InHand
from pipeline.sqs.loop import Clock, Loop, MakeLoop
from pipeline.sqs.middleware import QueueLayer
from pipeline.sqs.queues import VISIBILITY_TIMEOUT, Queue, Queues
from pipeline.sqs.sender import BATCH_WINDOW, Sender
from pipeline.sqs.wire import Reason, encode

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: How many messages dramatiq asks for, for each thread of the worker.
PREFETCH_PER_THREAD = 2

#: Divides the prefetch of a bulk queue, so that bulk messages occupy at most half of the threads, and the others stay
#: free for live messages.
BULK_PREFETCH_DIVISOR = 4


class SQSBroker(dramatiq_sqs.SQSBroker):
    """A broker of dramatiq-sqs with other sends, receives and deletes.

    Args:
        namespace: The prefix of queue names: `<namespace>_<queue>`.
        client: Returns the SQS client that all threads share. It is not called before the first request.
        encoder: Encodes and decodes messages. dramatiq's global encoder is not used.
        queues: The queues that are bulk or share dead letters. Others need not be named.
        quarantine: The quarantine queue of each queue that has one. Others bury a message at its tenth receive.
        oversize: Stores a body that is too large to share a dead letter with its reason, and returns its key. It raises
            `Unavailable` to be asked again.
        middleware: dramatiq middleware, in order; the layer's own comes before it. `settle` of a received message
            decides how it ends; without a decision it is deleted if its actor returned, and released if it raised.
        retention: How long a queue that the broker creates keeps messages, in seconds. Dead letters stay 14 days.
        visibility_timeout: How long a received message stays hidden unless its lease is extended, in seconds.
        tags: Tags of all queues, set at their first use.
        rng: Draws the jitter of waits.
        loop: Makes the threads of consumers.
        window: How long a send waits for those of other threads, in seconds.
    """

    queues: Queues  # type: ignore[assignment] # each has what `join` asks of a boto3 resource
    visibility_timeout: int

    def __init__(
        self,
        namespace: str | None,
        client: Callable[[], SQSClient],
        encoder: Encoder | None = None,
        *,
        queues: Iterable[Queue] = (),
        quarantine: Mapping[str, str] | None = None,
        oversize: Callable[[bytes], str] | None = None,
        middleware: Iterable[dramatiq.Middleware] = (),
        retention: int = MAX_MESSAGE_RETENTION_SECONDS,
        visibility_timeout: int = VISIBILITY_TIMEOUT,
        tags: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        loop: MakeLoop = Loop,
        window: float = BATCH_WINDOW,
    ) -> None:
        if not MIN_MESSAGE_RETENTION_SECONDS <= retention <= MAX_MESSAGE_RETENTION_SECONDS:
            raise ValueError(f"SQS keeps no message for {retention} seconds: 'retention' must be a minute to 14 days.")
        # dramatiq-sqs's constructor is passed by, and that of its base class runs: it would make a boto3 resource at
        # import, which needs a region and which threads must not share. What its methods read is set here. The same
        # goes for its consumer, which would lease ten messages at most.
        self.queue_names: set[str] = set()
        super(dramatiq_sqs.SQSBroker, self).__init__(middleware=[])
        self.encoder = encoder or JSONEncoder()
        self.retention, self.visibility_timeout, self.tags = retention, visibility_timeout, dict(tags or {})
        self.clock = clock or Clock()
        self.rng = rng or random.Random()  # noqa: S311 - no secret is drawn
        self.loop = loop
        self.queues = Queues(namespace, client, queues, quarantine or {}, retention=retention, tags=self.tags)
        self.in_hand = InHand(self.clock, lambda queue: self.queues[queue].bulk)
        self.sender = Sender(self.queues, client, self.encoder, self.clock, self.in_hand, oversize, window)
        for each in (QueueLayer(), *middleware):  # whose hooks may declare queues
            self.add_middleware(each)

    @property
    def namespace(self) -> str | None:  # type: ignore[override]
        return self.queues.namespace

    @property
    def consumer_class(self) -> type[SQSConsumer]:
        return SQSConsumer

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue and its quarantine queue. Nothing is created before the first request."""
        if queue_name not in self.queues:
            self.queues.declare(queue_name)
            super().declare_queue(queue_name)
            if quarantine := self.queues.quarantine.get(queue_name):
                self.declare_queue(quarantine)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 0) -> SQSConsumer:
        """Return a consumer that leases up to `prefetch` messages of a queue, or a quarter of that of a bulk queue.

        `timeout` is ignored: the longest poll that SQS allows costs fewer requests than dramatiq's polls of a second.
        """
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)
        queue, threads = self.queues[queue_name], max(1, prefetch // PREFETCH_PER_THREAD)
        most = max(1, prefetch // BULK_PREFETCH_DIVISOR) if queue.bulk else prefetch
        made = (queue, self.sender, self.actors, self.visibility_timeout, self.rng, self.loop)
        return self.consumer_class(*made, most, threads)

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
        """Send messages in batches; returns an error of `enqueue` or None for each message, in order."""
        for message in messages:
            if message.queue_name not in self.queues:
                raise QueueNotFound(message.queue_name)
            self.emit_before("enqueue", message, delay)
        entries = [(message.queue_name, self.sender.entry(message, delay or 0)) for message in messages]
        sent = {
            name: iter(self.sender.send(name, [entry for queue, entry in entries if queue == name]))
            for name in dict.fromkeys(queue for queue, _ in entries)
        }
        errors = [next(sent[queue]) for queue, _ in entries]
        for message, error in zip(messages, errors, strict=True):
            if error is None:
                self.emit_after("enqueue", message, delay)
        return errors

    def give_up(self, message: dramatiq.Message[Any], reason: Reason) -> None:
        """Send a message to the dead-letter queue of its queue, like `bury`."""
        self.bury(message.queue_name, encode(message, self.encoder), reason)

    def bury(self, queue_name: str, body: str, reason: Reason) -> None:
        """Send `body` to the dead-letter queue of `queue_name`, with `reason` in its attributes.

        Raises:
            Exception: As `enqueue` does, or as `oversize` does.
        """
        target, letter = self.queues.dead_letters(queue_name), self.sender.letter(body, reason)
        (error,) = self.sender.bury(target, [letter], wait_in=queue_name)
        if error:
            raise error
