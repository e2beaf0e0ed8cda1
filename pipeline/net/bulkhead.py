"""The bulkhead: how many threads of this process may wait for hosts that are not known to be quick.

A host that hangs holds a thread until a time limit. Without a bulkhead, as many such hosts as there are threads would
stop everybody. A quarter of the threads is always left for hosts that are known to be quick, and for other work.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from pipeline.stages import Lane

#: The longest snooze in seconds; with jitter it is an hour. A larger crowd returns once in that time: a million jobs
#: are 333 attempts a second. The hops of the message meanwhile cost no thread, and their rate is limited. A longer wait
#: would save little, and a host that has become quicker would be idle meanwhile.
LONGEST_SNOOZE = 3000.0

#: The number of lines of a crowd. Folders whose hashes share a line wait for each other.
MAX_LINES = 64

#: Each snooze is multiplied by a random factor from this range, so that jobs return apart.
JITTER = (0.8, 1.2)


class Speed(StrEnum):
    """How quick a host is, as far as this process knows."""

    QUICK = "quick"  #: its last request succeeded within `QUICK_SECONDS`
    UNKNOWN = "unknown"  #: it has not been asked yet
    SLOW = "slow"  #: its last request took longer, or ran into a time limit


#: Hosts of each speed may hold one of this many threads, and may take as long as this many seconds for a request.
SHARES = {Speed.UNKNOWN: 2, Speed.SLOW: 4}
EXPECTED_SECONDS = {Speed.UNKNOWN: 1.0, Speed.SLOW: 10.0}


@dataclass(slots=True)
class Crowd:
    """Snoozed jobs that wait for the same thing. They return one by one, as fast as it becomes free.

    Each folder has a line of its own, and the lines take turns: one folder's million jobs hardly delay another's few.

    Attributes:
        booked_until: When the last job of each line returns, by lane and line.
    """

    booked_until: dict[tuple[Lane, int], float] = field(default_factory=dict)

    def snooze(self, lane: Lane, step: float, now: float, folder: str = "", *, opens: float = 0.0) -> float:
        """Return the snooze of one more job in seconds. It returns after the jobs of its line that came before it.

        So waits grow with the crowd: 100,000 jobs return at a rate that costs little, even if all are snoozed again.

        Args:
            lane: The lane of the job. Waiting bulk jobs do not delay live ones.
            step: The seconds until there is room for one more job.
            now: The current time.
            folder: The folder of the job.
            opens: When the first job may return, if that is later.
        """
        opens, line = max(opens, now), (lane, hash(folder) % MAX_LINES)
        self.booked_until = {each: until for each, until in self.booked_until.items() if until > now or each == line}
        self.booked_until.setdefault(line, now)
        lines = sum(each is lane for each, _ in self.booked_until)
        booked = max(opens, self.booked_until[line]) + step * lines
        self.booked_until[line] = booked = max(opens, min(booked, now + LONGEST_SNOOZE))
        return opens - now + (booked - opens) * random.uniform(*JITTER)  # noqa: S311 - no secret is drawn

    def disperse(self) -> None:
        """Forget the bookings. Fewer jobs are waiting than were booked, because there was room for another."""
        self.booked_until.clear()


class Bulkhead:
    """Counts the requests in progress, by the speed of their hosts.

    Bulk jobs may hold half of the slots of each speed, and so may the jobs of one folder: one customer's dead hosts
    leave slots for another's new ones.

    Attributes:
        threads: The threads of this process; None for no limit, as in a process that is not a worker.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self._taken: Counter[tuple[Speed, str, str]] = Counter()
        self._crowds = {speed: Crowd() for speed in SHARES}
        self._lock = threading.Lock()

    def taken(self, speed: Speed) -> int:
        """Return how many requests to hosts of a speed are in progress."""
        return self._taken[speed, "", ""]

    def limit(self, speed: Speed) -> int | None:
        """Return how many there may be; None for any number."""
        return max(1, self.threads // SHARES[speed]) if self.threads and speed in SHARES else None

    def take(self, speed: Speed, lane: Lane, folder: str) -> bool:
        """Take a slot, if one is free."""
        with self._lock:
            if limit := self.limit(speed):
                half = max(1, limit // 2)
                limits = (limit, half, half if lane is Lane.BULK else limit)
                if any(self._taken[key] >= most for key, most in zip(_keys(speed, lane, folder), limits, strict=True)):
                    return False
                if not self.taken(speed):
                    self._crowds[speed].disperse()
            self._taken.update(_keys(speed, lane, folder))
            return True

    def give_back(self, speed: Speed, lane: Lane, folder: str) -> None:
        """Give a slot back."""
        with self._lock:
            for key in _keys(speed, lane, folder):
                self._taken[key] -= 1
                if not self._taken[key]:
                    del self._taken[key]  # there may be any number of folders

    def snooze(self, speed: Speed, lane: Lane, folder: str, now: float) -> float:
        """Return the seconds that a job should wait for a slot."""
        with self._lock:
            step = EXPECTED_SECONDS[speed] / (self.limit(speed) or 1)
            return self._crowds[speed].snooze(lane, step, now, folder)


def _keys(speed: Speed, lane: Lane, folder: str) -> list[tuple[Speed, str, str]]:
    return [(speed, "", ""), (speed, "folder", folder), (speed, "lane", lane.value)]


@cache
def bulkhead() -> Bulkhead:
    """Return the bulkhead of this process. A worker sets the number of its threads."""
    return Bulkhead()
