"""The receiving half of the queue layer: dramatiq-sqs's consumer made safe and cheap by subclassing it.

What differs from upstream, and why:

- a received message is hidden for 45 s, and extended in batches while it is held: a killed worker's messages are soon
  taken over (upstream: hidden for 12 h, and never extended);
- long polls of 20 s in a thread of their own, so that a consumer stops at once (upstream: polls of 1 s, and a sleep);
- deletes are batched; an acknowledged message gives its place back at once, whatever becomes of its delete (upstream:
  one request each, and one that fails leaks its place until nothing is received any more);
- trouble with SQS is waited out here (upstream: raises into dramatiq's threads);
- what is no message for this queue becomes a dead letter with its reason (upstream: is logged whole and comes back,
  or ends the thread that meets it);
- a message that may be what kills its workers runs alone, and is given up in the end (upstream: comes back for ever);
- a message can be *released*: neither done nor failed, but left to whoever receives it next.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import dramatiq
import dramatiq_sqs.broker as upstream
from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger

from pipeline.backoff import Backoff
from pipeline.errors import RetryableError
from pipeline.sqs.leases import FIRST_BACKOFF, LAST_BACKOFF, Lease, LeasedQueue, Leases
from pipeline.sqs.message import SQSMessage
from pipeline.sqs.wire import COPY_OF, DUE, MAX_BATCH, SUSPECT, Reason, decode, describe, encode

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

Step = Callable[[], object]

#: Seconds of the longest poll SQS allows.
LONG_POLL = 20

#: Seconds until the next receive where one brought less than half of what there is room for: while messages trickle in,
#: each would else cost a request of its own. One that comes alone is received at once.
PARTIAL_BATCH_PAUSE = 0.1

#: At this receive a message is suspected of killing its workers. It is received once where nothing goes wrong; each
#: worker that ends while it holds it costs one more.
SUSPECT_AT_RECEIVE = 4

#: Seconds until a suspect is looked at again that found another one before it.
SUSPECT_DELAY = 5


class Trials(Protocol):
    """Remembers, for all workers, how often a suspect was begun alone and did not end."""

    def count(self, message_id: str) -> int:
        """How often."""

    def record(self, message_id: str, count: int) -> None:
        """Remember it; 0 forgets the message."""


class ReceivingBroker(Protocol):
    """The process that a consumer receives for, as far as consumers share its state: the broker."""

    actors: dict[str, Any]
    consumers: set[SQSConsumer]
    dead_letter_queue: Callable[[str], str]
    visibility: int
    clock: Callable[[], float]
    trials: Trials
    alone: SQSMessage | None

    @property
    def client(self) -> SQSClient: ...

    @property
    def has_single_lease(self) -> bool: ...

    @property
    def live_waits(self) -> bool: ...

    def queue_url(self, queue_name: str) -> str: ...

    def bury(self, queue_name: str, body: str, reason: Reason) -> None: ...

    def hop(self, message: dramatiq.Message[Any]) -> None: ...

    def send_copy(self, message: dramatiq.Message[Any], *, delay: int, **options: Any) -> None: ...

    def begin_alone(self, message: SQSMessage) -> bool: ...

    def end_alone(self, message: SQSMessage) -> None: ...


class SQSConsumer(upstream.SQSConsumer):
    """Receives the messages of one queue for one dramatiq worker, and holds up to `prefetch` of them.

    One of a `bulk` queue receives nothing while other messages wait in this process: what it held and the worker's
    threads did not begin would in the end be received again, for nobody's fault.
    """

    def __init__(self, broker: ReceivingBroker, queue_name: str, *, prefetch: int, bulk: bool = False) -> None:
        self.logger = get_logger(__name__, type(self))
        self.broker = broker
        self.queue_name = queue_name
        self.prefetch = prefetch
        self.bulk = bulk
        self.leases = Leases(
            LeasedQueue(queue_name, partial(broker.queue_url, queue_name), lambda: broker.client, broker.visibility)
        )
        self._ready: queue.SimpleQueue[SQSMessage] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._suspect: SQSMessage | None = None  # waits until it can run alone
        self._stopping = threading.Event()  # nothing more is received
        self.asking_since: float | None = time.monotonic()  #: since when SQS owes an answer; None: nothing was asked
        self._thread = threading.Thread(target=self._receive, name=f"receive-{queue_name}", daemon=True)
        broker.consumers.add(self)
        self._thread.start()

    def __next__(self) -> SQSMessage | None:  # type: ignore[override]
        if suspect := self._pop_suspect(lambda suspect: suspect.lease.lost):
            self.broker.end_alone(suspect)  # somebody else has it
        elif suspect := self._pop_suspect(lambda _: self.broker.has_single_lease):
            self._begin_trial(suspect)
            return suspect
        try:
            return self._ready.get(timeout=0.25)
        except queue.Empty:
            return None

    def ack(self, message: SQSMessage) -> None:  # type: ignore[override]
        """Delete the message soon; or make it visible again, if it was released."""
        if message.release_after is None:
            self.leases.done(message.lease)
        else:
            self.leases.give_back([message.lease], message.release_after)
        self._end_trial(message)

    def nack(self, message: SQSMessage) -> None:  # type: ignore[override]
        """Make the message a dead letter with its reason, then delete it."""
        reason = message.reason or Reason("failed", "The message was rejected by dramatiq.", stage=self.queue_name)
        if not self._retry_until_done(lambda: self.broker.bury(self.queue_name, encode(message.original), reason)):
            message.release()
        self.ack(message)

    def requeue(self, messages: Iterable[SQSMessage]) -> None:  # type: ignore[override]
        """Give messages back at once."""
        messages = list(messages)
        for message in messages:
            message.release()
            self._end_trial(message)
        self.leases.give_back([message.lease for message in messages], 0)

    def stop(self) -> None:
        """Receive nothing more, and give back what no worker thread has begun."""
        self._stopping.set()
        self.wake()
        self._requeue_unstarted()

    def wake(self) -> None:
        """Look again at whether there is room to receive."""
        with self.leases.changed:
            self.leases.changed.notify_all()

    @property
    def is_broken(self) -> bool:
        """Whether a thread that it cannot do without has ended, though nobody told it to stop."""
        return not (self._stopping.is_set() or (self._thread.is_alive() and self.leases.is_running))

    def close(self) -> None:
        """Stop, and see the deletes through."""
        self.stop()
        self.broker.consumers.discard(self)
        self.leases.close()

    def _receive(self) -> None:
        backoff = Backoff(FIRST_BACKOFF, LAST_BACKOFF)
        while room := self._wait_for_room():
            self.asking_since = self.asking_since or time.monotonic()
            try:
                response = self.broker.client.receive_message(
                    QueueUrl=self.broker.queue_url(self.queue_name),
                    MaxNumberOfMessages=min(room, MAX_BATCH),
                    WaitTimeSeconds=LONG_POLL,
                    VisibilityTimeout=self.broker.visibility,
                    MessageSystemAttributeNames=["ApproximateReceiveCount"],
                )
            except Exception as error:  # of boto3, or of a parser below it: this thread must not end
                wait = backoff.next()
                self.logger.warning("%s: cannot receive (%s): next in %.1fs", self.queue_name, describe(error), wait)
                self._stopping.wait(wait)
                continue
            self.asking_since = None
            backoff.reset()
            batch = [(message, self.leases.add(message["ReceiptHandle"])) for message in response.get("Messages", [])]
            if self._stopping.is_set():
                self.leases.give_back([lease for _, lease in batch], 0)
                continue
            self._admit(batch)
            if 0 < len(batch) < min(room, MAX_BATCH) / 2:
                self._stopping.wait(PARTIAL_BATCH_PAUSE)
        self._requeue_unstarted()

    def _pop_suspect(self, is_time: Callable[[SQSMessage], bool]) -> SQSMessage | None:
        """The suspect that waits, if there is one and it is time; it waits no more then."""
        with self._lock:
            suspect = self._suspect
            if suspect is None or not is_time(suspect):
                return None
            self._suspect = None
            return suspect

    def _requeue_unstarted(self) -> None:
        suspect = self._pop_suspect(lambda _: True)
        self.requeue([*_drain(self._ready), *filter(None, [suspect])])

    def _wait_for_room(self) -> int:
        """How many messages there is room for, once half of all places are free; 0 once the consumer stops.

        While more than half are taken every worker thread has work, for dramatiq holds two messages for each; to fill
        each place as it becomes free would cost a request for each message.
        """

        def ready() -> bool:
            has_room = len(self.leases) <= self.prefetch // 2
            has_to_wait = self.broker.alone or (self.bulk and self.broker.live_waits)
            return self._stopping.is_set() or (has_room and not has_to_wait)

        with self.leases.changed:
            self.leases.changed.wait_for(ready)
            return 0 if self._stopping.is_set() else self.prefetch - len(self.leases)

    def _admit(self, batch: list[tuple[MessageTypeDef, Lease]]) -> None:
        """Hand received messages to the worker; what it cannot have goes where it belongs, after the others."""
        deferred: list[tuple[Lease, Step]] = []
        messages: list[SQSMessage] = []
        for received, lease in batch:
            try:
                messages.append(self._decoded(received, lease))
            except ValueError as error:
                self.logger.error("%s: a message is no job of this queue: %s.", self.queue_name, error)
                reason = Reason("bad_message", f"The message is no job of this queue: {error}.", stage=self.queue_name)
                deferred.append((lease, partial(self.broker.bury, self.queue_name, received["Body"], reason)))
        # Suspects first: what comes with one may be the real killer, and must not begin while the suspect waits.
        for message in sorted(messages, key=lambda message: not message.is_suspect):
            lease = message.lease
            if message.options.get(DUE, 0) > self.broker.clock() * 1000:
                deferred.append((lease, partial(self.broker.hop, message.original)))
            elif message.receives >= SUSPECT_AT_RECEIVE:
                # As a copy, of which SQS counts the receives anew: else it would reach the limit of the redrive policy.
                marks: dict[str, Any] = {SUSPECT: message.copies + 1, COPY_OF: message.sqs_id}
                deferred.append((lease, partial(self.broker.send_copy, message.original, delay=SUSPECT_DELAY, **marks)))
            elif message.is_suspect and self.broker.begin_alone(message):
                self.logger.warning("%s was received often, and no worker ended it: it runs alone.", message)
                self._suspect = message
                self.requeue(_drain(self._ready))
            elif message.is_suspect or self.broker.alone:
                self.leases.give_back([lease], SUSPECT_DELAY if message.is_suspect else 0)
            else:
                self._ready.put(message)
        for lease, action in deferred:
            if self._retry_until_done(action):
                self.leases.done(lease)
            else:
                self.leases.give_back([lease], 0 if self._stopping.is_set() else self.broker.visibility)

    def _decoded(self, received: MessageTypeDef, lease: Lease) -> SQSMessage:
        message = decode(received["Body"])
        dead_letter_queue = self.broker.dead_letter_queue
        if dead_letter_queue(message.queue_name) != dead_letter_queue(self.queue_name):
            raise ValueError(f"it names the queue {message.queue_name[:80]!r}")
        message = message.copy(queue_name=self.queue_name)  # a dead letter may be sent again in the other lane
        if message.actor_name not in self.broker.actors:
            raise ValueError(f"no actor is called {message.actor_name[:80]!r}")
        receives = int(received.get("Attributes", {}).get("ApproximateReceiveCount", 1))
        sqs_id = message.options.get(COPY_OF) or received["MessageId"]
        return SQSMessage(message, lease, receives=receives, sqs_id=sqs_id)

    def _begin_trial(self, suspect: SQSMessage) -> None:
        """Note that a suspect is begun alone. Its receives would not tell: some are of workers that ended otherwise."""
        try:
            suspect.trials = self.broker.trials.count(suspect.message_id)
            if not suspect.is_given_up:
                self.broker.trials.record(suspect.message_id, suspect.trials + 1)
        except Exception as error:  # it must run all the same, or the process would wait for it for ever
            self.logger.warning("%s runs alone, and that cannot be noted (%s)", suspect, describe(error))

    def _end_trial(self, message: SQSMessage) -> None:
        """Let the others go on, if the message ran alone. One that was left to another worker is not blamed for it."""
        if message.trials is not None:
            try:
                ended = message.release_after is None
                self.broker.trials.record(message.message_id, 0 if ended else message.trials)
            except Exception as error:
                self.logger.warning("%s ended, and that cannot be noted (%s)", message, describe(error))
        self.broker.end_alone(message)

    def _retry_until_done(self, action: Step) -> bool:
        """Do `action`, again and again while SQS is in trouble; False if the consumer stops before it is done, or if
        SQS would never take it.

        Its message stays held meanwhile: to leave it would let SQS count receives that are nobody's fault.
        """
        backoff = Backoff(FIRST_BACKOFF, LAST_BACKOFF)
        while True:
            try:
                action()
                return True
            except (BrokerConnectionError, RetryableError) as error:
                wait = backoff.next()
                self.logger.warning("%s: %s Again in %.1f s.", self.queue_name, error, wait)
                if self._stopping.wait(wait):
                    return False
            except Exception as error:
                self.logger.error("%s: a message cannot be sent (%s).", self.queue_name, describe(error))
                return False


def _drain(ready: queue.SimpleQueue[SQSMessage]) -> list[SQSMessage]:
    drained = []
    while True:
        try:
            drained.append(ready.get_nowait())
        except queue.Empty:
            return drained
