"""Ingest: moves raw JSON from the input queue, standard or FIFO, to the fetch stage.

It receives up to ten messages at a time, and deletes a message only after its hand-over is confirmed. Messages that
cannot be handed over, for example because SQS takes no sends, stay leased and are tried again, and ingest receives
nothing meanwhile. So an outage of any length costs the input queue no receives.

Unacceptable messages go to `<namespace>_ingest_dlq` with a reason, so no message is lost and none is retried forever.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
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
from pipeline.sqs.loop import Clock, Loop, Step
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

#: Seconds that `run` waits for pending deletes and releases when it stops.
CLOSE_TIMEOUT = 2.0

#: Seconds between two looks whether a pause has ended.
PAUSE = 1.0

#: Its name in dead letters, events and logs.
INGEST = "ingest"


@dataclass(eq=False)
class _Held:
    """A received message, with the queue and the entry that it becomes once it has been read."""

    message: MessageTypeDef
    lease: Lease
    queue: str = ""
    entry: SendEntry | None = None


class Ingest:
    """Moves messages from the queue at `queue_url` to the fetch stage, one `step` after the other, until `stop`.

    Args:
        queue_url: The input queue.
        client: Returns the SQS client that receives, extends and deletes.
        sender: Sends to the service's own queues; by default the broker's.
        visibility: How long a received message stays hidden unless its lease is extended, in seconds.
        poll: How long a receive may wait for messages, in seconds.
        clock: The time.
        rng: Draws the jitter of waits.
        loop: Makes the thread that extends and deletes.

    Attributes:
        leases: The leases of the received messages.
        asking_since: When the attempt to receive or hand over that has not succeeded yet began, in monotonic seconds;
            None without such an attempt. It is minus infinity until the first success.
        taken_at: When it last received messages.
        is_paused: Whether it receives nothing for now. Received messages are still handed over.
    """

    def __init__(
        self,
        queue_url: str,
        *,
        client: Callable[[], SQSClient] = aws.sqs,
        sender: Sender | None = None,
        visibility: int | None = None,
        poll: int | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        loop: Callable[[str, Step], Loop] = Loop,
    ) -> None:
        self._queue_url = queue_url
        self._client = client
        self._sender = sender or our_broker().sender
        self._visibility = VISIBILITY_TIMEOUT if visibility is None else visibility
        self._poll = LONG_POLL if poll is None else poll
        self._clock = clock or Clock()
        rng = rng or random.Random()  # noqa: S311 - it draws jitter
        wait = FIFO_DELETE_WAIT if queue_url.endswith(".fifo") else DELETE_WAIT
        self._keeper = loop(f"keep-{INGEST}", lambda: self.leases.step())  # noqa: PLW0108 - it is made next
        self.leases = Leases(
            INGEST, lambda: queue_url, client, self._visibility, self._clock, rng, wait, wake=self._keeper.wake
        )
        self._held: list[_Held] = []
        self._backoff = sqs_backoff(rng)
        self._stopping = threading.Event()
        self.asking_since: float | None = -math.inf
        self.taken_at: datetime | None = None
        self.is_paused = False

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread that extends and deletes is running."""
        return self._keeper.is_alive

    def pause(self, paused: bool) -> None:
        """Receive nothing while `paused`."""
        self.is_paused = paused

    def stop(self) -> None:
        """Finish the current step, make visible what was not handed over, and receive no more."""
        self._stopping.set()

    def run(self) -> None:
        """Step until `stop`, then wait for the last deletes and releases."""
        self._keeper.start()
        while (wait := self.step()) is not None:
            self._stopping.wait(wait)
        deadline = time.monotonic() + CLOSE_TIMEOUT
        while not self.leases.is_idle and time.monotonic() < deadline:
            time.sleep(0.01)
        self._keeper.end()

    def step(self) -> float | None:
        """Hand over what is held, or receive and hand over; returns the seconds until the next step, None at the end.

        It never raises: whatever fails is tried again.
        """
        if self.is_paused and not (self._held or self.is_stopping):
            self.asking_since = None
            return PAUSE
        if self.asking_since is None:
            self.asking_since = self._clock.monotonic()
        try:
            if not (self._held or self.is_stopping or self.leases.blocks_receiving):
                self._receive()
            if not self.is_stopping:
                self._hand_over()
        except Exception as error:  # from boto3 or a parser below it
            logger.warning("ingest: an attempt failed (%s).", describe(error))
            return self._backoff.next()
        if self.is_stopping:
            self.leases.release([held.lease for held in self._held])
            self.leases.close()
            self._held.clear()
            return None
        if self._held or self.leases.blocks_receiving:
            return self._backoff.next()
        self.asking_since = None
        self._backoff.reset()
        return 0.0

    def _receive(self) -> None:
        received = self._client().receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=MAX_BATCH,
            WaitTimeSeconds=self._poll,
            VisibilityTimeout=self._visibility,
            MessageAttributeNames=[REDRIVEN_FROM],
        )
        for message in received.get("Messages", []):
            self.taken_at = datetime.now(UTC)
            if lease := self.leases.add(message["MessageId"], message["ReceiptHandle"]):
                self._held.append(_Held(message, lease))

    def _hand_over(self) -> None:
        """Send what is held, and keep what was not confirmed. Another process has what was lost."""
        self._held = [held for held in self._held if not held.lease.is_lost]
        for held in self._held:
            if held.entry is None:
                self._read(held)
        for queue in dict.fromkeys(held.queue for held in self._held if held.entry):
            ready = [(held, held.entry) for held in self._held if held.entry and held.queue == queue]
            errors = self._sender.send(queue, [entry for _, entry in ready], at_once=True)
            for (held, _), error in zip(ready, errors, strict=True):
                if error is None:
                    self._end(held)
                else:
                    self._refused(held, error)

    def _end(self, held: _Held) -> None:
        self._held.remove(held)
        self.leases.complete(held.lease)
        if held.queue == FETCH.queue():
            count_hand_over()

    def _read(self, held: _Held) -> None:
        """Read a message: it becomes a job or a dead letter, or stays as it is while staging fails."""
        try:
            message = message_of(job_in(held.message))
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


def job_in(message: MessageTypeDef) -> Job:
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
        stage_payload=staging().put,
    )
