"""Ingest: moves raw JSON from the input queue, standard or FIFO, to the fetch stage.

Each message becomes a transfer of `Receiver`, which deletes a message only after its hand-over is confirmed. Messages
that cannot be handed over, for example because SQS takes no sends, stay leased and are tried again, and nothing is
received meanwhile. So an outage of any length costs the input queue no receives.

Unacceptable messages go to `<namespace>_ingest_dlq` with a reason, so no message is lost and none is retried forever.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from dramatiq.errors import BrokerConnectionError

from pipeline.errors import Rejected
from pipeline.events import Event, Outcome, emit
from pipeline.job import Job
from pipeline.job_ids import input_job_id
from pipeline.metrics import count_hand_over
from pipeline.payload import parse_json
from pipeline.producer import REDRIVEN_FROM
from pipeline.settings import get_settings
from pipeline.sqs.leases import DELETE_WAIT, sqs_backoff
from pipeline.sqs.loop import Loop, MakeLoop
from pipeline.sqs.queues import LONG_POLL, VISIBILITY_TIMEOUT
from pipeline.sqs.receiver import CLOSE_TIMEOUT, Receiver, Transfer
from pipeline.sqs.wire import MAX_BATCH, Reason, SendEntry
from pipeline.stages import FETCH, INGEST_DEAD_LETTER_QUEUE
from pipeline.worker.long_bodies import LongBodies
from pipeline.worker.registry import our_broker
from pipeline.worker.stage_actor import message_of

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

    from pipeline.sqs.sender import Sender

#: Seconds that deletes from a FIFO queue wait for the rest of their batch. The next messages of a group wait as long.
FIFO_DELETE_WAIT = 0.05

#: Seconds between two looks whether a pause has ended, or whether SQS takes sends and deletes again.
PAUSE = 1.0

#: Polls at a time. With one, messages that arrive during a hand-over would wait for its end and for the next request.
POLLS = 2

#: Its name in dead letters, events and logs.
INGEST = "ingest"


class Ingest:
    """Moves messages from the queue at `queue_url` to the fetch stage, in `POLLS` threads, from `start` to `join`.

    Args:
        queue_url: The input queue.
        sender: Sends to the service's own queues; by default the broker's.
        visibility: How long a received message stays hidden unless its lease is extended, in seconds.
        poll: How long a receive may wait for messages, in seconds.
        rng: Draws the jitter of waits.
        loop: Makes the threads.

    Attributes:
        receiver: Receives, and hands over.
        taken_at: When it last received messages.
        is_paused: Whether it receives nothing for now. Received messages are still handed over.
    """

    def __init__(
        self,
        queue_url: str,
        *,
        sender: Sender | None = None,
        visibility: int = VISIBILITY_TIMEOUT,
        poll: int = LONG_POLL,
        rng: random.Random | None = None,
        loop: MakeLoop = Loop,
    ) -> None:
        self._sender = sender or our_broker().sender
        self._poll = poll
        self._stopping = threading.Event()
        rng = rng or random.Random()  # noqa: S311 - it draws jitter
        self.receiver = Receiver(
            name=INGEST,
            url=lambda: queue_url,
            sender=self._sender,
            visibility=visibility,
            rng=rng,
            loop=loop,
            receive=self._receive,
            is_stopping=self._stopping.is_set,
            home=FETCH.queue(),
            attributes=[REDRIVEN_FROM],
            threads=POLLS,
            delete_wait=FIFO_DELETE_WAIT if queue_url.endswith(".fifo") else DELETE_WAIT,
            sent=_count,
        )
        self._bodies = LongBodies(self._sender.clock)
        self._backoff = sqs_backoff(rng)
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
        return self.receiver.loops

    @property
    def unanswered_since(self) -> float | None:
        """When polls, hand-overs or deletes began to fail, in monotonic seconds; minus infinity at first.

        None if SQS answers, or in a pause.
        """
        if self.is_paused:
            return None
        if not self._has_succeeded:
            return -math.inf
        return self.receiver.unanswered_since

    @property
    def waits_for(self) -> str:
        """Who leaves its requests unanswered."""
        return self.receiver.waits_for

    def pause(self, paused: bool) -> None:
        """Receive nothing while `paused`."""
        self.is_paused = paused

    def start(self) -> None:
        """Start the threads."""
        self.receiver.start()

    def stop(self) -> None:
        """Receive nothing more."""
        self._stopping.set()
        self.receiver.wake()

    def join(self) -> None:
        """After `stop`, wait for polls that are out, and for the last hand-overs, deletes and releases."""
        for_polls = LONG_POLL + CLOSE_TIMEOUT
        self.receiver.close(for_polls, time.monotonic() + for_polls + CLOSE_TIMEOUT)

    def _receive(self) -> float | None:
        """Receive once and hand over; returns the seconds until the next time."""
        if self.is_paused:
            self.receiver.rest()
            return PAUSE
        if self.receiver.is_failing or self.receiver.is_blocked():
            return PAUSE
        received = self.receiver.poll(MAX_BATCH, self._poll)
        if received is None:
            return self._backoff.next()
        self._backoff.reset()
        self._has_succeeded = True
        if self.is_stopping:
            self.receiver.leases.release([lease for _, lease in received])
            return None
        for message, lease in received:
            self.taken_at = datetime.now(UTC)
            refused = partial(self._rejected, message, "The message cannot be sent")
            self.receiver.transfer(Transfer(lease, partial(self._route, message), refused))
        self.receiver.send_transfers()
        return PAUSE if self.receiver.is_failing else 0.0

    def _route(self, message: MessageTypeDef) -> tuple[str, SendEntry]:
        """Return the queue and entry of the job that a message asks for, or of its dead letter."""
        try:
            job = message_of(job_in(message, self._bodies.put))
            return job.queue_name, self._sender.entry(job)
        except BrokerConnectionError:  # staging fails
            raise
        except Exception as error:
            return self._rejected(message, "The message cannot be handled", error)

    def _rejected(self, message: MessageTypeDef, sentence: str, error: Exception) -> tuple[str, SendEntry]:
        if not isinstance(error, Rejected):
            error = Rejected("bad_message", f"{sentence} ({type(error).__name__}).")
        entry = self._sender.dead_letter(message["Body"], Reason(error.code, error.message, stage=INGEST))
        job_id = input_job_id(message["MessageId"])
        emit(Event(INGEST, job_id, Outcome.REJECTED, code=error.code, message=error.message))
        return INGEST_DEAD_LETTER_QUEUE, entry


def _count(queue: str) -> None:
    if queue == FETCH.queue():
        count_hand_over()


def job_in(message: MessageTypeDef, stage_payload: Callable[[bytes], str]) -> Job:
    """Return the job that an input message asks for.

    A redelivered message gives the same job, and so do all messages of one redriven dead letter.

    Raises:
        Rejected: The message does not contain an acceptable payload.
        Unavailable: Its payload is long, and staging failed.
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
