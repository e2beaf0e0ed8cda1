"""Group commit: callers that arrive while a batch is under way share the next one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.sqs.wire import SendFailed

E = TypeVar("E")

#: Seconds that a batch waits, at the most, for those who may soon have something to send too. One who works alone never
#: waits. With the Procfile's processes under load it saves half of the requests.
BATCH_WINDOW = 0.1


@dataclass(eq=False)
class _Ticket(Generic[E]):
    entry: E
    size: int
    settled: bool = False
    error: Exception | None = None


class GroupCommit(Generic[E]):
    """Sends entries in batches, one batch at a time; the sender is whichever caller finds none under way.

    Those submitted while a batch is under way travel together in the next one, and a batch waits a little for company
    where some is to be expected. No thread of its own, so nothing to stop, and an entry is never accepted without
    somebody waiting for its outcome.

    Parameters:
        commit: takes a batch of entries and returns an error or None for each, in order; what it raises is the outcome
            of the whole batch.
        max_entries, max_bytes: of one batch.
        expected: how many threads are at something that may end in an entry, those that wait here included.
        company_wait: seconds to wait for so many at the most.
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
        lock = threading.Lock()  # guards what follows
        self._changed = threading.Condition(lock)
        self._arrived = threading.Condition(lock)
        self._waiting: list[_Ticket[E]] = []
        self._under_way = False

    def submit(self, entries: Sequence[tuple[E, int]]) -> list[Exception | None]:
        """Commit `entries`, each with its size in bytes; returns an error or None for each once all have an outcome."""
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
            errors = [SendFailed("the thread that sent for others was interrupted")] * len(batch)
            self._changed.release()
            try:
                errors = self._outcomes(batch)
            finally:
                self._changed.acquire()
        finally:  # the others are told also where a time limit strikes in the thread that sends for them
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
