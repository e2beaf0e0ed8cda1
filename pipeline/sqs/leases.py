"""What a consumer holds: received messages, hidden from others until they are done, or given back.

One thread keeps them: it extends what is held, in batches, and deletes what is done, in batches. A message that was
held for too long, or whose receipt handle turned out to be stale, is somebody else's: it is no longer extended, and not
deleted.
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

#: Seconds that deletes wait for a full batch. The messages stay hidden meanwhile, and a crash only repeats harmless
#: stages.
DELETE_WAIT = 1.0

#: Seconds after which a held message is no longer extended: a worker that hangs loses it to another one.
MAX_LEASE = 15 * 60

#: Seconds between attempts while SQS is in trouble: doubled from the first to the last.
FIRST_BACKOFF, LAST_BACKOFF = 0.5, 15.0

#: Seconds that closing waits for deletes to be confirmed; those that are not are repeated by whoever receives them.
CLOSE_TIMEOUT = 2.0


class Lease:
    """One received message, by its receipt handle. Times are monotonic, in seconds."""

    def __init__(self, handle: str, visibility: float) -> None:
        self.handle = handle
        self.since = time.monotonic()
        self.extend_at = self.since + visibility / 3
        self.lost = False  #: somebody else has the message, or will


@dataclass(frozen=True)
class LeasedQueue:
    """The queue whose messages are leased: its name, and how it is reached."""

    name: str
    url: Callable[[], str]
    client: Callable[[], SQSClient]
    visibility: int  #: seconds a received message is hidden between two extensions


class Leases:
    """The messages of one queue that this process holds."""

    def __init__(self, queue: LeasedQueue) -> None:
        self.logger = get_logger(__name__, type(self))
        self._queue = queue
        self.changed = threading.Condition()  # guards the next two
        self._leases: dict[str, Lease] = {}
        self._done: list[Lease] = []  # still hidden from others until they are deleted
        self._deleting = False
        self._closed = threading.Event()
        self.last_pass = time.monotonic()  #: when the thread that keeps them last looked
        self._thread = threading.Thread(target=self._run, name=f"keep-{queue.name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease: Lease) -> bool:
        return lease.handle in self._leases

    @property
    def is_running(self) -> bool:
        """Whether the thread that keeps them runs."""
        return self._thread.is_alive()

    @property
    def has_undeleted(self) -> bool:
        """Whether some are done and not known to be deleted: if this process died, they would come again."""
        with self.changed:
            return self._deleting or bool(self._done)

    @property
    def oldest(self) -> float | None:
        """When the oldest was received; None where none is held."""
        with self.changed:
            return min((lease.since for lease in self._leases.values()), default=None)

    def add(self, handle: str) -> Lease:
        """Hold the message that was just received with `handle`."""
        lease = Lease(handle, self._queue.visibility)
        with self.changed:
            self._leases[handle] = lease
            self.changed.notify_all()
        return lease

    def done(self, lease: Lease) -> None:
        """Delete the message soon, if it is still ours; its place is free at once."""
        with self.changed:
            if self._leases.pop(lease.handle, None):
                self._done.append(lease)
            self.changed.notify_all()

    def give_back(self, leases: Sequence[Lease], after: int) -> None:
        """Let messages be received again in `after` seconds. What fails comes back by its visibility timeout."""
        with self.changed:
            ours = [lease for lease in leases if self._leases.pop(lease.handle, None)]
            self.changed.notify_all()
        self._change_visibility(ours, after)

    def close(self) -> None:
        """Extend nothing more, and see the deletes through, for `CLOSE_TIMEOUT` seconds at the most."""
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
                    # Shorter where messages are hidden for short: they are extended only afterwards.
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
        """Delete what is done; False if SQS could not be asked."""
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
            except Exception as error:  # of boto3, or of a parser below it
                self.logger.warning("%s: cannot delete (%s); again soon.", self._queue.name, describe(error))
                with self.changed:
                    self._done = done[place:] + self._done
                return False
            with self.changed:  # a fault of ours is a stale handle: somebody else has the message
                failed = (failure for failure in response.get("Failed", []) if not failure["SenderFault"])
                self._done.extend(batch[int(failure["Id"])] for failure in failed)
        return True

    def _until_next_extension(self) -> float:
        """Seconds until the first held message has to be extended, or might have to be."""
        now = time.monotonic()
        return max(0.0, min((lease.extend_at - now for lease in self._leases.values()), default=self._queue.visibility))

    def _extend_due(self) -> None:
        """Extend what is due, after a third of its visibility timeout; what was held for too long is let go."""
        now = time.monotonic()
        with self.changed:
            due = [lease for lease in (*self._leases.values(), *self._done) if lease.extend_at <= now]
        self._lose([lease for lease in due if now - lease.since >= MAX_LEASE])
        due = [lease for lease in due if now - lease.since < MAX_LEASE]
        for lease in due:
            lease.extend_at = now + self._queue.visibility / 15  # sooner, if this attempt fails
        changed, stale = self._change_visibility(due, self._queue.visibility)
        for lease in changed:
            lease.extend_at = now + self._queue.visibility / 3
        self._lose(stale)

    def _lose(self, leases: Sequence[Lease]) -> None:
        """Held for too long, or stale: somebody else has the message, or will, and may delete it."""
        if leases:
            self.logger.warning("%s: lost %d messages to other workers.", self._queue.name, len(leases))
        with self.changed:
            for lease in leases:
                lease.lost = True
                self._leases.pop(lease.handle, None)
            self._done = [lease for lease in self._done if lease not in leases]
            self.changed.notify_all()

    def _change_visibility(self, leases: Sequence[Lease], seconds: int) -> tuple[list[Lease], list[Lease]]:
        """Those for which SQS did it, and those whose handles are stale."""
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
            except Exception as error:  # of boto3, or of a parser below it
                self.logger.warning("%s: cannot change visibility (%s).", self._queue.name, describe(error))
                continue
            changed += [members[int(success["Id"])] for success in response.get("Successful", [])]
            stale += [members[int(failure["Id"])] for failure in response.get("Failed", []) if failure["SenderFault"]]
        return changed, stale
