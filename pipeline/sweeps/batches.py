"""Commit items of several threads together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

#: Seconds that an item waits for those of other threads. Requests to hosts take longer than that anyway.
WINDOW = 0.05


@dataclass(eq=False)
class _Ticket(Generic[T]):
    item: T
    settled: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


@dataclass(eq=False)
class Batches(Generic[T]):
    """Commits items in batches. A thread that has waited long enough commits all items that wait.

    No thread depends on another: if a time limit interrupts the one that commits, it releases the lock, and each of the
    others commits its own item. So an item may be committed twice.
    """

    commit: Callable[[list[T]], None]
    window: float = WINDOW  #: how long an item waits for other threads, in seconds

    def __post_init__(self) -> None:
        self._committing = threading.Lock()  # a plain lock: entering it is a single step of the interpreter
        self._waiting: deque[_Ticket[T]] = deque()

    def submit(self, item: T) -> None:
        """Commit an item, and return once it is committed.

        Raises:
            Exception: the error of `commit`, which all threads of the batch get.
        """
        ticket = _Ticket(item)
        self._waiting.append(ticket)
        if not ticket.settled.wait(self.window):
            with self._committing:
                if not ticket.settled.is_set():
                    self._commit_with(ticket)
        if ticket.error:
            raise ticket.error

    def _commit_with(self, own: _Ticket[T]) -> None:
        batch = {own: None}  # it is no longer waiting if an interrupted thread took it
        while self._waiting:
            batch[self._waiting.popleft()] = None
        error: Exception | None = None
        try:
            self.commit([ticket.item for ticket in batch])
        except Exception as caught:
            error = caught
        for ticket in batch:
            ticket.error = error
            ticket.settled.set()
