"""Ingest: moves raw JSON from the input queue, standard or FIFO, to the fetch stage.

It receives up to ten messages at a time, and deletes a message only after its hand-over is confirmed. While one batch
is handed over, another can be received. Messages that cannot be handed over, for example because SQS takes no sends,
stay leased and are tried again, and nothing is received meanwhile. So an outage of any length costs the input queue no
receives.

Unacceptable messages go to `<namespace>_ingest_dlq` with a reason, so no message is lost and none is retried forever.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from dramatiq.errors import BrokerConnectionError

from pipeline.clients import aws
from pipeline.errors import Rejected, RetryableError
from pipeline.events import Event, Outcome, emit
from pipeline.job import Job, input_job_id
from pipeline.metrics import count_hand_over
from pipeline.payload import parse_json
from pipeline.producer import REDRIVEN_FROM
from pipeline.settings import get_settings
from pipeline.sqs.leases import DELETE_WAIT, Lease, Leases, sqs_backoff
from pipeline.sqs.loop import Clock, Loop, MakeLoop
from pipeline.sqs.queues import LONG_POLL, VISIBILITY_TIMEOUT
from pipeline.sqs.wire import MAX_BATCH, Reason, SendEntry, describe
from pipeline.stages import FETCH, INGEST_DEAD_LETTER_QUEUE
from pipeline.storage.staging import staging
from pipeline.worker.registry import our_broker
from pipeline.worker.stage_actor import message_of

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

    from pipeline.sqs.sender import Sender

logger = logging.getLogger(__name__)

#: Seconds that deletes from a FIFO queue wait for the rest of their batch. The next messages of a group wait as long.
FIFO_DELETE_WAIT = 0.05

#: Seconds that `run` waits at a stop: for polls that are out, and then for hand-overs, deletes and releases.
CLOSE_TIMEOUT = LONG_POLL + 4.0

#: Seconds between two looks whether a pause has ended.
PAUSE = 1.0

#: Batches at a time. With one, messages that arrive during a hand-over would wait for its end and for the next request.
BATCHES = 2

#: Its name in dead letters, events and logs.
INGEST = "ingest"


@dataclass(eq=False)
class _Held:
    """A received message, with the queue and the entry that it becomes once it has been read."""

    message: MessageTypeDef
    lease: Lease
    queue: str = ""
    entry: SendEntry | None = None


class _Batch:
    """The messages of one receive until they are handed over."""

    def __init__(self, rng: random.Random) -> None:
        self.held: list[_Held] = []
        self.backoff = sqs_backoff(rng)
        self.asking_since: float | None = None
        self.has_ended = False


class Ingest:
    """Moves messages from the queue at `queue_url` to the fetch stage, in `BATCHES` threads, from `start` to `stop`.

    Args:
        queue_url: The input queue.
        client: Returns the SQS client that receives, extends and deletes.
        sender: Sends to the service's own queues; by default the broker's.
        visibility: How long a received message stays hidden unless its lease is extended, in seconds.
        poll: How long a receive may wait for messages, in seconds.
        clock: The time.
        rng: Draws the jitter of waits.
        loop: Makes the threads.

    Attributes:
        leases: The leases of the received messages.
        taken_at: When it last received messages.
        is_paused: Whether it receives nothing for now. Received messages are still handed over.
    """

    def __init__(
        self,
        queue_url: str,
        *,
        client: Callable[[], SQSClient] = aws.sqs,
        sender: Sender | None = None,
        visibility: int = VISIBILITY_TIMEOUT,
        poll: int | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        loop: MakeLoop = Loop,
    ) -> None:
        self._queue_url = queue_url
        self._client = client
        self._sender = sender or our_broker().sender
        self._visibility = visibility
        self._poll = LONG_POLL if poll is None else poll
        self._clock = clock or Clock()
        rng = rng or random.Random()  # noqa: S311 - it draws jitter
        wait = FIFO_DELETE_WAIT if queue_url.endswith(".fifo") else DELETE_WAIT
        self._keeper = loop(f"keep-{INGEST}", lambda: self.leases.step(), self._clock)  # noqa: PLW0108 - it is made next
        self.leases = Leases(
            INGEST, lambda: queue_url, client, self._visibility, self._clock, rng, wait, wake=self._keeper.wake
        )
        self._batches = [_Batch(rng) for _ in range(BATCHES)]
        self._movers = [loop(f"receive-{INGEST}", partial(self.step, batch), self._clock) for batch in self._batches]
        self._stopping = threading.Event()
        self._has_succeeded = False
        self.taken_at: datetime | None = None
        self.is_paused = False

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def loops(self) -> Sequence[Loop]:
        """Its threads."""
        return [self._keeper, *self._movers]

    @property
    def asking_since(self) -> float | None:
        """When the oldest attempt to receive or hand over that has not succeeded yet began, in monotonic seconds.

        None without such an attempt or in a pause, and minus infinity until the first success.
        """
        if not (self._has_succeeded or self.is_paused):
            return -math.inf
        return min((since for batch in self._batches if (since := batch.asking_since) is not None), default=None)

    def pause(self, paused: bool) -> None:
        """Receive nothing while `paused`."""
        self.is_paused = paused

    def stop(self) -> None:
        """Receive nothing more, and make visible what was not handed over."""
        self._stopping.set()
        for mover in self._movers:
            mover.wake()

    def start(self) -> None:
        """Start the threads."""
        for each in self.loops:
            each.start()

    def join(self) -> None:
        """After `stop`, wait for the steps in progress, polls included, and for the last deletes and releases."""
        self.leases.close()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        while not self._has_ended and time.monotonic() < deadline:
            time.sleep(0.01)
        for each in self.loops:
            each.end()

    def step(self, batch: _Batch | None = None) -> float | None:
        """Hand over a batch, or receive and hand over; returns the seconds until the next step, None at the end.

        It never raises: whatever fails is tried again.
        """
        batch = batch or self._batches[0]
        if self.is_paused and not (batch.held or self.is_stopping):
            batch.asking_since = None
            return PAUSE
        if batch.asking_since is None:
            batch.asking_since = self._clock.monotonic()
        try:
            if not (batch.held or self.is_stopping or self._is_in_trouble):
                self._receive(batch)
            if not self.is_stopping:
                self._hand_over(batch)
        except Exception as error:  # from boto3 or a parser below it
            logger.warning("ingest: an attempt failed (%s).", describe(error))
            return batch.backoff.next()
        if self.is_stopping:
            self.leases.release([held.lease for held in batch.held])
            self.leases.close()
            batch.held.clear()
            batch.has_ended = True
            return None
        if batch.held or self.leases.blocks_receiving:
            return batch.backoff.next()
        if self._is_in_trouble:  # the other batch is
            batch.asking_since = None
            return batch.backoff.next()
        batch.asking_since, self._has_succeeded = None, True
        batch.backoff.reset()
        return 0.0

    @property
    def _has_ended(self) -> bool:
        return self.leases.is_idle and all(batch.has_ended for batch in self._batches)

    @property
    def _is_in_trouble(self) -> bool:
        """Whether to receive nothing: the last hand-over of a batch failed, or SQS refuses deletes."""
        return self.leases.blocks_receiving or any(each.held and each.backoff.wait for each in self._batches)

    def _receive(self, batch: _Batch) -> None:
        received = self._client().receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=MAX_BATCH,
            WaitTimeSeconds=self._poll,
            VisibilityTimeout=self._visibility,
            MessageAttributeNames=[REDRIVEN_FROM],
        )
        batch.backoff.reset()
        for message in received.get("Messages", []):
            self.taken_at = datetime.now(UTC)
            if lease := self.leases.add(message["MessageId"], message["ReceiptHandle"]):
                batch.held.append(_Held(message, lease))

    def _hand_over(self, batch: _Batch) -> None:
        """Send what is held, and keep what was not confirmed. Another process has what was lost."""
        batch.held = [held for held in batch.held if not held.lease.is_lost]
        stage_payload = _until_it_fails(staging().put)
        for held in batch.held:
            if held.entry is None:
                self._read(held, stage_payload)
        for queue in dict.fromkeys(held.queue for held in batch.held if held.entry):
            ready = [(held, held.entry) for held in batch.held if held.entry and held.queue == queue]
            errors = self._send(queue, [entry for _, entry in ready])
            for (held, _), error in zip(ready, errors, strict=True):
                if error is None:
                    batch.held.remove(held)
                    self._end(held)
                else:
                    self._refused(held, error)

    def _send(self, queue: str, entries: Sequence[SendEntry]) -> list[Exception | None]:
        if queue == INGEST_DEAD_LETTER_QUEUE:
            return self._sender.bury(queue, entries, wait_in=FETCH.queue())
        return self._sender.send(queue, entries, at_once=True)

    def _end(self, held: _Held) -> None:
        self.leases.complete(held.lease)
        if held.queue == FETCH.queue():
            count_hand_over()

    def _read(self, held: _Held, stage_payload: Callable[[bytes], str]) -> None:
        """Read a message: it becomes a job or a dead letter, or stays as it is while staging fails."""
        try:
            message = message_of(job_in(held.message, stage_payload))
            held.queue, held.entry = message.queue_name, self._sender.entry(message)
        except RetryableError as error:
            logger.warning("ingest: message %s is tried again: %s", held.message["MessageId"], error)
        except Rejected as error:
            self._reject(held, error)
        except Exception as error:
            self._reject(held, Rejected("bad_message", f"The message cannot be handled ({type(error).__name__})."))

    def _reject(self, held: _Held, error: Rejected) -> None:
        """Make a message a dead letter, unless its body is too large to stay in it and staging fails."""
        try:
            entry = self._sender.letter(held.message["Body"], Reason(error.code, error.message, stage=INGEST))
        except RetryableError as failure:
            logger.warning("ingest: message %s is tried again: %s", held.message["MessageId"], failure)
            return
        held.queue, held.entry = INGEST_DEAD_LETTER_QUEUE, entry
        job_id = input_job_id(held.message["MessageId"])
        emit(Event(INGEST, job_id, Outcome.REJECTED, code=error.code, message=error.message))

    def _refused(self, held: _Held, error: Exception) -> None:
        """Keep a message that was not sent. If no retry can help, it becomes a dead letter."""
        logger.warning("ingest: message %s is tried again: %s", held.message["MessageId"], describe(error))
        if not isinstance(error, BrokerConnectionError) and held.queue != INGEST_DEAD_LETTER_QUEUE:
            self._reject(held, Rejected("bad_message", f"The message cannot be sent ({type(error).__name__})."))


def _until_it_fails(put: Callable[[bytes], str]) -> Callable[[bytes], str]:
    """Return `put`, which after its first failure fails at once: each may take a minute, and leases a message."""
    failures: list[RetryableError] = []

    def put_or_fail(data: bytes) -> str:
        if failures:
            raise failures[0]
        try:
            return put(data)
        except RetryableError as error:
            failures.append(error)
            raise

    return put_or_fail


def job_in(message: MessageTypeDef, stage_payload: Callable[[bytes], str]) -> Job:
    """Return the job that an input message asks for.

    A redelivered message gives the same job, and so do all messages of one redriven letter.

    Raises:
        Rejected: The message does not contain an acceptable payload.
        RetryableError: Its payload is long, and staging failed.
    """
    try:
        payload: Any = parse_json(message["Body"])
    except (ValueError, RecursionError):
        raise Rejected("not_json", "The message is not valid JSON.") from None
    attributes: Any = message.get("MessageAttributes", {})
    letter = attributes.get(REDRIVEN_FROM, {}).get("StringValue")
    return Job.accept(
        payload,
        job_id=input_job_id(letter or message["MessageId"]),
        settings=get_settings(),
        stage_payload=stage_payload,
    )
