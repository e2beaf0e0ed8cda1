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
- a message can be *released*: neither done nor failed, but left to whoever receives it next.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import dramatiq
import dramatiq_sqs.broker as upstream
from botocore.exceptions import BotoCoreError, ClientError
from dramatiq.logging import get_logger
from dramatiq_sqs.utils import batched

from pipeline.wire import MAX_BATCH, Reason, SendFailed, decode, describe, encode

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

    from pipeline.sqs import SQSBroker

#: Seconds of the longest poll SQS allows.
LONG_POLL = 20

#: Seconds a delete waits for company. The message stays hidden meanwhile; a crash then only repeats a harmless stage.
DELETE_WAIT = 0.1

#: Seconds after which a held message is no longer extended: a worker that hangs loses it to another one.
MAX_HOLD = 15 * 60

#: Seconds between attempts while SQS is in trouble: doubled from the first to the last.
FIRST_BACKOFF, LAST_BACKOFF = 0.5, 15.0

#: Seconds that closing waits for deletes to be confirmed; those that are not are repeated by whoever receives them.
CLOSE_TIMEOUT = 2.0


class SQSMessage(dramatiq.MessageProxy):
    """A received message. Shown in logs by actor and id alone: its arguments hold what customers sent."""

    def __init__(self, message: dramatiq.Message[Any], *, handle: str, receives: int) -> None:
        super().__init__(message)
        self.handle = handle
        self.receives = receives
        self.held_since = time.monotonic()
        self.extend_at = 0.0
        self.release_after: int | None = None
        self.reason: Reason | None = None

    def release(self, after: int = 0) -> None:
        """Leave the message, once its processing ends, to whoever receives it `after` so many seconds."""
        self.release_after = after

    def fail_with(self, reason: Reason) -> None:
        """Make the message a dead letter, once its processing ends, for `reason`."""
        self.reason = reason
        self.fail()

    def __str__(self) -> str:
        return f"{self.actor_name}[{self.message_id}]"

    __repr__ = __str__


class SQSConsumer(upstream.SQSConsumer):
    """Receives the messages of one queue for one dramatiq worker. Holds up to `prefetch` of them.

    Two threads: one receives, one deletes what is done and extends what is held. Both stop with `close`.
    """

    def __init__(self, broker: SQSBroker, queue_name: str, *, prefetch: int) -> None:
        self.logger = get_logger(__name__, type(self))
        self.broker = broker
        self.queue_name = queue_name
        self.prefetch = prefetch
        self._ready: queue.SimpleQueue[SQSMessage] = queue.SimpleQueue()
        self._changed = threading.Condition()  # guards the next two
        self._held: dict[str, SQSMessage] = {}  # by receipt handle: received, and neither done nor given back
        self._done: list[str] = []  # handles to delete
        self._stopping = threading.Event()  # nothing more is received
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._receive, name=f"receive-{queue_name}", daemon=True),
            threading.Thread(target=self._keep, name=f"keep-{queue_name}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __next__(self) -> SQSMessage | None:  # type: ignore[override]
        try:
            return self._ready.get(timeout=0.25)
        except queue.Empty:
            return None

    def ack(self, message: SQSMessage) -> None:  # type: ignore[override]
        """Delete the message soon; or make it visible again, if it was released."""
        if message.release_after is not None:
            self._hide([message], message.release_after)
            return
        with self._changed:
            if self._held.pop(message.handle, None):
                self._done.append(message.handle)
            self._changed.notify_all()

    def nack(self, message: SQSMessage) -> None:  # type: ignore[override]
        """Make the message a dead letter with its reason, then delete it."""
        reason = message.reason or Reason("failed", "The message was rejected by dramatiq.", stage=self.queue_name)
        if not self._bury(encode(message._message), reason):
            message.release(after=self.broker.visibility)
        self.ack(message)

    def requeue(self, messages: Iterable[SQSMessage]) -> None:  # type: ignore[override]
        """Give messages back at once."""
        self._hide(list(messages), 0)

    def stop(self) -> None:
        """Receive nothing more, and give back what no worker thread has begun."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self.requeue(_drain(self._ready))

    def close(self) -> None:
        """Stop, and see the deletes through, for `CLOSE_TIMEOUT` seconds at the most."""
        self.stop()
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._threads[1].join(CLOSE_TIMEOUT)

    # Receiving.

    def _receive(self) -> None:
        backoff = FIRST_BACKOFF
        while room := self._wait_for_room():
            try:
                response = self.broker.client.receive_message(
                    QueueUrl=self.broker.queue_url(self.queue_name),
                    MaxNumberOfMessages=min(room, MAX_BATCH),
                    WaitTimeSeconds=LONG_POLL,
                    VisibilityTimeout=self.broker.visibility,
                    MessageSystemAttributeNames=["ApproximateReceiveCount"],
                )
            except (BotoCoreError, ClientError) as error:
                self.logger.warning("%s: cannot receive (%s): next in %.1fs", self.queue_name, describe(error), backoff)
                self._stopping.wait(backoff)
                backoff = min(backoff * 2, LAST_BACKOFF)
                continue
            backoff = FIRST_BACKOFF
            for received in response.get("Messages", []):
                self._admit(received)
        self.requeue(_drain(self._ready))

    def _wait_for_room(self) -> int:
        """How many messages there is room for, once there is; 0 once the consumer stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping.is_set() or len(self._held) < self.prefetch)
            return 0 if self._stopping.is_set() else self.prefetch - len(self._held)

    def _admit(self, received: MessageTypeDef) -> None:
        """Hand a received message to the worker, if it is one for this queue and due."""
        body, handle = received["Body"], received["ReceiptHandle"]
        try:
            message = decode(body)
            self._check(message)
        except ValueError as error:
            self.logger.error("%s: a message is no job of this queue: %s.", self.queue_name, error)
            if self._bury(body, self._bad_message(error)):
                self._delete_soon(handle)
            return
        try:
            if self.broker.hop(message):
                self._delete_soon(handle)
                return
        except SendFailed as error:
            self.logger.warning("%s: a hop failed; the message comes back: %s.", self.queue_name, error)
            return
        receives = int(received.get("Attributes", {}).get("ApproximateReceiveCount", 1))
        held = SQSMessage(message, handle=handle, receives=receives)
        held.extend_at = held.held_since + self.broker.visibility / 3
        with self._changed:
            self._held[handle] = held
            self._changed.notify_all()
        self._ready.put(held)

    def _check(self, message: dramatiq.Message[Any]) -> None:
        if message.queue_name != self.queue_name:
            raise ValueError(f"it names the queue {message.queue_name[:80]!r}")
        if message.actor_name not in self.broker.actors:
            raise ValueError(f"no actor is called {message.actor_name[:80]!r}")

    def _bad_message(self, error: ValueError) -> Reason:
        return Reason("bad_message", f"The message is no job of this queue: {error}.", stage=self.queue_name)

    def _bury(self, body: str, reason: Reason) -> bool:
        """Whether `body` is safe among the dead letters."""
        try:
            self.broker.bury(self.queue_name, body, reason)
        except Exception as error:
            self.logger.warning("%s: cannot keep a dead letter (%s); it comes back.", self.queue_name, describe(error))
            return False
        return True

    # Keeping.

    def _keep(self) -> None:
        """Delete what is done and extend what is held, until closed."""
        backoff = FIRST_BACKOFF
        while True:
            with self._changed:
                if not (self._done or self._closed.is_set()):
                    self._changed.wait(self._until_next_extension())
            if self._done and not self._closed.is_set():
                self._closed.wait(DELETE_WAIT)
            if self._delete_done():
                backoff = FIRST_BACKOFF
            elif self._closed.wait(backoff):
                return
            else:
                backoff = min(backoff * 2, LAST_BACKOFF)
            if self._closed.is_set() and not self._done:
                return
            self._extend_held()

    def _delete_soon(self, handle: str) -> None:
        with self._changed:
            self._done.append(handle)
            self._changed.notify_all()

    def _delete_done(self) -> bool:
        """Delete what is done; False if SQS could not be asked."""
        with self._changed:
            handles, self._done = self._done, []
        for place in range(0, len(handles), MAX_BATCH):
            batch = handles[place : place + MAX_BATCH]
            try:
                response = self.broker.client.delete_message_batch(
                    QueueUrl=self.broker.queue_url(self.queue_name),
                    Entries=[{"Id": str(i), "ReceiptHandle": handle} for i, handle in enumerate(batch)],
                )
            except (BotoCoreError, ClientError) as error:
                self.logger.warning("%s: cannot delete (%s); again soon.", self.queue_name, describe(error))
                with self._changed:
                    self._done = handles[place:] + self._done
                return False
            with self._changed:  # a fault of ours is a stale handle: somebody else has the message
                failed = (failure for failure in response.get("Failed", []) if not failure["SenderFault"])
                self._done.extend(batch[int(failure["Id"])] for failure in failed)
        return True

    def _until_next_extension(self) -> float:
        """Seconds until the first held message has to be extended, or might have to be."""
        now = time.monotonic()
        return max(0.0, min((held.extend_at - now for held in self._held.values()), default=self.broker.visibility))

    def _extend_held(self) -> None:
        """Extend what is due, after a third of its visibility timeout; what was held for too long is let go."""
        now = time.monotonic()
        with self._changed:
            due = [held for held in self._held.values() if held.extend_at <= now]
        for message in due:
            if now - message.held_since >= MAX_HOLD:
                self._lose(message)
        due = [message for message in due if now - message.held_since < MAX_HOLD]
        for message in due:
            message.extend_at = now + self.broker.visibility / 15  # sooner, if this attempt fails
        for message in self._change_visibility(due, self.broker.visibility, self._lose):
            message.extend_at = now + self.broker.visibility / 3

    def _lose(self, message: SQSMessage) -> None:
        """Held for too long, or its handle is stale: somebody else has the message, or will, and may delete it."""
        self.logger.warning("%s: lost %s to another worker.", self.queue_name, message)
        with self._changed:
            self._held.pop(message.handle, None)

    def _hide(self, messages: Sequence[SQSMessage], seconds: int) -> None:
        """Give messages back, to be received again in `seconds`. What fails comes back by its visibility timeout."""
        with self._changed:
            ours = [message for message in messages if self._held.pop(message.handle, None)]
            self._changed.notify_all()
        self._change_visibility(ours, seconds, lambda message: None)

    def _change_visibility(
        self, messages: Sequence[SQSMessage], seconds: int, refused: Callable[[SQSMessage], None]
    ) -> list[SQSMessage]:
        """The messages for which SQS did it; `refused` is called with those whose handles are stale."""
        changed: list[SQSMessage] = []
        for batch in batched(messages, MAX_BATCH):
            members = list(batch)
            try:
                response = self.broker.client.change_message_visibility_batch(
                    QueueUrl=self.broker.queue_url(self.queue_name),
                    Entries=[
                        {"Id": str(i), "ReceiptHandle": message.handle, "VisibilityTimeout": seconds}
                        for i, message in enumerate(members)
                    ],
                )
            except (BotoCoreError, ClientError) as error:
                self.logger.warning("%s: cannot change visibility (%s).", self.queue_name, describe(error))
                continue
            changed += [members[int(success["Id"])] for success in response.get("Successful", [])]
            for failure in response.get("Failed", []):
                if failure["SenderFault"]:
                    refused(members[int(failure["Id"])])
        return changed


def _drain(ready: queue.SimpleQueue[SQSMessage]) -> list[SQSMessage]:
    drained = []
    while True:
        try:
            drained.append(ready.get_nowait())
        except queue.Empty:
            return drained
