"""What the pages show, read in the background: a page never waits for SQS or MongoDB, and both may be down.

Each source has a thread of its own. It keeps what it read last, when that was, and what is wrong now.
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

#: Seconds without a page asked for after which nobody looks on, and between two reads of what is read then too.
WATCHED, IDLE = 60.0, 30.0

#: Samples of the history, at one each 5 s: an hour.
HISTORY = 720


@dataclass(frozen=True)
class Seen(Generic[T]):
    """What a source said last."""

    value: T
    at: datetime | None = None  #: when it said that; None: it has said nothing yet
    trouble: str = ""  #: why it says nothing now, for people; empty while it does


class PolledValue(Generic[T]):
    """One source: how to ask it, how often, in seconds, and whether also while nobody looks on."""

    def __init__(self, name: str, read: Callable[[], T], empty: T, every: float, *, always: bool = False) -> None:
        self.name = name
        self.every = every
        self.always = always
        self._read = read
        self.seen: Seen[T] = Seen(empty)

    def look(self) -> None:
        """Ask now. Never raises: trouble is kept beside what was said before it."""
        try:
            self.seen = Seen(self._read(), datetime.now(UTC))
        except PipelineError as error:
            self.seen = replace(self.seen, trouble=error.message)
        except SettingsError as error:
            self.seen = replace(self.seen, trouble=str(error))
        except Exception as error:  # its text may hold hosts and documents
            logger.exception("could not read %s", self.name)
            self.seen = replace(self.seen, trouble=f"Could not read {self.name}: {type(error).__name__}.")


class Readers:
    """Threads that keep `readings` fresh while somebody looks on; while nobody does, few are read, and seldom."""

    def __init__(self, readings: list[PolledValue[object]]) -> None:
        self._readings = readings
        self._condition = threading.Condition()
        self._stopping = False
        self._asked = 0  #: how often somebody wanted everything at once
        self._watched_at = time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether nothing more is to be read."""
        return self._stopping

    @contextmanager
    def running(self) -> Iterator[None]:
        """They read inside. A read that hangs is not waited for at the end."""
        for reading in self._readings:
            threading.Thread(target=self._keep, args=[reading], name=f"read {reading.name}", daemon=True).start()
        try:
            yield
        finally:
            with self._condition:
                self._stopping = True
                self._condition.notify_all()

    def watched(self) -> None:
        """Somebody looks on: after a while in which nobody did, everything is read anew."""
        with self._condition:
            slept = time.monotonic() - self._watched_at > WATCHED
            self._watched_at = time.monotonic()
        if slept:
            self.refresh()

    def refresh(self) -> None:
        """Read everything anew, now."""
        with self._condition:
            self._asked += 1
            self._condition.notify_all()

    def _keep(self, reading: PolledValue[object]) -> None:
        while not self._stopping:
            asked, began = self._asked, time.monotonic()
            reading.look()
            with self._condition:
                while not self._stopping and self._asked == asked and (left := self._due(reading, began)) > 0:
                    self._condition.wait(left)

    def _due(self, reading: PolledValue[object], began: float) -> float:
        """Seconds until a reading is to be read again that was read at `began`."""
        now = time.monotonic()
        if now - self._watched_at <= WATCHED:
            return began + reading.every - now
        return began + IDLE - now if reading.always else IDLE


class History:
    """How much waited before each stage, over the last hour."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[str, int]]] = deque(maxlen=HISTORY)

    def add(self, waiting: Mapping[str, int]) -> None:
        """What waits now, by stage."""
        self._samples.append((time.time(), dict(waiting)))

    def of(self, stage: str, *, buckets: int, seconds: float) -> list[int | None]:
        """The most that waited before `stage` in each of `buckets` equal parts of the last `seconds`, oldest first.

        None where nothing was read.
        """
        now = time.time()
        found: list[int | None] = [None] * buckets
        for at, waiting in tuple(self._samples):
            place = buckets - 1 - int((now - at) / seconds * buckets)
            if 0 <= place < buckets and stage in waiting:
                found[place] = max(found[place] or 0, waiting[stage])
        return found
