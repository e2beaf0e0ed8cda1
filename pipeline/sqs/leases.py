"""Leases: received messages that stay hidden from other workers until they are deleted or released.

`Leases.step` makes all requests, in batches and in this order: it extends leases, so that nothing else can delay that;
it releases messages; and it deletes finished ones. Callers only note what should happen, and never wait for SQS. A step
ends at the first request that SQS does not answer, because each may take half a minute.

A finished message stays leased until SQS confirms its delete. If SQS delivers it again meanwhile, it is deleted again
and not processed again.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from dramatiq.logging import get_logger

from pipeline.sqs.backoff import Backoff
from pipeline.sqs.loop import Clock
from pipeline.sqs.wire import MAX_BATCH, describe

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

logger = get_logger(__name__)

#: Seconds that deletes wait for a full batch. No one waits for them. A crash in that time redelivers finished
#: messages, which is harmless if actors are idempotent.
DELETE_WAIT = 3.0

#: A lease, and the fields of a request about it besides its handle.
Change = tuple["Lease", dict[str, int]]

#: The longest lease of a message in progress, in seconds. Then another worker takes over, because the actor hangs.
MAX_LEASE = 15 * 60

#: Finished messages whose delete SQS has not confirmed, at which a consumer stops receiving.
MAX_UNDELETED = 200

#: Seconds between attempts while SQS fails, doubled from the first to the last, and shortened by chance.
FIRST_BACKOFF, LAST_BACKOFF = 0.5, 15.0


def sqs_backoff(rng: random.Random) -> Backoff:
    return Backoff(FIRST_BACKOFF, LAST_BACKOFF, rng)


@dataclass(eq=False, slots=True)
class Lease:
    """One received message. All times are monotonic seconds."""

    message_id: str
    handle: str  #: the latest receipt handle; only this one surely extends and deletes the message
    since: float  #: when the message was received
    extend_at: float = 0.0  #: when the lease has to be extended
    ends_at: float = 0.0  #: when SQS makes the message visible unless the lease is extended
    began: float | None = None  #: when an actor began to work on the message; None while it waits or is settled
    is_lost: bool = False  #: whether another worker has the message, or will receive it


@dataclass(eq=False)
class Leases:
    """The leases of this process on the messages of one queue."""

    name: str  #: the queue's name for logs
    url: Callable[[], str]  #: returns the queue's URL
    client: Callable[[], SQSClient]
    visibility: int  #: how long a message stays hidden between two extensions, in seconds
    clock: Clock
    rng: random.Random  #: draws the jitter of waits
    delete_wait: float = DELETE_WAIT  #: how long deletes wait for a full batch, in seconds
    wake: Callable[[], None] = lambda: None  #: called when the next step is due earlier than the last one returned
    freed: Callable[[], None] = lambda: None  #: called when there may be more room, or when leases were extended

    def __post_init__(self) -> None:
        self._stepping = threading.Lock()  # held during a step, so that a second thread repeats no request
        self._lock = threading.Lock()  # guards all below; no request is made while it is held
        self._held: dict[str, Lease] = {}  # by the id of the message
        self._done: dict[str, Lease] = {}  # finished, and extended until their delete is confirmed
        self._released: list[Change] = []
        self._delete_at = math.inf
        self._due = math.inf
        self._closing = False
        self._backoff = sqs_backoff(self.rng)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, lease: Lease) -> bool:
        return self._held.get(lease.message_id) is lease

    @property
    def is_idle(self) -> bool:
        """Whether a crash would bring back no message: none is held, and SQS has confirmed every request."""
        with self._lock:
            return not (self._held or self._done or self._released)

    @property
    def blocks_receiving(self) -> bool:
        """Whether to receive nothing more: SQS refuses deletes, or has not extended a lease in time.

        It would deliver the same messages again and again, and count each time as a receive.
        """
        now = self.clock.monotonic()
        with self._lock:
            return len(self._done) >= MAX_UNDELETED or any(lease.ends_at <= now for lease in self._all)

    @property
    def oldest(self) -> float | None:
        """When the oldest leased message was received, in monotonic seconds; None without leases."""
        with self._lock:
            return min((lease.since for lease in self._held.values()), default=None)

    def add(self, message_id: str, handle: str) -> Lease | None:
        """Lease a received message; returns None if this process has it already, in progress or finished."""
        now = self.clock.monotonic()
        with self._lock:
            known = self._held.get(message_id) or self._done.get(message_id)
            lease = known or self._held.setdefault(message_id, Lease(message_id, handle, now))
            lease.handle = handle
            # A known message whose lease was about to end comes back because SQS refuses extensions. Receiving stays
            # blocked until it accepts one: otherwise this process would use up the receives of the message.
            if known is None or known.ends_at - now > self.visibility / 3:
                self._extended(lease, now)
        self._due_at(lease.extend_at)
        return None if known else lease

    def delete(self, lease: Lease, *, at_once: bool = False) -> None:
        """Delete a message with the next batch, or `at_once` with all due deletes, unless its lease was lost."""
        with self._lock:
            if lease not in self:
                return
            self._done[lease.message_id] = self._held.pop(lease.message_id)
            lease.began = None
            if at_once and not self._backoff.wait:
                self._delete_at = 0.0
            elif len(self._done) == 1:
                self._delete_at = self.clock.monotonic() + self._delete_wait
        self._due_at(self._delete_due)
        self.freed()

    def release(self, leases: Sequence[Lease], after: int = 0) -> None:
        """End leases, and make their messages visible in `after` seconds, or later if the request fails."""
        with self._lock:
            ours = [lease for lease in leases if lease in self and self._held.pop(lease.message_id)]
            self._released += [(lease, {"VisibilityTimeout": after}) for lease in ours]
        if ours:
            self._due_at(0.0)
            self.freed()

    def close(self) -> None:
        """Let the next step delete finished messages without waiting for a full batch."""
        self._closing = True
        self._delete_at = 0.0
        self._due_at(0.0)

    def step(self) -> float | None:
        """Extend due leases, then release and delete one batch each; returns the seconds until something is due again.

        Extensions that are due after an unanswered request wait for the next step.
        """
        with self._stepping:
            if self._extend_due() and self._release_batch() and self._delete_due <= self.clock.monotonic():
                self._delete_batch()
            with self._lock:
                release_due = 0.0 if self._released else math.inf
                self._due = min(self._delete_due, release_due, *(lease.extend_at for lease in self._all))
            return None if self._due == math.inf else max(0.0, self._due - self.clock.monotonic())

    @property
    def _all(self) -> list[Lease]:
        return [*self._held.values(), *self._done.values()]

    def _extended(self, lease: Lease, now: float) -> None:
        lease.extend_at, lease.ends_at = now + self.visibility / 3, now + self.visibility

    def _due_at(self, due: float) -> None:
        if due < self._due:
            self._due = due
            self.wake()

    @property
    def _delete_due(self) -> float:
        if not self._done:
            return math.inf
        return 0.0 if len(self._done) >= MAX_BATCH and not self._backoff.wait else self._delete_at

    @property
    def _delete_wait(self) -> float:
        # A short visibility timeout needs a shorter wait, because leases are extended only after it.
        return 0.0 if self._closing else min(self.delete_wait, self.visibility / 15)

    def _extend_due(self) -> bool:
        """Extend leases after a third of their visibility timeout, and lose the leases of actors that hang.

        Returns:
            Whether SQS has answered. Leases that were not tried come first in the next step.
        """
        now, visibility = self.clock.monotonic(), self.visibility
        with self._lock:
            due = sorted((each for each in self._all if each.extend_at <= now), key=attrgetter("extend_at"))
        self._lose([lease for lease in due if lease.began is not None and now - lease.began >= MAX_LEASE])
        changes: list[Change] = [(lease, {"VisibilityTimeout": visibility}) for lease in due if not lease.is_lost]
        for start in range(0, len(changes), MAX_BATCH):
            batch, asked_at = changes[start : start + MAX_BATCH], self.clock.monotonic()
            answer = self._request("change_message_visibility_batch", batch)
            with self._lock:
                for lease, _ in batch:  # retries soon if this attempt failed, and leaves time for other requests
                    lease.extend_at = self.clock.monotonic() + visibility / 15
            if answer is None:
                return False
            extended, stale = answer
            for lease in extended:
                self._extended(lease, asked_at)
            self._lose(stale)
        if changes:
            self.freed()
        return True

    def _release_batch(self) -> bool:
        """Release messages; returns whether SQS has answered. Otherwise they are hidden until their leases end."""
        batch = self._released[:MAX_BATCH]
        if not batch:
            return True
        answer = self._request("change_message_visibility_batch", batch)
        with self._lock:
            del self._released[: len(batch)]
        self.freed()
        return answer is not None

    def _delete_batch(self) -> None:
        """Delete finished messages. A message that SQS neither confirms nor reports as stale is deleted later."""
        with self._lock:
            batch = list(islice(self._done.values(), MAX_BATCH))
        deleted, stale = self._request("delete_message_batch", [(lease, {}) for lease in batch]) or ([], [])
        ended = {*deleted, *stale}
        with self._lock:
            for lease in batch:
                if self._done.pop(lease.message_id, None) and lease not in ended:
                    self._done[lease.message_id] = lease  # after the others
            if len(ended) == len(batch):
                self._backoff.reset()
            wait = self._delete_wait if len(ended) == len(batch) else self._backoff.next()
            self._delete_at = self.clock.monotonic() + wait
        self.freed()

    def _lose(self, leases: Sequence[Lease]) -> None:
        """Forget leases that are too old or stale, and leave their messages to other workers."""
        if not leases:
            return
        logger.warning("%s: lost %d leases. Other workers may now receive the messages.", self.name, len(leases))
        with self._lock:
            for lease in leases:
                lease.is_lost = True
                for known in (self._held, self._done):
                    if known.get(lease.message_id) is lease:
                        del known[lease.message_id]
        self.freed()

    def _request(self, operation: str, batch: Sequence[Change]) -> tuple[list[Lease], list[Lease]] | None:
        """Make one request; returns the confirmed leases, and the stale ones, for which SQS blames the sender.

        A lease may be in neither list, for example if its message was received again meanwhile, or if SQS refused the
        whole request. Without an answer, the result is None.
        """
        handles = [lease.handle for lease, _ in batch]
        entries = [{"Id": str(index), "ReceiptHandle": handles[index], **more} for index, (_, more) in enumerate(batch)]

        def same(answers: Iterable[Mapping[str, Any]]) -> list[Lease]:
            indexes = [int(answer["Id"]) for answer in answers]
            return [batch[index][0] for index in indexes if batch[index][0].handle == handles[index]]

        response: Any = None
        try:
            response = getattr(self.client(), operation)(QueueUrl=self.url(), Entries=entries)
            refused = [failure for failure in response.get("Failed", []) if failure.get("SenderFault")]
            return same(response.get("Successful", [])), same(refused)
        except Exception as error:  # from boto3 or a parser below it, or an answer of another form
            logger.warning("%s: %s failed (%s).", self.name, operation, describe(error))
            is_answered = response is not None or isinstance(error, ClientError)
            return ([], []) if is_answered else None
