"""Commit items of several threads together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

#: Seconds that a batch waits for other threads. Requests to hosts take longer than that anyway.
WINDOW = 0.05

#: Maximum number of items in a batch.
MOST = 500


@dataclass(eq=False)
class _Batch(Generic[T]):
    items: list[T] = field(default_factory=list)
    full: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None


@dataclass(eq=False)
class Batches(Generic[T]):
    """Commits items in batches. The thread with the first item of a batch waits for others, and commits for all."""

    commit: Callable[[list[T]], None]
    window: float = WINDOW  #: how long a batch waits for other threads, in seconds

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._open: _Batch[T] | None = None

    def submit(self, item: T) -> None:
        """Commit an item, and return once it is committed.

        Raises:
            BaseException: the error of `commit`, which all threads of the batch get.
        """
        with self._lock:
            leads = self._open is None
            batch = self._open = self._open or _Batch()
            batch.items.append(item)
            if len(batch.items) >= MOST:
                self._open = None
                batch.full.set()
        if leads:
            self._lead(batch)
        else:
            batch.done.wait()
        if batch.error:
            raise batch.error

    def _lead(self, batch: _Batch[T]) -> None:
        try:
            batch.full.wait(self.window)
            self._close(batch)
            self.commit(batch.items)
        except BaseException as error:  # a time limit may interrupt this thread; the others must wake up too
            batch.error = error
        finally:
            self._close(batch)
            batch.done.set()

    def _close(self, batch: _Batch[T]) -> None:
        with self._lock:
            if self._open is batch:
                self._open = None
