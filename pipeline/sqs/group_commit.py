"""Group commit: callers that arrive while a batch is being sent share the next batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.sqs.wire import SendFailed

E = TypeVar("E")

#: The longest time that a batch waits for other threads that may soon send, in seconds. A thread that works alone never
#: waits. Under load this halves the number of requests.
BATCH_WINDOW = 0.1


@dataclass(eq=False)
class _Ticket(Generic[E]):
    entry: E
    size: int
    settled: bool = False
    error: Exception | None = None


class GroupCommit(Generic[E]):
    """Sends entries in batches, one batch at a time, from whichever calling thread finds no batch being sent.

    Entries submitted during a batch travel together in the next one, and a batch waits briefly if more entries are
    expected. The class has no thread of its own, so there is nothing to stop, and every accepted entry has a caller
    that waits for its outcome.

    Args:
        commit: Sends a batch of entries and returns an error or None for each, in order. An exception that it raises
            becomes the outcome of the whole batch.
        max_entries: Entries per batch.
        max_bytes: Bytes per batch.
        expected: Returns how many threads may soon submit an entry, including threads that already wait here.
        window: How long a batch waits for that many entries, in seconds.
    """

    def __init__(
        self,
        commit: Callable[[list[E]], Sequence[Exception | None]],
        *,
        max_entries: int,
        max_bytes: int,
        expected: Callable[[], int] = lambda: 0,
        window: float = BATCH_WINDOW,
    ) -> None:
        self._commit = commit
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._expected = expected
        self._window = window
        lock = threading.Lock()  # guards the four attributes below
        self._changed = threading.Condition(lock)
        self._arrived = threading.Condition(lock)
        self._waiting: list[_Ticket[E]] = []
        self._under_way = False

    def submit(self, entries: Sequence[tuple[E, int]]) -> list[Exception | None]:
        """Commit entries and wait for their outcomes.

        Args:
            entries: Each entry with its size in bytes.

        Returns:
            An error or None for each entry, in order.
        """
        tickets = [_Ticket(entry, size) for entry, size in entries]
        with self._changed:
            self._waiting.extend(tickets)
            self._arrived.notify()
            while not all(ticket.settled for ticket in tickets):
                if self._under_way:
                    self._changed.wait()
                else:
                    self._commit_next_batch()
        return [ticket.error for ticket in tickets]

    def _commit_next_batch(self) -> None:
        self._under_way = True
        batch: list[_Ticket[E]] = []
        errors: Sequence[Exception | None] = []
        try:
            self._wait_for_more()
            batch = self._take_batch()
            errors = [SendFailed("the thread that sent the batch was interrupted")] * len(batch)
            self._changed.release()
            try:
                errors = self._outcomes(batch)
            finally:
                self._changed.acquire()
        finally:  # the other threads must also wake up if a time limit interrupts the thread that sends for them
            self._under_way = False
            for ticket, error in zip(batch, errors, strict=True):
                ticket.error, ticket.settled = error, True
            self._changed.notify_all()

    def _wait_for_more(self) -> None:
        self._arrived.wait_for(lambda: len(self._waiting) >= min(self._expected(), self._max_entries), self._window)

    def _take_batch(self) -> list[_Ticket[E]]:
        count, size = 0, 0
        for ticket in self._waiting[: self._max_entries]:
            size += ticket.size
            if count and size > self._max_bytes:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    def _outcomes(self, batch: list[_Ticket[E]]) -> Sequence[Exception | None]:
        try:
            return self._commit([ticket.entry for ticket in batch])
        except Exception as error:
            return [error] * len(batch)
