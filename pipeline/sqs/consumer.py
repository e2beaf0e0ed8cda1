"""The consumer: it receives the messages of one queue, admits them, and hands them to dramatiq's threads."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import dramatiq
import dramatiq_sqs.broker
from dramatiq.logging import get_logger

from pipeline.sqs.in_hand import IDLE_STEP, STOP_STEP
from pipeline.sqs.leases import DELETE_WAIT, Lease, sqs_backoff
from pipeline.sqs.loop import MakeLoop
from pipeline.sqs.queues import LONG_POLL, MAX_RECEIVES, QUARANTINE_AT, Queue
from pipeline.sqs.receiver import CLOSE_TIMEOUT, Received, Receiver, Transfer
from pipeline.sqs.sender import Sender
from pipeline.sqs.settlement import Delete, SQSMessage
from pipeline.sqs.wire import (
    BACKLOG,
    DUE,
    GROUP,
    MAX_BATCH,
    MAX_DUE,
    REASON_ATTRIBUTES,
    WAITING_FOR,
    Reason,
    SendEntry,
    decode,
    with_good_id,
)

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

logger = get_logger(__name__)

#: Seconds to wait after a receive that filled less than half of a batch with messages from a backlog. The next messages
#: share one.
PARTIAL_BATCH_PAUSE = 0.1

#: Transfers that cannot be sent, at which a consumer stops receiving.
MAX_TRANSFERS = 10

#: Seconds for which a quarantine queue lets the others receive after each of its messages.
QUARANTINE_REST = 0.1

#: Seconds for which `close` waits for a poll, beyond the time that SQS may take for it.
POLL_MARGIN = 2.0

#: Seconds until the copy of a quarantined message is received that a thread worked on when the process had to stop. By
#: then most processes have ended.
RESTART_DELAY = 30

#: Message attribute of a quarantined message: the SQS id that it had before.
FIRST_ID = "first_id"


@dataclass(eq=False)
class SQSConsumer(dramatiq_sqs.broker.SQSConsumer):
    """Receives the messages of one queue for one dramatiq worker, and leases up to `prefetch` of them.

    Without a backlog it leases as many as can start at once.

    It receives no bulk messages while live messages are waiting in this process. Prefetched bulk messages would time
    out before they start, and SQS would count those receives against them.

    From a quarantine queue it receives one message, and only while the process has none, so a crash counts against
    exactly the message that ran. Polls of these queues return at once, and waits grow while they are empty.
    """

    queue: Queue  # type: ignore[assignment] # not a boto3 resource
    sender: Sender
    actors: Mapping[str, dramatiq.Actor[..., Any]]
    visibility_timeout: int
    rng: random.Random
    loop: MakeLoop
    prefetch: int  #: the most messages to lease
    threads: int  #: the worker's threads, which all its consumers share

    def __post_init__(self) -> None:
        self._in_hand, self._clock = self.sender.in_hand, self.sender.clock
        name, is_quarantine = self.queue.name, self.queue.is_quarantine
        self._ready: SimpleQueue[SQSMessage | None] = SimpleQueue()  # None wakes the thread that takes messages
        self._closed, self._rest_until, self._full = False, 0.0, 0
        self._backoff = sqs_backoff(self.rng)
        self.receiver = Receiver(
            name=name,
            url=partial(self.sender.queues.url, name),
            sender=self.sender,
            visibility=self.visibility_timeout,
            rng=self.rng,
            loop=self.loop,
            receive=self._receive_if_due,
            is_stopping=lambda: self._is_stopping,
            home=name,
            attributes=[FIRST_ID, WAITING_FOR, *REASON_ATTRIBUTES],
            delete_wait=0.0 if is_quarantine else DELETE_WAIT,
            freed=self._on_freed,
        )
        self.leases, self.step = self.receiver.leases, self.receiver.step
        self._in_hand.consumers.append(self)
        self.receiver.start()

    def __next__(self) -> SQSMessage | None:  # type: ignore[override]
        """Wait for a message, or return None when dramatiq should look whether to go on."""
        return self.take(STOP_STEP if self._is_stopping else IDLE_STEP)

    def take(self, timeout: float = 0.0) -> SQSMessage | None:
        """Return a message that no thread has taken yet, or None after so many seconds."""
        with suppress(Empty):
            return self._ready.get(timeout > 0, timeout)
        return None

    def ack(self, message: SQSMessage) -> None:  # type: ignore[override]
        """End a message: it is deleted only if its confirmed settlement is `Delete`, and otherwise released."""
        self._in_hand.working.pop(message.lease, None)
        if message.lease.is_lost:
            self._in_hand.wake()  # its thread is free
        if isinstance(message.ending, Delete):
            self.leases.delete(message.lease)
        else:
            self.requeue([message], message.ending.after)

    nack = ack  # type: ignore[assignment]

    def requeue(self, messages: Iterable[SQSMessage], after: int = 0) -> None:  # type: ignore[override]
        """Make messages visible again. A stop resends quarantined messages instead, so it does not count as a crash."""
        if self.queue.is_quarantine and self._in_hand.stopping.is_set():
            for message in messages:
                self._quarantine(message, self.queue.name)
            self.receiver.wake()
        else:
            self.leases.release([message.lease for message in messages], after)

    def give_back(self) -> None:
        """Make all messages visible again that dramatiq has not taken."""
        waiting = [self.take() for _ in range(self._ready.qsize())]
        self.requeue(filter(None, waiting))
        self._ready.put(None)
        self.receiver.wake()

    def resend_started(self) -> None:
        """Send a copy of each quarantined message that a thread works on, and delete the message.

        A stop that ends in a kill then does not count as a crash. If the thread ends in time, the copy only repeats it.
        """
        for message in list(self._in_hand.working.values()):
            if self.queue.is_quarantine and message.lease in self.leases:
                self._quarantine(message, self.queue.name, delay=RESTART_DELAY)
        self.receiver.wake()

    def close(self) -> None:
        """Stop receiving, release the messages that dramatiq has not taken, and wait for SQS to confirm it.

        All consumers of a process wait at the same time.
        """
        self._closed = True
        self.give_back()
        began = self._in_hand.stopped_at or self._clock.monotonic()
        for_polls = max(0.0, began + LONG_POLL + POLL_MARGIN - self._clock.monotonic())
        self.receiver.close(for_polls, self._in_hand.close_by(time.monotonic() + for_polls + CLOSE_TIMEOUT))
        with suppress(ValueError):
            self._in_hand.consumers.remove(self)

    @property
    def admitted(self) -> int:
        """The number of leased messages that wait for a thread or have one."""
        return max(0, len(self.leases) - self.receiver.transfers)

    def _receive_if_due(self) -> float | None:
        """Receive once if there is room; returns the seconds until the next step."""
        if (rest := self._rest_until - self._clock.monotonic()) > 0:
            return rest
        if not self.queue.is_quarantine:
            return self._receive(self._room())
        with self._in_hand.alone:
            return self._receive(int(not self._in_hand.has_quarantined))

    def _room(self) -> int:
        """Return how many messages to receive now, or 0.

        Messages that cannot start at once are taken from a backlog only, by a poll that does not wait: otherwise they
        would wait here while other processes are idle. Under a backlog, every thread has work while more than half of
        the prefetch is taken. Filling it for each message that ends would cost one request per message.

        A backlog of one queue occupies all threads, so each of the others may have one message at any time.
        """
        can_receive = not self.receiver.is_blocked() and self._in_hand.may_receive(bulk=self.queue.bulk)
        if not can_receive or self.receiver.transfers >= MAX_TRANSFERS:
            return 0
        if self.has_backlog:
            return self.prefetch - self.admitted if self.admitted <= self.prefetch // 2 else 0
        free = self.threads - self._in_hand.waiting_or_working
        if self._in_hand.is_crowded(bulk=self.queue.bulk):
            free = max(free, 1 - self.admitted)
        return max(0, min(free, self.prefetch - self.admitted))

    @property
    def _is_stopping(self) -> bool:
        return self._closed or self._in_hand.stopping.is_set()

    def _on_freed(self) -> None:
        if self.queue.is_quarantine and self.leases.is_idle:
            self._rest(QUARANTINE_REST)
        self._in_hand.wake()

    def _rest(self, seconds: float) -> float:
        self._rest_until = self._clock.monotonic() + seconds
        return seconds

    def _receive(self, room: int) -> float | None:
        """Receive once, and send transfers at once; returns the seconds until the next step."""
        if self.queue.name in self._in_hand.paused:
            self._full = 0  # messages of other queues need not wait for those that stay in SQS
            self.receiver.rest()
            return None
        if not room or self._in_hand.hanging >= self.threads:  # received messages would wait here forever
            self.receiver.rest()
            return None
        asked = min(room, MAX_BATCH)
        wait = 0 if self.has_backlog or self.queue.is_quarantine else LONG_POLL
        received = self.receiver.poll(asked, wait)
        if received is None or (self.queue.is_quarantine and not received):
            return self._rest(self._backoff.next())
        self._backoff.reset()
        # A full receive of one message may be chance. Only full ones in a row show that more are waiting.
        self._full = self._full + len(received) if len(received) >= asked else 0
        handed_on = self._take_over(received)
        if received and self.receiver.transfers:
            self.receiver.send_transfers()
        is_partial = 0 < len(handed_on) < asked / 2
        come_from_backlog = any(message.options.get(BACKLOG) for message in handed_on)
        return self._rest(PARTIAL_BATCH_PAUSE if is_partial and come_from_backlog else 0.0)

    @property
    def has_backlog(self) -> bool:
        """Whether more messages are waiting in SQS, because the last receives came back full."""
        return self._full > 1 and not self.queue.is_quarantine

    def _take_over(self, received: Sequence[Received]) -> list[SQSMessage]:
        """Admit received messages; returns those for the worker."""
        if self._is_stopping and not self.queue.is_quarantine:
            self.leases.release([lease for _, lease in received])
            return []
        handed_on = [admitted for message, lease in received if (admitted := self._admit(message, lease))]
        for admitted in handed_on:
            self._ready.put(admitted)
        if self._is_stopping:
            self.give_back()
        return handed_on

    def _admit(self, received: MessageTypeDef, lease: Lease) -> SQSMessage | None:
        """Return a message that the worker may process, or note a transfer of it."""
        body, name, now = received["Body"], self.queue.name, self._clock.time()
        attributes: Any = received.get("MessageAttributes", {})
        target = attributes.get(WAITING_FOR, {}).get("StringValue", "")
        if self.sender.queues.may_wait(target, name):
            values = [(key, attributes.get(key, {}).get("StringValue")) for key in REASON_ATTRIBUTES]
            reason_of = tuple((key, value) for key, value in values if value)  # a sender may have set other types
            self._transfer(lease, target, SendEntry, body, attributes=reason_of)
            return None
        try:
            message = self._decoded(received, lease, now)
        except ValueError as error:
            logger.error("%s: received a message that is not for this queue: %s.", name, error)
            reason = Reason("bad_message", f"The message is not for this queue: {error}.", stage=name)
            self._transfer(lease, self.queue.dead_letters, self.sender.dead_letter, body, reason)
            return None
        quarantine = self.sender.queues.quarantine.get(name)
        is_early = message.options.get(DUE, 0) > now * 1000
        if is_early and self.sender.is_hurried(message.original):
            del message.options[DUE]  # a dead letter of it must not wait when it is redriven
            is_early = False
        if is_early:
            self._transfer(lease, name, self.sender.hop, message.original, body)
        elif quarantine and message.receives >= QUARANTINE_AT:
            logger.warning("%s was received %d times. It moves to quarantine.", message, message.receives)
            self._quarantine(message, quarantine)
        elif message.receives >= MAX_RECEIVES and not self.queue.is_quarantine:
            sentence = "The message was received again and again, and no worker finished it."
            reason = Reason("worker_crashed", sentence, stage=name, attempts=message.receives)
            self._transfer(lease, self.queue.dead_letters, self.sender.dead_letter, body, reason)
        else:
            return message
        return None

    def _decoded(self, received: MessageTypeDef, lease: Lease, now: float) -> SQSMessage:
        """Return a received message, or raise ValueError if it is not for this queue."""
        queues, name, sqs_id = self.sender.queues, self.queue.name, received["MessageId"]
        if self.queue.is_quarantine:  # on other queues a sender could choose it
            attributes: Any = received.get("MessageAttributes", {})
            sqs_id = attributes.get(FIRST_ID, {}).get("StringValue") or sqs_id
        message = with_good_id(decode(received["Body"], self.sender.encoder), sqs_id)
        if message.options.get(DUE, 0) > (now + MAX_DUE) * 1000:
            raise ValueError(f"it is due in more than {MAX_DUE // 86400} days")
        home, actor = message.queue_name, self.actors.get(message.actor_name)
        if home not in queues or queues[home].dead_letters != self.queue.dead_letters:
            raise ValueError(f"it names the queue {home[:80]!r}")
        if home != name and not self.queue.is_quarantine:
            message = message.copy(queue_name=name)  # a dead letter may be redriven to the other lane
        if actor is None or queues[actor.queue_name].dead_letters != self.queue.dead_letters:
            raise ValueError(f"the actor {message.actor_name[:80]!r} does not take messages of this queue")
        return SQSMessage(
            message,
            lease,
            queue_name=name,
            body=received["Body"],
            receives=int(received.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
            sqs_id=sqs_id,
            is_quarantined=self.queue.is_quarantine,
            is_argument=getattr(actor, "takes_message", False),
        )

    def _transfer(self, lease: Lease, target: str, entry: Callable[..., SendEntry], *args: Any, **more: Any) -> None:
        self.receiver.transfer(Transfer(lease, lambda: (target, entry(*args, **more))))

    def _quarantine(self, message: SQSMessage, target: str, delay: int = 0) -> None:
        attributes = ((FIRST_ID, message.sqs_id),)
        entry = SendEntry(message.body, delay, group=message.options.get(GROUP), attributes=attributes)
        if entry.is_too_large:
            entry = replace(entry, attributes=())
        self._transfer(message.lease, target, lambda: entry)
