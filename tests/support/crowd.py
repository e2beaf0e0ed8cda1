"""Simulates a fleet of processes that get many jobs of one host, on a virtual clock."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from unittest import mock

from pipeline.errors import Snoozed
from pipeline.net import host_limits
from pipeline.net.bulkhead import MAX_LINES
from pipeline.net.host_limits import HostLimiter, Policy
from pipeline.stages import Lane
from tests.support.limiter import URL
from tests.support.moved_clock import MovedClock

#: The limit of each process, and the jobs that a fleet receives a second for the first time.
PER_HOST, RECEIVED = 4, 1000


class Fleet:
    """Processes without work but the jobs of one host, which takes some seconds for each request.

    Attributes:
        limiters: The limiter of each process.
        ended: When each job ended, by its number; in the order of their ends.
        snoozes: How many jobs were snoozed, by second.
    """

    def __init__(self, processes: int, seconds: float, clock: MovedClock) -> None:
        self.clock, self.seconds = clock, seconds
        self.limiters = [HostLimiter(Policy(PER_HOST), clock) for _ in range(processes)]
        self.ended: dict[int, float] = {}
        self.snoozes = Counter[int]()
        self._rng = random.Random(1)
        self._started = clock.now
        self._folders: dict[int, str] = {}
        self._events: list[tuple[float, int, AbstractContextManager[None] | None]] = []

    @property
    def now(self) -> float:
        """The seconds since the start."""
        return self.clock.now - self._started

    @property
    def served(self) -> float:
        """How many requests a second the host can answer."""
        return len(self.limiters) * PER_HOST / self.seconds

    def send(self, folders: Sequence[str]) -> list[int]:
        """Send a job of each folder; returns their numbers."""
        jobs = range(len(self._folders), len(self._folders) + len(folders))
        for n, (job, folder) in enumerate(zip(jobs, folders, strict=True)):
            self._folders[job] = folder
            heapq.heappush(self._events, (self.now + n / RECEIVED, job, None))
        return list(jobs)

    def run(self, until: float = math.inf) -> None:
        """Work until a time or until all jobs have ended."""
        with mock.patch.object(host_limits, "MAX_WAITING", 0):  # callers would wait by the real clock
            while self._events and self._events[0][0] <= until:
                at, job, slot = heapq.heappop(self._events)
                self.clock.now = self._started + at
                if slot:
                    slot.__exit__(None, None, None)
                    self.ended[job] = at
                else:
                    self._try(job)

    def _try(self, job: int) -> None:
        slot = self._rng.choice(self.limiters).slot(URL, Lane.LIVE, self._folders[job])
        try:
            slot.__enter__()
        except Snoozed as error:
            wait = max(1, math.ceil(error.wait))  # SQS delays by whole seconds
            self.snoozes[int(self.now)] += 1
            heapq.heappush(self._events, (self.now + wait, job, None))
        else:
            heapq.heappush(self._events, (self.now + self.seconds, job, slot))


def rate(counted: Counter[int], first: int, last: int) -> float:
    """Return the mean of a counter by seconds, from one second to another."""
    return sum(counted[second] for second in range(first, last)) / (last - first)


def other_folders(folder: str) -> Iterator[str]:
    """Yield folders that share no line of a crowd with `folder`. Hashes differ in each process."""
    names = (f"FOLDER-{n}" for n in itertools.count())
    return (name for name in names if hash(name) % MAX_LINES != hash(folder) % MAX_LINES)
