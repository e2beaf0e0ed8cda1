"""Group commit: callers that arrive while a batch is under way share the next one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.wire import SendFailed

E = TypeVar("E")

#: Seconds after a batch that the next one waits for as many entries as were there before it. Threads that have just
#: been served come back within this time where they have little else to do; a single one never waits.
COMPANY_WAIT = 0.01


@dataclass(eq=False)
class _Ticket(Generic[E]):
    entry: E
    size: int
    settled: bool = False
    error: Exception | None = None


class GroupCommit(Generic[E]):
    """Sends entries in batches, one batch at a time; the sender is whichever caller finds none under way.

    The first entry goes at once; those submitted meanwhile by other threads travel together. A batch that follows
    another closely waits a little for those who have just been served: else the threads fall into two crowds, of which
    one works while the other one's batch is under way, and batches stay half as large. No thread of its own, so nothing
    to stop, and an entry is never accepted without somebody waiting for its outcome.

    `commit` takes a batch of entries and returns an error or None for each, in order; what it raises is the outcome of
    the whole batch.
    """

    def __init__(
        self,
        commit: Callable[[list[E]], Sequence[Exception | None]],
        *,
        max_entries: int,
        max_bytes: int,
        company_wait: float = COMPANY_WAIT,
    ) -> None:
        self._commit = commit
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._company_wait = company_wait
        lock = threading.Lock()  # guards what follows
        self._changed = threading.Condition(lock)
        self._arrived = threading.Condition(lock)
        self._waiting: list[_Ticket[E]] = []
        self._under_way = False
        self._crowd = 0  # entries that were there, sent or waiting, when the last batch ended, and when that was
        self._ended = 0.0

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
            self._wait_for_company()
            batch = self._take_batch()
            errors = [SendFailed("the thread that sent for others was interrupted")] * len(batch)
            self._changed.release()
            try:
                errors = self._outcomes(batch)
            finally:
                self._changed.acquire()
        finally:  # the others are told also where a time limit strikes in the thread that sends for them
            self._under_way = False
            self._crowd = min(len(batch) + len(self._waiting), self._max_entries)
            self._ended = time.monotonic()
            for ticket, error in zip(batch, errors, strict=True):
                ticket.error, ticket.settled = error, True
            self._changed.notify_all()

    def _wait_for_company(self) -> None:
        left = self._ended + self._company_wait - time.monotonic()
        if left > 0:
            self._arrived.wait_for(lambda: len(self._waiting) >= self._crowd, left)

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
