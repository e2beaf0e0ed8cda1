"""The consumer: it receives the messages of one queue, admits them, and hands them to dramatiq's threads."""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import dramatiq
from dramatiq.encoder import Encoder
from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger

from pipeline.errors import RetryableError
from pipeline.sqs.admission import Admission, admit
from pipeline.sqs.in_hand import InHand
from pipeline.sqs.leases import DELETE_WAIT, Lease, LeasedQueue, Leases, sqs_backoff
from pipeline.sqs.loop import Clock, Loop
from pipeline.sqs.message import SQSMessage
from pipeline.sqs.queues import LONG_POLL, Queue, Queues
from pipeline.sqs.sender import Sender
from pipeline.sqs.settlement import Delete
from pipeline.sqs.wire import GROUP, MAX_BATCH, Reason, SendEntry, check_due, decode, describe, with_good_id

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

#: Seconds to wait after a receive that fills less than half of a batch, while the process is busy. Messages that arrive
#: quickly then share a request.
PARTIAL_BATCH_PAUSE = 0.1

#: Seconds that `close` waits for pending deletes. Messages whose delete is not confirmed are redelivered.
CLOSE_TIMEOUT = 2.0

#: Message attribute of a quarantined message: the SQS id that it had before.
FIRST_ID = "first_id"


@dataclass(eq=False)
class Transfer:
    """A received message that goes to another queue, or again to its own, before it is deleted.

    Attributes:
        lease: Its lease.
        target: The queue that it goes to.
        entry: Returns what is sent.
    """

    lease: Lease
    target: str
    entry: Callable[[], SendEntry]


class Parts(Protocol):
    """The parts of a broker that its consumers use."""

    actors: dict[str, Any]
    queues: Queues
    sender: Sender
    encoder: Encoder
    in_hand: InHand
    visibility: int
    clock: Clock
    rng: random.Random
    loop: Callable[[str, Callable[[], float | None]], Loop]

    @property
    def client(self) -> SQSClient: ...


class SQSConsumer(dramatiq.Consumer):
    """Receives the messages of one queue for one dramatiq worker, and leases up to `prefetch` of them.

    A consumer of a bulk queue does not receive while live messages are waiting in this process. Prefetched bulk
    messages would time out before they start, and SQS would count those receives against them.

    Attributes:
        queue: The queue.
        leases: The leases on its messages.
        asking_since: When the request that SQS has not answered yet began, in monotonic seconds; None if there is none.
    """

    def __init__(self, broker: Parts, queue_: Queue, *, prefetch: int) -> None:
        self.logger = get_logger(__name__, type(self))
        self.queue = queue_
        self.prefetch = prefetch
        self._broker = broker
        self._in_hand = broker.in_hand
        self._clock = broker.clock
        name = queue_.name
        self._receiver = broker.loop(f"receive-{name}", self.step)
        self._keeper = broker.loop(f"keep-{name}", lambda: self.leases.step())  # noqa: PLW0108 - it is made next
        leased = LeasedQueue(
            name,
            partial(broker.queues.url, name),
            lambda: broker.client,
            broker.visibility,
            delete_wait=0.0 if queue_.is_quarantine else DELETE_WAIT,
        )
        self.leases = Leases(leased, broker.clock, broker.rng, wake=self._keeper.wake, freed=self._on_freed)
        self._ready: queue.SimpleQueue[SQSMessage] = queue.SimpleQueue()
        self._new_transfers: queue.SimpleQueue[Transfer] = queue.SimpleQueue()
        self._transfers: list[Transfer] = []  # of the thread that receives
        self._closed = False
        self._backoff = sqs_backoff(broker.rng)
        self._rest_until = 0.0
        self.asking_since: float | None = self._clock.monotonic()
        self._in_hand.consumers.append(self)
        if queue_.is_quarantine:
            self._in_hand.solo.join(name)
        self._keeper.start()
        self._receiver.start()

    def __next__(self) -> SQSMessage | None:
        try:
            return self._ready.get(timeout=0.25)
        except queue.Empty:
            return None

    def take(self) -> SQSMessage | None:
        """Return a message that no thread has taken yet, or None, without waiting."""
        try:
            return self._ready.get_nowait()
        except queue.Empty:
            return None

    def ack(self, message: SQSMessage) -> None:  # type: ignore[override]
        """End a message: it is deleted only if a settlement was confirmed that says so, and otherwise released."""
        self._in_hand.end(message.lease)
        if isinstance(message.ending, Delete):
            self.leases.complete(message.lease)
        else:
            self._release([message], message.ending.after)

    nack = ack  # type: ignore[assignment]

    def requeue(self, messages: Iterable[SQSMessage]) -> None:  # type: ignore[override]
        """Make messages visible again at once."""
        self._release(list(messages), 0)

    def give_back(self) -> None:
        """Make visible again all messages that dramatiq has not taken."""
        unstarted = []
        while (message := self.take()) is not None:
            unstarted.append(message)
        self.requeue(unstarted)
        self.wake()

    def wake(self) -> None:
        """Check again whether there is room to receive."""
        self._receiver.wake()

    @property
    def is_broken(self) -> bool:
        """Whether one of its threads died although the process is not stopping."""
        return not (self._in_hand.stopping.is_set() or (self._receiver.is_alive and self._keeper.is_alive))

    @property
    def last_lease_check(self) -> float:
        """When the thread that extends and deletes last began, in monotonic seconds."""
        return self._keeper.last_step

    def close(self) -> None:
        """Stop receiving, release what dramatiq has not taken, and wait shortly for pending deletes."""
        self._closed = True
        self.give_back()
        self.leases.close()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        while not self.leases.is_idle and self._keeper.is_alive and time.monotonic() < deadline:
            time.sleep(0.01)
        self._receiver.end()
        self._keeper.end()
        if self in self._in_hand.consumers:
            self._in_hand.consumers.remove(self)
            if self.queue.is_quarantine:
                self._in_hand.solo.leave(self.queue.name)

    def step(self) -> float | None:
        """Send what is to be sent elsewhere, then receive once if there is room.

        Returns:
            Seconds until the next step, or None if there is nothing to do until `wake`.
        """
        now = self._clock.monotonic()
        if self._is_stopping:
            self._send_transfers()
            self.leases.release([transfer.lease for transfer in self._transfers])
            self._transfers = []
            return None
        if now < self._rest_until:
            return self._rest_until - now
        if not self._send_transfers():
            return self._rest(self._backoff.next())
        room = self._room()
        return self._rest(self._receive(room)) if room else None

    def _room(self) -> int:
        """Return how many messages to receive now, or 0.

        dramatiq prefetches two messages per thread, so every thread has work while more than half of the places are
        taken. Filling each place as it becomes free would cost one request per message.
        """
        if self.queue.name in self._in_hand.paused:
            return 0
        if self.queue.is_quarantine:
            return int(self._in_hand.solo.take(self.queue.name) and self.leases.is_idle)
        has_to_wait = self.leases.blocks_receiving or (self.queue.bulk and self._in_hand.has_live_waiting)
        return self.prefetch - len(self.leases) if self._has_room and not has_to_wait else 0

    @property
    def _is_stopping(self) -> bool:
        return self._closed or self._in_hand.stopping.is_set()

    @property
    def _has_room(self) -> bool:
        return len(self.leases) <= self.prefetch // 2

    def _end_turn(self, *, found: bool) -> None:
        if self.queue.is_quarantine:
            self._in_hand.solo.give_back(self.queue.name, found=found)

    def _on_freed(self) -> None:
        if self.queue.is_quarantine:
            if self.leases.is_idle:
                self._end_turn(found=True)
        elif self._has_room:
            self.wake()

    def _rest(self, seconds: float) -> float:
        self._rest_until = self._clock.monotonic() + seconds
        return seconds

    def _receive(self, room: int) -> float:
        """Receive once, and send at once what goes elsewhere; returns the seconds to pause."""
        received = self._ask(room)
        if received is None:
            self._end_turn(found=False)
            return self._backoff.next()
        self._backoff.reset()
        admitted = self._lease(received)
        if not admitted:
            self._end_turn(found=bool(received))
        if not self._send_transfers():
            return self._backoff.next()
        asked = min(room, MAX_BATCH)
        self._in_hand.pace.received(admitted, asked)
        return PARTIAL_BATCH_PAUSE if 0 < admitted < asked / 2 and self._in_hand.pace.is_busy else 0.0

    def _ask(self, room: int) -> Sequence[MessageTypeDef] | None:
        """Make one request; returns the messages, or None if it failed."""
        self.asking_since = self.asking_since or self._clock.monotonic()
        try:
            response = self._broker.client.receive_message(
                QueueUrl=self._broker.queues.url(self.queue.name),
                MaxNumberOfMessages=min(room, MAX_BATCH),
                WaitTimeSeconds=self._in_hand.solo.poll if self.queue.is_quarantine else LONG_POLL,
                VisibilityTimeout=self._broker.visibility,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
                MessageAttributeNames=[FIRST_ID],
            )
        except Exception as error:  # from boto3 or a parser below it; this thread must survive
            self.logger.warning("%s: cannot receive (%s). It is tried again soon.", self.queue.name, describe(error))
            return None
        self.asking_since = None
        return response.get("Messages", [])

    def _lease(self, received: Sequence[MessageTypeDef]) -> int:
        """Lease received messages and admit them; returns how many this process did not have already."""
        leased = [
            (message, lease)
            for message in received
            if (lease := self.leases.add(message["MessageId"], message["ReceiptHandle"]))
        ]
        if self._is_stopping:
            self.leases.release([lease for _, lease in leased])
            if self._closed:  # the thread that would do it may have ended
                self.leases.step()
        else:
            for message, lease in leased:
                self._admit(message, lease)
        return len(leased)

    def _admit(self, received: MessageTypeDef, lease: Lease) -> None:
        """Hand a message to the worker, or note what is to be sent instead."""
        body, sender, name = received["Body"], self._broker.sender, self.queue.name
        try:
            message = self._decoded(received, lease)
        except ValueError as error:
            self.logger.error("%s: received a message that is not for this queue: %s.", name, error)
            self._bury(lease, body, Reason("bad_message", f"The message is not for this queue: {error}.", stage=name))
            return
        match admit(self.queue, message.original, message.receives, self._clock.time()):
            case Admission.HOP:
                self._new_transfers.put(Transfer(lease, name, partial(sender.hop, message.original)))
            case Admission.QUARANTINE:
                self.logger.warning("%s was received %d times. It moves to quarantine.", message, message.receives)
                self._quarantine(message, str(self.queue.quarantine))
            case Admission.BURY:
                sentence = "The message was received again and again, and no worker finished it."
                self._bury(lease, body, Reason("worker_crashed", sentence, stage=name, attempts=message.receives))
            case admission:
                message.is_given_up = admission is Admission.GIVE_UP
                self._ready.put(message)

    def _decoded(self, received: MessageTypeDef, lease: Lease) -> SQSMessage:
        queues = self._broker.queues
        message = with_good_id(decode(received["Body"], self._broker.encoder), received["MessageId"])
        check_due(message, self._clock.time())
        home = message.queue_name
        if home not in queues or queues[home].dead_letters != self.queue.dead_letters:
            raise ValueError(f"it names the queue {home[:80]!r}")
        if not self.queue.is_quarantine:
            message = message.copy(queue_name=self.queue.name)  # a dead letter may be redriven to the other lane
        if message.actor_name not in self._broker.actors:
            raise ValueError(f"no actor is called {message.actor_name[:80]!r}")
        return SQSMessage(
            message,
            lease,
            queue_name=self.queue.name,
            body=received["Body"],
            receives=int(received.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
            sqs_id=_first_id(received) or received["MessageId"],
            is_quarantined=self.queue.is_quarantine,
        )

    def _bury(self, lease: Lease, body: str, reason: Reason) -> None:
        letter = partial(self._broker.sender.letter, body, reason)
        self._new_transfers.put(Transfer(lease, self.queue.dead_letters, letter))

    def _quarantine(self, message: SQSMessage, target: str) -> None:
        group = message.options.get(GROUP)
        entry = SendEntry(message.body, group=group, attributes=((FIRST_ID, message.sqs_id),))
        if entry.is_too_large:
            entry = SendEntry(message.body, group=group)
        self._new_transfers.put(Transfer(message.lease, target, lambda: entry))

    def _release(self, messages: Sequence[SQSMessage], after: int) -> None:
        """Make messages visible again. In quarantine a stop sends them again instead, so that it counts as no crash."""
        if self.queue.is_quarantine and self._in_hand.stopping.is_set():
            for message in messages:
                if message.lease in self.leases:
                    self._quarantine(message, self.queue.name)
            self.wake()
        else:
            self.leases.release([message.lease for message in messages], after)

    def _send_transfers(self) -> bool:
        """Send the transfers, those to the same queue together; returns whether none is left to be tried again."""
        while not self._new_transfers.empty():
            self._transfers.append(self._new_transfers.get())
        transfers = [transfer for transfer in self._transfers if transfer.lease in self.leases]
        left: list[Transfer] = []
        for target in dict.fromkeys(transfer.target for transfer in transfers):
            here = [transfer for transfer in transfers if transfer.target == target]
            for transfer, error in zip(here, self._send(target, here), strict=True):
                if error is None:
                    # A crash before the delete would move it once more, and each copy would crash workers of its own.
                    self.leases.complete(transfer.lease, at_once=target != self.queue.name)
                elif isinstance(error, BrokerConnectionError | RetryableError):
                    self.logger.warning("%s: %s It is tried again soon.", self.queue.name, error)
                    left.append(transfer)
                else:
                    self.logger.error("%s: a message cannot be sent (%s).", self.queue.name, describe(error))
                    self.leases.release([transfer.lease], self._broker.visibility)
        self._transfers = left
        return not left

    def _send(self, target: str, transfers: Sequence[Transfer]) -> list[Exception | None]:
        try:
            entries = [transfer.entry() for transfer in transfers]
        except Exception as error:  # the store of long bodies failed
            return [error] * len(transfers)
        return self._broker.sender.send_at_once(target, entries)


def _first_id(received: MessageTypeDef) -> str | None:
    """Return the SQS id that a quarantined message had before."""
    attribute = received.get("MessageAttributes", {}).get(FIRST_ID)
    return attribute.get("StringValue") if attribute else None
