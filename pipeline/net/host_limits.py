"""The host limiter: few parallel requests per source host, and a circuit breaker for hosts that fail.

Callers never block. If a host has no free slot, the job is snoozed until one is likely to be free; this does not count
as an attempt. A slot is good for one request, so each host in a chain of redirects is limited on its own.

A host is a scheme, a name and a port. Only failures to connect open its circuit. A feed can make a healthy host answer
with any error, but no URL of a scheme, name and port can be connected to while another one cannot.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import urlsplit

from pipeline.backoff import Backoff
from pipeline.errors import NoConnection, PipelineError, Retry, RetryableError, Snoozed
from pipeline.net.guard import as_requested
from pipeline.settings import get_settings
from pipeline.stages import Lane

#: Failures in a row after which a host's circuit opens. Each URL counts once in each folder.
MAX_FAILURES = 20

#: The number of failed folders of a host above which no further folder probes it while its circuit is open.
MAX_FAILED_FOLDERS = 100

#: Seconds that a circuit stays open, doubled each time that the single request after it fails too. The longest is well
#: within the 15 minutes that SQS can delay a message.
FIRST_OPEN_TIME, LONGEST_OPEN_TIME = 30.0, 300.0

#: Seconds after which a failing host costs each job an attempt instead of a snooze, so that every job ends.
HOST_DOWN_AFTER = 3600.0

#: The assumed duration of requests to an unknown host, in seconds.
ASSUMED_REQUEST_TIME = 0.5

#: The longest snooze of a job that finds no free slot, in seconds. Shorter ones are spread so that jobs return one by
#: one, at the rate at which the host has answered so far.
MAX_SNOOZE = {Lane.LIVE: 30.0, Lane.BULK: 120.0}

#: Each snooze is multiplied by a random factor from this range, so that jobs return apart.
JITTER = (0.8, 1.2)

#: Errors that show nothing about the host, because no request was made.
NEUTRAL_ERRORS = frozenset({"bad_url", "blocked_address", "blocked_port"})

#: Ports that a URL need not name.
DEFAULT_PORTS = {"http": 80, "https": 443}

#: The number of known hosts above which those without a recent request are forgotten.
MAX_HOSTS = 10_000


@dataclass
class Host:
    """The state of one host. Times are in seconds of the limiter's clock.

    Attributes:
        busy: Requests in progress.
        failures: Hashes of the failures in a row, each of a URL in a folder; up to `MAX_FAILURES`.
        failed_folders: Hashes of the folders of these failures and of later ones; up to `MAX_FAILED_FOLDERS`.
        open_time: How long its circuit opens; 0 while it is closed.
        open_since: When its circuit opened first, since the host was last healthy.
        open_until: When its circuit lets a single request through.
        request_time: The moving average of the duration of its requests.
        last_request: When its last request began.
        booked_until: When the last of the snoozed jobs returns, by lane.
    """

    busy: int = 0
    failures: set[int] = field(default_factory=set)
    failed_folders: set[int] = field(default_factory=set)
    open_time: Backoff = field(default_factory=lambda: Backoff(FIRST_OPEN_TIME, LONGEST_OPEN_TIME))
    open_since: float = 0.0
    open_until: float = 0.0
    request_time: float = ASSUMED_REQUEST_TIME
    last_request: float = 0.0
    booked_until: dict[Lane, float] = field(default_factory=dict)

    def may_be_probed(self, folder: str, now: float) -> bool:
        """Return whether its open circuit lets a request of `folder` through, one at a time.

        A folder that has not failed yet need not wait, so that the failures of one feed delay no other.
        """
        knows_folder = hash(folder) in self.failed_folders or len(self.failed_folders) >= MAX_FAILED_FOLDERS
        return not self.busy and (now >= self.open_until or not knows_folder)

    def succeeded(self) -> None:
        """Close its circuit."""
        self.failures.clear()
        self.failed_folders.clear()
        self.open_time.reset()

    def failed(self, url: str, folder: str, now: float) -> None:
        """Count a failure, and open its circuit after `MAX_FAILURES` of them."""
        self.failed_folders.add(hash(folder))
        if len(self.failures) < MAX_FAILURES:
            self.failures.add(hash((url, folder)))
        if len(self.failures) >= MAX_FAILURES and now >= self.open_until:  # ignores requests from before it opened
            self.open_since = self.open_since if self.open_time.wait else now
            self.open_until = now + self.open_time.next()


class HostLimiter:
    """Limits the requests of one process to each host.

    Args:
        limit: How many requests one host gets at a time. Bulk jobs may use all slots but one.
        clock: Returns monotonic seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = {Lane.LIVE: limit, Lane.BULK: max(1, limit - 1)}
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}

    @property
    def open_circuits(self) -> int:
        """How many hosts have an open circuit."""
        with self._lock:
            now = self._clock()
            return sum(now < host.open_until for host in self._hosts.values() if host.open_time.wait)

    @contextmanager
    def slot(self, url: str, lane: Lane = Lane.LIVE, folder: str = "") -> Iterator[None]:
        """Take a slot for one request to the host of `url`. The outcome of the block updates the host's circuit.

        Args:
            url: The URL to be requested.
            lane: The lane of the job.
            folder: The folder of the job, to tell feeds apart.

        Raises:
            Snoozed: `host_busy`, `host_resting`.
            RetryableError: `host_down`, if the host has been failing for an hour.
        """
        name = _host_of(url)
        if not name:  # the request will report why the URL is bad
            yield
            return
        host = self._begin(name, lane, folder)
        began, is_healthy = self._clock(), None
        try:
            yield
            is_healthy = True
        except PipelineError as error:
            is_healthy = _health_after(error)
            raise
        finally:
            self._end(host, is_healthy, self._clock() - began, url, folder)

    def _begin(self, name: str, lane: Lane, folder: str) -> Host:
        with self._lock:
            now = self._clock()
            host = self._hosts.get(name) or self._add(name, now)
            if host.open_time.wait and not host.may_be_probed(folder, now):
                if now - host.open_since > HOST_DOWN_AFTER:
                    message = f"{name} has been failing for more than an hour and gets only an occasional request."
                    raise RetryableError("host_down", message, retry=Retry.SOURCE)
                wait = max(0.0, host.open_until - now) + self._snooze_time(host, lane, now)
                raise Snoozed(
                    "host_resting", f"{name} failed too often in a row and gets no requests for a while.", wait
                )
            if host.busy >= self._limit[lane]:
                wait = self._snooze_time(host, lane, now)
                raise Snoozed("host_busy", f"{name} already has as many requests as are allowed at a time.", wait)
            host.busy += 1
            host.last_request = now
            return host

    def _snooze_time(self, host: Host, lane: Lane, now: float) -> float:
        """Return the snooze of a job in seconds. The jobs of a lane return one by one, as fast as the host answers."""
        step = host.request_time / self._limit[lane]
        host.booked_until[lane] = min(max(now, host.booked_until.get(lane, now)) + step, now + MAX_SNOOZE[lane])
        return (host.booked_until[lane] - now) * random.uniform(*JITTER)  # noqa: S311 - no secret is drawn

    def _end(self, host: Host, is_healthy: bool | None, took: float, url: str, folder: str) -> None:
        with self._lock:
            host.busy -= 1
            host.request_time += (took - host.request_time) / 4
            if is_healthy:
                host.succeeded()
            elif is_healthy is False:
                host.failed(url, folder, self._clock())

    def _add(self, name: str, now: float) -> Host:
        if len(self._hosts) >= MAX_HOSTS:
            recently = now - LONGEST_OPEN_TIME
            self._hosts = {
                name: host for name, host in self._hosts.items() if host.busy or host.last_request > recently
            }
        return self._hosts.setdefault(name, Host())


@cache
def host_limiter() -> HostLimiter:
    """Return the limiter of this process, with the limit of the settings."""
    return HostLimiter(get_settings().fetch_max_per_host)


def _host_of(url: str) -> str:
    """Return scheme, name and port of the server that a request for `url` connects to; empty if it names none."""
    try:
        parts = urlsplit(as_requested(url))
        name, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError:
        return ""
    if parts.scheme not in DEFAULT_PORTS or not name:
        return ""
    return f"{parts.scheme}://{name}" + ("" if port in {None, DEFAULT_PORTS[parts.scheme]} else f":{port}")


def _health_after(error: PipelineError) -> bool | None:
    """Return whether an error shows that the host is healthy, or None if it shows nothing."""
    if error.code in NEUTRAL_ERRORS or isinstance(error, Snoozed):
        return None
    return not isinstance(error, NoConnection)
