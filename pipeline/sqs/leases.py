"""Leases: received messages that stay hidden from other workers until they are deleted or released.

One thread per queue extends the leases and deletes finished messages, both in batches. A lease is lost once it is too
old, or once SQS reports its receipt handle as stale. The message then belongs to another worker, and is neither
extended nor deleted here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dramatiq.logging import get_logger
from dramatiq_sqs.utils import batched

from pipeline.backoff import Backoff
from pipeline.sqs.wire import MAX_BATCH, describe

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: Seconds that deletes wait for a full batch. A crash in that time redelivers finished messages, which is harmless if
#: actors are idempotent.
DELETE_WAIT = 1.0

#: Seconds after which a lease is no longer extended, so that another worker takes over if this one hangs.
MAX_LEASE = 15 * 60

#: Seconds between attempts while SQS fails, doubled from the first to the last.
FIRST_BACKOFF, LAST_BACKOFF = 0.5, 15.0

#: Seconds that `close` waits for pending deletes. Messages whose delete is not confirmed are redelivered.
CLOSE_TIMEOUT = 2.0


class Lease:
    """One received message.

    Attributes:
        handle: The receipt handle.
        since: When the message was received, in monotonic seconds.
        extend_at: When the lease has to be extended, in monotonic seconds.
        lost: Whether another worker has the message, or will receive it.
    """

    def __init__(self, handle: str, visibility: float) -> None:
        self.handle = handle
        self.since = time.monotonic()
        self.extend_at = self.since + visibility / 3
        self.lost = False


@dataclass(frozen=True)
class LeasedQueue:
    """The queue whose messages are leased.

    Attributes:
        name: The name for logs.
        url: Returns the queue's URL.
        client: Returns the SQS client.
        visibility: How long a message stays hidden between two extensions, in seconds.
    """

    name: str
    url: Callable[[], str]
    client: Callable[[], SQSClient]
    visibility: int


class Leases:
    """The leases of this process on the messages of one queue.

    Attributes:
        changed: Notified after each change of the leases; guards them.
        last_pass: When the thread that extends and deletes last began a pass, in monotonic seconds.
    """

    def __init__(self, queue: LeasedQueue) -> None:
        self.logger = get_logger(__name__, type(self))
        self._queue = queue
        self.changed = threading.Condition()
        self._leases: dict[str, Lease] = {}
        self._done: list[Lease] = []  # finished, and extended until their delete is confirmed
        self._deleting = False
        self._closed = threading.Event()
        self.last_pass = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"keep-{queue.name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease: Lease) -> bool:
        return lease.handle in self._leases

    @property
    def is_running(self) -> bool:
        """Whether the thread that extends and deletes is alive."""
        return self._thread.is_alive()

    @property
    def has_undeleted(self) -> bool:
        """Whether a finished message may still be redelivered, because SQS has not confirmed its delete."""
        with self.changed:
            return self._deleting or bool(self._done)

    @property
    def oldest(self) -> float | None:
        """When the oldest leased message was received, in monotonic seconds; None without leases."""
        with self.changed:
            return min((lease.since for lease in self._leases.values()), default=None)

    def add(self, handle: str) -> Lease:
        """Lease the message that was just received with `handle`."""
        lease = Lease(handle, self._queue.visibility)
        with self.changed:
            self._leases[handle] = lease
            self.changed.notify_all()
        return lease

    def complete(self, lease: Lease) -> None:
        """End a lease at once, and delete its message with the next batch unless the lease was lost."""
        with self.changed:
            if self._leases.pop(lease.handle, None):
                self._done.append(lease)
            self.changed.notify_all()

    def release(self, leases: Sequence[Lease], after: int) -> None:
        """End leases and make their messages visible in `after` seconds.

        If the request fails, the messages become visible when their visibility timeout ends.
        """
        with self.changed:
            ours = [lease for lease in leases if self._leases.pop(lease.handle, None)]
            self.changed.notify_all()
        self._change_visibility(ours, after)

    def close(self) -> None:
        """Stop extending leases, and wait up to `CLOSE_TIMEOUT` seconds for pending deletes."""
        self._closed.set()
        with self.changed:
            self.changed.notify_all()
        self._thread.join(CLOSE_TIMEOUT)

    def _run(self) -> None:
        backoff = Backoff(FIRST_BACKOFF, LAST_BACKOFF)
        while True:
            self.last_pass = time.monotonic()
            with self.changed:
                if not (self._done or self._closed.is_set()):
                    self.changed.wait(self._until_next_extension())
                if self._done:
                    # A short visibility timeout needs a shorter wait, because leases are extended only after it.
                    self.changed.wait_for(self._has_full_batch, min(DELETE_WAIT, self._queue.visibility / 15))
            if self._delete_done():
                backoff.reset()
            elif self._closed.wait(backoff.next()):
                return
            if self._closed.is_set() and not self._done:
                return
            self._extend_due()

    def _has_full_batch(self) -> bool:
        return len(self._done) >= MAX_BATCH or self._closed.is_set()

    def _delete_done(self) -> bool:
        """Delete finished messages; returns False if a request failed."""
        with self.changed:
            done, self._done, self._deleting = self._done, [], bool(self._done)
        try:
            return self._delete(done)
        finally:
            self._deleting = False

    def _delete(self, done: list[Lease]) -> bool:
        for place in range(0, len(done), MAX_BATCH):
            batch = done[place : place + MAX_BATCH]
            try:
                response = self._queue.client().delete_message_batch(
                    QueueUrl=self._queue.url(),
                    Entries=[{"Id": str(i), "ReceiptHandle": lease.handle} for i, lease in enumerate(batch)],
                )
            except Exception as error:  # from boto3 or a parser below it
                self.logger.warning(
                    "%s: cannot delete messages (%s). They are deleted later.", self._queue.name, describe(error)
                )
                with self.changed:
                    self._done = done[place:] + self._done
                return False
            with self.changed:  # SenderFault means a stale handle: another worker has the message
                failed = (failure for failure in response.get("Failed", []) if not failure["SenderFault"])
                self._done.extend(batch[int(failure["Id"])] for failure in failed)
        return True

    def _until_next_extension(self) -> float:
        """Return the seconds until a lease may have to be extended."""
        now = time.monotonic()
        return max(0.0, min((lease.extend_at - now for lease in self._leases.values()), default=self._queue.visibility))

    def _extend_due(self) -> None:
        """Extend leases after a third of their visibility timeout, and lose leases that are too old."""
        now = time.monotonic()
        with self.changed:
            due = [lease for lease in (*self._leases.values(), *self._done) if lease.extend_at <= now]
        self._lose([lease for lease in due if now - lease.since >= MAX_LEASE])
        due = [lease for lease in due if now - lease.since < MAX_LEASE]
        for lease in due:
            lease.extend_at = now + self._queue.visibility / 15  # retries soon if this attempt fails
        changed, stale = self._change_visibility(due, self._queue.visibility)
        for lease in changed:
            lease.extend_at = now + self._queue.visibility / 3
        self._lose(stale)

    def _lose(self, leases: Sequence[Lease]) -> None:
        """Forget leases that are too old or stale, and leave their messages to other workers."""
        if leases:
            self.logger.warning(
                "%s: lost the leases of %d messages, which other workers may now receive.",
                self._queue.name,
                len(leases),
            )
        with self.changed:
            for lease in leases:
                lease.lost = True
                self._leases.pop(lease.handle, None)
            self._done = [lease for lease in self._done if lease not in leases]
            self.changed.notify_all()

    def _change_visibility(self, leases: Sequence[Lease], seconds: int) -> tuple[list[Lease], list[Lease]]:
        """Set visibility timeouts; returns the leases that SQS changed and the leases with stale handles."""
        changed: list[Lease] = []
        stale: list[Lease] = []
        for batch in batched(leases, MAX_BATCH):
            members = list(batch)
            try:
                response = self._queue.client().change_message_visibility_batch(
                    QueueUrl=self._queue.url(),
                    Entries=[
                        {"Id": str(i), "ReceiptHandle": lease.handle, "VisibilityTimeout": seconds}
                        for i, lease in enumerate(members)
                    ],
                )
            except Exception as error:  # from boto3 or a parser below it
                self.logger.warning("%s: cannot change visibility timeouts (%s).", self._queue.name, describe(error))
                continue
            changed += [members[int(success["Id"])] for success in response.get("Successful", [])]
            stale += [members[int(failure["Id"])] for failure in response.get("Failed", []) if failure["SenderFault"]]
        return changed, stale
