"""The host limiter: few parallel requests per source host, and a circuit breaker for hosts that fail.

Callers never block. If a host has no free slot, the job is snoozed until one is likely to be free; this does not count
as an attempt. A slot is good for one request, so each host in a chain of redirects is limited on its own.
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
from pipeline.errors import PipelineError, Retry, RetryableError, Snoozed
from pipeline.settings import get_settings
from pipeline.stages import Lane

#: Failures in a row after which a host's circuit opens.
MAX_FAILURES = 20

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

#: Errors that count as failures of the host, as 5xx does. Any other answer shows that it is healthy.
HOST_FAILURES = frozenset({"unreachable", "timeout", "tls_error", "incomplete"})

#: Errors that show nothing about the host, because no request was made.
NEUTRAL_ERRORS = frozenset({"bad_url", "blocked_address"})

#: The number of known hosts above which those without a recent request are forgotten.
MAX_HOSTS = 10_000


@dataclass
class Host:
    """The state of one host. Times are in seconds of the limiter's clock.

    Attributes:
        busy: Requests in progress.
        failures: Failures in a row.
        open_time: How long its circuit opens; 0 while it is closed.
        open_since: When its circuit opened first, since the host was last healthy.
        open_until: When its circuit lets a single request through.
        request_time: The moving average of the duration of its requests.
        last_request: When its last request began.
        booked_until: When the last of the snoozed jobs returns, by lane.
    """

    busy: int = 0
    failures: int = 0
    open_time: Backoff = field(default_factory=lambda: Backoff(FIRST_OPEN_TIME, LONGEST_OPEN_TIME))
    open_since: float = 0.0
    open_until: float = 0.0
    request_time: float = ASSUMED_REQUEST_TIME
    last_request: float = 0.0
    booked_until: dict[Lane, float] = field(default_factory=dict)


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
    def slot(self, url: str, lane: Lane = Lane.LIVE) -> Iterator[None]:
        """Take a slot for one request to the host of `url`. The outcome of the block updates the host's circuit.

        Raises:
            Snoozed: `host_busy`, `host_resting`.
            RetryableError: `host_down`, if the host has been failing for an hour.
        """
        name = _host_of(url)
        if not name:  # the request will report why the URL is bad
            yield
            return
        host = self._begin(name, lane)
        began, is_healthy = self._clock(), None
        try:
            yield
            is_healthy = True
        except PipelineError as error:
            is_healthy = _health_after(error)
            raise
        finally:
            self._end(host, is_healthy, self._clock() - began)

    def _begin(self, name: str, lane: Lane) -> Host:
        with self._lock:
            now = self._clock()
            host = self._hosts.get(name) or self._add(name, now)
            if host.open_time.wait and (host.busy or now < host.open_until):  # a single request probes it first
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

    def _end(self, host: Host, is_healthy: bool | None, took: float) -> None:
        with self._lock:
            host.busy -= 1
            host.request_time += (took - host.request_time) / 4
            if is_healthy:
                host.failures = 0
                host.open_time.reset()
            elif is_healthy is False:
                self._failed(host)

    def _failed(self, host: Host) -> None:
        now = self._clock()
        host.failures += 1
        if host.failures >= MAX_FAILURES and now >= host.open_until:  # ignores requests from before it opened
            host.open_since = host.open_since if host.open_time.wait else now
            host.open_until = now + host.open_time.next()

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
    """Return the host of a URL, with its port unless that is 80 or 443; empty if the URL has no host."""
    try:
        parts = urlsplit(url)
        name, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return ""
    return name if port in {None, 80, 443} else f"{name}:{port}"


def _health_after(error: PipelineError) -> bool | None:
    """Return whether an error shows that the host is healthy, or None if it shows nothing."""
    if error.code in NEUTRAL_ERRORS or isinstance(error, Snoozed):
        return None
    return error.code not in HOST_FAILURES and not error.code.startswith("http_5")
