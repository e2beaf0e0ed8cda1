"""The receiving half of the queue layer: dramatiq-sqs, with a safer and cheaper consumer.

`SQSConsumer` subclasses the upstream consumer and differs in these points:

- A received message is hidden for 45 s, and its lease is extended in batches, so the messages of a killed worker are
  soon redelivered. Upstream hides a message for 12 h and never extends that.
- A thread of its own makes long polls of 20 s, so the consumer can stop at once. Upstream polls for 1 s and sleeps.
- Deletes are batched, and an acknowledged message frees its place in the prefetch at once. Upstream makes one request
  per delete; each that fails leaks a place, until the consumer receives nothing.
- Errors of SQS are retried here. Upstream raises them into dramatiq's threads.
- A message that this queue cannot process becomes a dead letter with a reason. Upstream logs the whole message and
  receives it again, or the thread that decodes it ends.
- A message that may be killing its workers runs alone, and becomes a dead letter in the end. Upstream receives it
  endlessly.
- A message can be *released*: it is neither done nor failed, and another receive gets it.
"""

from __future__ import annotations

import queue
import random
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
from pipeline.sqs.loop import Clock, Loop
from pipeline.sqs.message import SQSMessage
from pipeline.sqs.wire import (
    COPY_OF,
    DUE,
    MAX_BATCH,
    SUSPECT,
    Reason,
    check_due,
    decode,
    describe,
    encode,
    with_good_id,
)

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

#: The longest poll that SQS allows, in seconds.
LONG_POLL = 20

#: Seconds to wait after a receive that fills less than half of a batch. Messages that trickle in then share a request.
#: A message that arrives during a long poll is still received at once.
PARTIAL_BATCH_PAUSE = 0.1

#: The receive at which a message becomes suspected of killing its workers. One receive is normal, and each worker that
#: dies while it leases the message adds one.
SUSPECT_AT_RECEIVE = 4

#: Seconds that `close` waits for pending deletes. Messages whose delete is not confirmed are redelivered.
CLOSE_TIMEOUT = 2.0

#: Seconds until a suspect is received again if another suspect already runs alone in this process.
SUSPECT_DELAY = 5


class Trials(Protocol):
    """A store, shared by all workers, of how often each suspect ran alone without finishing."""

    def count(self, message_id: str) -> int:
        """Return the number of trials that did not finish."""

    def record(self, message_id: str, count: int) -> None:
        """Store the number of trials; 0 removes the message."""


class ReceivingBroker(Protocol):
    """The part of the broker that its consumers use, including the state that all of them share."""

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
    def has_live_waiting(self) -> bool: ...

    def queue_url(self, queue_name: str) -> str: ...

    def bury(self, queue_name: str, body: str, reason: Reason) -> None: ...

    def hop(self, message: dramatiq.Message[Any]) -> None: ...

    def send_copy(self, message: dramatiq.Message[Any], *, delay: int, **options: Any) -> None: ...

    def begin_alone(self, message: SQSMessage) -> bool: ...

    def end_alone(self, message: SQSMessage) -> None: ...


class SQSConsumer(upstream.SQSConsumer):
    """Receives the messages of one queue for one dramatiq worker, and leases up to `prefetch` of them.

    A consumer of a bulk queue does not receive while live messages are waiting in this process. Prefetched bulk
    messages would time out before they start, and SQS would count those receives against them.

    Attributes:
        asking_since: When the request that SQS has not answered yet began, in monotonic seconds; None if there is none.
    """

    def __init__(self, broker: ReceivingBroker, queue_name: str, *, prefetch: int, bulk: bool = False) -> None:
        self.logger = get_logger(__name__, type(self))
        self.broker = broker
        self.queue_name = queue_name
        self.prefetch = prefetch
        self.bulk = bulk
        self._changed = threading.Condition()
        leased = LeasedQueue(
            queue_name, partial(broker.queue_url, queue_name), lambda: broker.client, broker.visibility
        )
        rng = random.Random()  # noqa: S311 - it draws jitter
        self._keeper = Loop(f"keep-{queue_name}", lambda: self.leases.step())  # noqa: PLW0108 - it is made next
        self.leases = Leases(leased, Clock(), rng, wake=self._keeper.wake, freed=self.wake)
        self._keeper.start()
        self._ready: queue.SimpleQueue[SQSMessage] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._suspect: SQSMessage | None = None  # waits until it may run alone
        self._stopping = threading.Event()
        self.asking_since: float | None = time.monotonic()
        self._thread = threading.Thread(target=self._receive, name=f"receive-{queue_name}", daemon=True)
        broker.consumers.add(self)
        self._thread.start()

    def __next__(self) -> SQSMessage | None:  # type: ignore[override]
        if suspect := self._pop_suspect(lambda suspect: suspect.lease.is_lost):
            self.broker.end_alone(suspect)  # another worker has it
        elif suspect := self._pop_suspect(lambda _: self.broker.has_single_lease):
            self._begin_trial(suspect)
            return suspect
        try:
            return self._ready.get(timeout=0.25)
        except queue.Empty:
            return None

    def ack(self, message: SQSMessage) -> None:  # type: ignore[override]
        """Delete the message with the next batch, or make it visible again if it was released."""
        if message.release_after is None:
            self.leases.complete(message.lease)
        else:
            self.leases.release([message.lease], message.release_after)
        self._end_trial(message)

    def nack(self, message: SQSMessage) -> None:  # type: ignore[override]
        """Send the message to the dead-letter queue with its reason, then delete it."""
        reason = message.reason or Reason("failed", "dramatiq rejected the message.", stage=self.queue_name)
        if not self._retry_until_done(lambda: self.broker.bury(self.queue_name, encode(message.original), reason)):
            message.release()
        self.ack(message)

    def requeue(self, messages: Iterable[SQSMessage]) -> None:  # type: ignore[override]
        """Make messages visible again at once."""
        messages = list(messages)
        for message in messages:
            message.release()
            self._end_trial(message)
        self.leases.release([message.lease for message in messages], 0)

    def stop(self) -> None:
        """Stop receiving, and make visible again all messages that no worker thread has started."""
        self._stopping.set()
        self.wake()
        self._requeue_unstarted()

    def wake(self) -> None:
        """Check again whether there is room to receive."""
        with self._changed:
            self._changed.notify_all()

    @property
    def is_broken(self) -> bool:
        """Whether one of its threads died although the consumer was not stopped."""
        return not (self._stopping.is_set() or (self._thread.is_alive() and self._keeper.is_alive))

    def close(self) -> None:
        """Stop, and wait for pending deletes."""
        self.stop()
        self.broker.consumers.discard(self)
        self.leases.close()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        while not self.leases.is_idle and time.monotonic() < deadline:
            time.sleep(0.01)
        self._keeper.end()

    @property
    def last_lease_check(self) -> float:
        """When the thread that extends and deletes last began, in monotonic seconds."""
        return self._keeper.last_step

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
            except Exception as error:  # from boto3 or a parser below it; this thread must survive
                wait = backoff.next()
                self.logger.warning(
                    "%s: cannot receive (%s). Next attempt in %.1f s.", self.queue_name, describe(error), wait
                )
                self._stopping.wait(wait)
                continue
            self.asking_since = None
            backoff.reset()
            batch = [
                (message, lease)
                for message in response.get("Messages", [])
                if (lease := self.leases.add(message["MessageId"], message["ReceiptHandle"]))
            ]
            if self._stopping.is_set():
                self.leases.release([lease for _, lease in batch], 0)
                continue
            self._admit(batch)
            if 0 < len(batch) < min(room, MAX_BATCH) / 2:
                self._stopping.wait(PARTIAL_BATCH_PAUSE)
        self._requeue_unstarted()

    def _pop_suspect(self, is_time: Callable[[SQSMessage], bool]) -> SQSMessage | None:
        """Return the waiting suspect, and stop waiting for it, if there is one and `is_time` accepts it."""
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
        """Wait until half of the prefetch is free; returns the number of free places, or 0 once the consumer stops.

        dramatiq prefetches two messages per thread, so every thread has work while more than half of the places are
        taken. Filling each place as it becomes free would cost one request per message.
        """

        def ready() -> bool:
            has_room = len(self.leases) <= self.prefetch // 2
            has_to_wait = self.broker.alone or (self.bulk and self.broker.has_live_waiting)
            return self._stopping.is_set() or (has_room and not has_to_wait)

        with self._changed:
            self._changed.wait_for(ready)
            return 0 if self._stopping.is_set() else self.prefetch - len(self.leases)

    def _admit(self, batch: list[tuple[MessageTypeDef, Lease]]) -> None:
        """Hand received messages to the worker, then bury, delay or release the ones that it cannot run now."""
        deferred: list[tuple[Lease, Callable[[], object]]] = []
        messages: list[SQSMessage] = []
        for received, lease in batch:
            try:
                messages.append(self._decoded(received, lease))
            except ValueError as error:
                self.logger.error("%s: received a message that is not for this queue: %s.", self.queue_name, error)
                reason = Reason("bad_message", f"The message is not for this queue: {error}.", stage=self.queue_name)
                deferred.append((lease, partial(self.broker.bury, self.queue_name, received["Body"], reason)))
        # Suspects come first, so that no message of the same batch, perhaps the real killer, starts while one waits.
        for message in sorted(messages, key=lambda message: not message.is_suspect):
            lease = message.lease
            if message.options.get(DUE, 0) > self.broker.clock() * 1000:
                deferred.append((lease, partial(self.broker.hop, message.original)))
            elif message.receives >= SUSPECT_AT_RECEIVE:
                # A copy has a receive count of its own; the original would reach the limit of the redrive policy.
                marks: dict[str, Any] = {SUSPECT: message.copies + 1, COPY_OF: message.sqs_id}
                deferred.append((lease, partial(self.broker.send_copy, message.original, delay=SUSPECT_DELAY, **marks)))
            elif message.is_suspect and self.broker.begin_alone(message):
                self.logger.warning("%s was received often, and no worker finished it. It runs alone.", message)
                self._suspect = message
                self.requeue(_drain(self._ready))
            elif message.is_suspect or self.broker.alone:
                self.leases.release([lease], SUSPECT_DELAY if message.is_suspect else 0)
            else:
                self._ready.put(message)
        for lease, action in deferred:
            if self._retry_until_done(action):
                self.leases.complete(lease)
            else:
                self.leases.release([lease], 0 if self._stopping.is_set() else self.broker.visibility)

    def _decoded(self, received: MessageTypeDef, lease: Lease) -> SQSMessage:
        message = with_good_id(decode(received["Body"]), received["MessageId"])
        check_due(message, self.broker.clock())
        dead_letter_queue = self.broker.dead_letter_queue
        if dead_letter_queue(message.queue_name) != dead_letter_queue(self.queue_name):
            raise ValueError(f"it names the queue {message.queue_name[:80]!r}")
        message = message.copy(queue_name=self.queue_name)  # a dead letter may be redriven to the other lane
        if message.actor_name not in self.broker.actors:
            raise ValueError(f"no actor is called {message.actor_name[:80]!r}")
        receives = int(received.get("Attributes", {}).get("ApproximateReceiveCount", 1))
        sqs_id = message.options.get(COPY_OF) or received["MessageId"]
        return SQSMessage(message, lease, receives=receives, sqs_id=sqs_id)

    def _begin_trial(self, suspect: SQSMessage) -> None:
        """Count a trial of a suspect before it starts.

        The receive count is not enough, because it includes workers that ended for other reasons.
        """
        try:
            suspect.trials = self.broker.trials.count(suspect.message_id)
            if not suspect.is_given_up:
                self.broker.trials.record(suspect.message_id, suspect.trials + 1)
        except Exception as error:  # the suspect must run anyway, or this process would wait forever
            self.logger.warning("%s runs alone, but the trial cannot be recorded (%s).", suspect, describe(error))

    def _end_trial(self, message: SQSMessage) -> None:
        """Allow other messages again if this one ran alone. A trial that ended in a release does not count."""
        if message.trials is not None:
            try:
                ended = message.release_after is None
                self.broker.trials.record(message.message_id, 0 if ended else message.trials)
            except Exception as error:
                self.logger.warning(
                    "%s ended, but the end of the trial cannot be recorded (%s).", message, describe(error)
                )
        self.broker.end_alone(message)

    def _retry_until_done(self, action: Callable[[], object]) -> bool:
        """Run `action`, and retry it while SQS fails. The message stays leased, so that SQS counts no further receives.

        Returns:
            False if the consumer stopped before the action succeeded, or if SQS will never accept it.
        """
        backoff = Backoff(FIRST_BACKOFF, LAST_BACKOFF)
        while True:
            try:
                action()
                return True
            except (BrokerConnectionError, RetryableError) as error:
                wait = backoff.next()
                self.logger.warning("%s: %s Next attempt in %.1f s.", self.queue_name, error, wait)
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
