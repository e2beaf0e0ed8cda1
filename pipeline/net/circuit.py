"""Circuit breakers: a server that only fails gets no requests for a while, then a single probe."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush

from pipeline.sqs.backoff import Backoff

#: The number of failed folders of a host above which no further folder probes it while its circuit is open.
MAX_FAILED_FOLDERS = 100

#: Seconds that a circuit stays open, doubled each time that the single request after it fails too. The longest is well
#: within the 15 minutes that SQS can delay a message.
FIRST_OPEN_TIME, LONGEST_OPEN_TIME = 30.0, 300.0

#: A circuit stays open for at most so many times the duration of the failed request, or `FIRST_OPEN_TIME`. Requests
#: that hang take 5 % of a thread's time, and a server that refuses at once is soon found repaired.
OPEN_PER_SECOND = 20

#: Seconds after which a failing host costs each job an attempt instead of a snooze, so that every job ends.
HOST_DOWN_AFTER = 3600.0

#: Maximum number of waiting jobs that a circuit counts.
MAX_COUNTED = 100_000


@dataclass
class Circuit:
    """The failures in a row of one server, or of one path of it.

    Attributes:
        max_failures: Failures in a row after which it opens.
        busy: Its requests in progress.
        failures: Hashes of the failures in a row, each once; up to `max_failures`.
        failed_folders: Hashes of the folders of these failures and of later ones; up to `MAX_FAILED_FOLDERS`.
        open_time: How long it opens; 0 while it is closed.
        open_since: When it opened first, since the last success.
        open_until: When it lets a single request through.
        returns: A heap of the times at which its snoozed jobs return.
    """

    max_failures: int
    busy: int = 0
    failures: set[int] = field(default_factory=set)
    failed_folders: set[int] = field(default_factory=set)
    open_time: Backoff = field(default_factory=lambda: Backoff(FIRST_OPEN_TIME, LONGEST_OPEN_TIME))
    open_since: float = 0.0
    open_until: float = 0.0
    returns: list[float] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether the server has failed too often, and has not answered since."""
        return self.open_time.wait > 0

    def may_be_probed(self, folder: str, now: float) -> bool:
        """Return whether it lets a request of `folder` through although it is open, one at a time.

        A folder that has not failed yet need not wait, so that the failures of one feed delay no other.
        """
        knows_folder = hash(folder) in self.failed_folders or len(self.failed_folders) >= MAX_FAILED_FOLDERS
        return not self.busy and (now >= self.open_until or not knows_folder)

    def snoozed(self, returns: float) -> None:
        """Count a job that waits for it and returns at that time."""
        if len(self.returns) < MAX_COUNTED:
            heappush(self.returns, returns)

    def waiting(self, now: float) -> int:
        """Return how many jobs wait for it."""
        while self.returns and self.returns[0] <= now:
            heappop(self.returns)
        return len(self.returns)

    def is_down(self, now: float) -> bool:
        """Return whether it has been open for so long that each job should count an attempt."""
        return now - self.open_since > HOST_DOWN_AFTER

    def succeeded(self) -> None:
        """Close it."""
        self.failures.clear()
        self.failed_folders.clear()
        self.open_time.reset()
        self.open_until = 0.0

    def failed(self, failure: int, folder: str, now: float, took: float) -> None:
        """Count a failure after a request of `took` seconds, and open after `max_failures` of them."""
        self.failed_folders.add(hash(folder))
        if len(self.failures) < self.max_failures:
            self.failures.add(failure)
        if len(self.failures) >= self.max_failures and now >= self.open_until:  # ignores requests from before it opened
            self.open_since = self.open_since if self.is_open else now
            affordable = max(FIRST_OPEN_TIME, OPEN_PER_SECOND * took)
            self.open_until = now + min(self.open_time.next(), affordable)
