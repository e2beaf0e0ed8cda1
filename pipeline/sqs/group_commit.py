"""Group commit: callers that arrive while a batch is being sent share the next batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.sqs.wire import MAX_BATCH, SendEntry, SendFailed, in_batches

#: The longest time that a batch waits for other threads that may soon send, in seconds. A thread that works alone never
#: waits. Under load this halves the number of requests.
BATCH_WINDOW = 0.1


@dataclass(eq=False)
class _Ticket:
    entry: SendEntry
    settled: bool = False
    error: Exception | None = None


class GroupCommit:
    """Sends entries in batches, one batch at a time, from whichever calling thread finds no batch being sent.

    It has no thread of its own, so there is nothing to stop, and every entry has a caller that waits for its outcome.

    Args:
        commit: Sends a batch of entries and returns an error or None for each, in order.
        expected: Returns how many threads may soon submit an entry, including threads that already wait here.
        window: How long a batch waits for that many entries, in seconds.
    """

    def __init__(
        self,
        commit: Callable[[list[SendEntry]], Sequence[Exception | None]],
        *,
        expected: Callable[[], int] = lambda: 0,
        window: float = BATCH_WINDOW,
    ) -> None:
        self._commit = commit
        self._expected = expected
        self._window = window
        lock = threading.Lock()  # guards the four attributes below
        self._changed = threading.Condition(lock)
        self._arrived = threading.Condition(lock)
        self._waiting: list[_Ticket] = []
        self._under_way = False

    def submit(self, entries: Sequence[SendEntry]) -> list[Exception | None]:
        """Commit entries and wait for their outcomes: an error or None for each, in order."""
        tickets = [_Ticket(entry) for entry in entries]
        with self._changed:
            self._waiting += tickets
            self._arrived.notify()
            while not all(ticket.settled for ticket in tickets):
                if self._under_way:
                    self._changed.wait()
                else:
                    self._commit_next_batch()
        return [ticket.error for ticket in tickets]

    def _commit_next_batch(self) -> None:
        self._under_way = True
        batch: list[_Ticket] = []
        errors: Sequence[Exception | None] = []
        try:
            self._arrived.wait_for(lambda: len(self._waiting) >= min(self._expected(), MAX_BATCH), self._window)
            entries = next(in_batches(ticket.entry for ticket in self._waiting))
            batch, self._waiting = self._waiting[: len(entries)], self._waiting[len(entries) :]
            errors = [SendFailed("the thread that sent the batch was interrupted")] * len(batch)
            self._changed.release()
            try:
                errors = self._commit(entries)
            finally:
                self._changed.acquire()
        finally:  # the other threads must also wake up if a time limit interrupts the thread that sends for them
            self._under_way = False
            for ticket, error in zip(batch, errors, strict=True):
                ticket.error, ticket.settled = error, True
            self._changed.notify_all()
