"""Polls the sources of the pages in the background, so that a page never waits for SQS or MongoDB.

Each source has its own thread. It keeps the last value, its time, and the current error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Generic, TypeVar

from pipeline.errors import PipelineError, SettingsError

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds after the last request for a page until polling slows down, and the interval of the slow polling.
ACTIVE, IDLE_INTERVAL = 60.0, 30.0

#: Seconds that a page waits for values that were not read while no page was open.
PAGE_TIMEOUT = 1.0

#: Seconds after which the pages show the age of a value.
FRESH_FOR = 30.0

#: Samples of the history: one hour at one sample per 5 s.
SAMPLES = 720


@dataclass(frozen=True)
class Snapshot(Generic[T]):
    """The last value of a source."""

    value: T
    at: datetime | None = None  #: when it was read; None if never
    error: str = ""  #: why the last read failed, for people; empty if it succeeded
    fresh_for: float = FRESH_FOR  #: seconds after which the value counts as old

    def is_old(self, now: datetime) -> bool:
        """Return whether the page should show the age of the value."""
        return self.at is not None and (now - self.at).total_seconds() > self.fresh_for


class Unchanged(Exception):
    """A source need not be read again: its value and its time stay."""


class PolledValue(Generic[T]):
    """One source: how to read it, the interval in seconds, and whether to poll it while no page is open."""

    def __init__(
        self,
        name: str,
        read: Callable[[], T],
        empty: T,
        interval: float,
        *,
        always: bool = False,
        fresh_for: float = FRESH_FOR,
    ) -> None:
        self.name = name
        self.refreshed = -1  #: number of refreshes that had been requested when the last read began
        self.interval = interval
        self.always = always
        self._read = read
        self.snapshot: Snapshot[T] = Snapshot(empty, fresh_for=fresh_for)

    def poll(self) -> None:
        """Read the value now. Never raises: after an error, the previous value stays, together with the error."""
        try:
            self.snapshot = replace(self.snapshot, value=self._read(), at=datetime.now(UTC), error="")
        except Unchanged:
            self.snapshot = replace(self.snapshot, error="")
        except PipelineError as error:
            self.snapshot = replace(self.snapshot, error=error.message)
        except SettingsError as error:
            self.snapshot = replace(self.snapshot, error=str(error))
        except Exception as error:  # its text may contain hosts and documents
            logger.exception("could not read %s", self.name)
            self.snapshot = replace(self.snapshot, error=f"Could not read {self.name}: {type(error).__name__}.")


class Poller:
    """Polls values in threads while pages are requested; afterwards only those marked `always`, and less often."""

    def __init__(self, values: list[PolledValue[object]]) -> None:
        self._values = values
        self._condition = threading.Condition()
        self.stopping = False  #: whether polling has ended
        self._refreshes = 0  #: number of refreshes requested so far
        self._awaited = 0  #: number of the refresh that pages wait for
        self._active_at = time.monotonic()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Poll within the context. A read that hangs at the end is abandoned."""
        for value in self._values:
            threading.Thread(target=self._run, args=[value], name=f"poll {value.name}", daemon=True).start()
        try:
            yield
        finally:
            with self._condition:
                self.stopping = True
                self._condition.notify_all()

    def activate(self) -> None:
        """Note a request for a page. If the last one was long ago, refresh all values, and wait for them briefly."""
        with self._condition:
            idle = time.monotonic() - self._active_at > ACTIVE
            self._active_at = time.monotonic()
            if idle:
                self._refreshes += 1
                self._awaited = self._refreshes
                self._condition.notify_all()
            self._condition.wait_for(self._all_read, PAGE_TIMEOUT)

    def _all_read(self) -> bool:
        """Return whether no value is missing that pages wait for. They do not wait for a source that fails."""
        return self.stopping or all(value.refreshed >= self._awaited or value.snapshot.error for value in self._values)

    def refresh(self) -> None:
        """Read all values again now."""
        with self._condition:
            self._refreshes += 1
            self._condition.notify_all()

    def _run(self, value: PolledValue[object]) -> None:
        while not self.stopping:
            refreshes, began = self._refreshes, time.monotonic()
            value.poll()
            with self._condition:
                value.refreshed = refreshes
                self._condition.notify_all()
                while not self.stopping and self._refreshes == refreshes and (left := self._due(value, began)) > 0:
                    self._condition.wait(left)

    def _due(self, value: PolledValue[object], began: float) -> float:
        """Return the seconds until a value that was polled at `began` is due again."""
        now = time.monotonic()
        if now - self._active_at <= ACTIVE:
            return began + value.interval - now
        return began + IDLE_INTERVAL - now if value.always else IDLE_INTERVAL


class DepthHistory:
    """The number of waiting messages of each stage over the last hour."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[str, int]]] = deque(maxlen=SAMPLES)
        self.waiting_since: dict[str, datetime] = {}  #: since when messages of a stage have waited without a break

    def add(self, waiting: Mapping[str, int]) -> None:
        """Add the current numbers, by stage."""
        self._samples.append((time.time(), dict(waiting)))
        before, now = self.waiting_since, datetime.now(UTC)
        self.waiting_since = {stage: before.get(stage, now) for stage, number in waiting.items() if number}

    def of(self, stage: str, *, buckets: int, seconds: float) -> list[int | None]:
        """Return the maximum of a stage in each of `buckets` equal parts of the last `seconds`, oldest first.

        A part without samples is None.
        """
        now = time.time()
        found: list[int | None] = [None] * buckets
        for at, waiting in tuple(self._samples):
            place = buckets - 1 - int((now - at) / seconds * buckets)
            if 0 <= place < buckets and stage in waiting:
                found[place] = max(found[place] or 0, waiting[stage])
        return found
