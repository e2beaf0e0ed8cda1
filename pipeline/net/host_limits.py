"""Manners towards the hosts that covers come from: few requests at a time, and none to one that is down for a while.

Nobody waits for a turn here: who cannot have one is told when to come again, and that is no attempt of his. A turn is
one request: the hosts that redirect and those that are redirected to are treated each by itself.
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

#: Failures in a row after which a host is left alone.
MAX_FAILURES = 20

#: Seconds that it is left alone: doubled from the first time to the last, each time that the one request after it fails
#: too. The longest is well within what SQS delays a message by.
FIRST_OPEN_TIME, LONGEST_OPEN_TIME = 30.0, 300.0

#: Seconds for which a host may be down until those who come are told so, which is an attempt of theirs: every job ends.
HOST_DOWN_AFTER = 3600.0

#: Seconds that a request takes, as long as nothing is known of a host.
ASSUMED_REQUEST_TIME = 0.5

#: Seconds after which one who found no turn comes again, at the most: a live job, for which somebody waits, and a bulk
#: one. In between they come one by one, as fast as the host has worked so far.
MAX_SNOOZE = {Lane.LIVE: 30.0, Lane.BULK: 120.0}

#: A wait is drawn from this range around what it should be, so that those who wait come apart.
JITTER = (0.8, 1.2)

#: Errors that are the host's own failure. Any other answer than these and 5xx shows that it is well.
HOST_FAILURES = frozenset({"unreachable", "timeout", "tls_error", "incomplete"})

#: Errors that say nothing of the host: it was not asked.
NEUTRAL_ERRORS = frozenset({"bad_url", "blocked_address"})

#: So many hosts are remembered before those that have not been asked for long are forgotten.
MAX_HOSTS = 10_000


@dataclass
class Host:
    """What is known of one host. Times are of the clock, in seconds."""

    busy: int = 0  #: requests under way
    failures: int = 0  #: in a row
    open_time: Backoff = field(
        default_factory=lambda: Backoff(FIRST_OPEN_TIME, LONGEST_OPEN_TIME)
    )  #: how long it is left alone
    open_since: float = 0.0  #: when it was first left alone, in this row
    open_until: float = 0.0
    request_time: float = ASSUMED_REQUEST_TIME  #: seconds of a request, lately
    last_request: float = 0.0  #: when the last request began
    booked_until: dict[Lane, float] = field(
        default_factory=dict
    )  #: until when those who were put off have all come again


class HostLimiter:
    """Whose turn it is, in one process.

    Parameters:
        limit: requests at a time to one host. All but one of them may be for bulk jobs.
        clock: the time in seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = {Lane.LIVE: limit, Lane.BULK: max(1, limit - 1)}
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}

    @property
    def open_circuits(self) -> int:
        """How many hosts are left alone now."""
        with self._lock:
            now = self._clock()
            return sum(now < host.open_until for host in self._hosts.values() if host.open_time.wait)

    @contextmanager
    def slot(self, url: str, lane: Lane = Lane.LIVE) -> Iterator[None]:
        """One request to the host of `url` is made inside; how it ends, tells of the host.

        Raises (on entering):
            PutOff: `host_busy`, `host_resting`.
            RetryableError: `host_down`, once it has been for an hour.
        """
        name = _host_of(url)
        if not name:  # whatever is wrong with the URL, the request tells
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
            if host.open_time.wait and (host.busy or now < host.open_until):  # after its rest, one request goes first
                if now - host.open_since > HOST_DOWN_AFTER:
                    message = f"{name} has been failing for more than an hour, and is asked but now and then."
                    raise RetryableError("host_down", message, retry=Retry.SOURCE)
                wait = max(0.0, host.open_until - now) + self._snooze_time(host, lane, now)
                raise Snoozed("host_resting", f"{name} failed too often in a row, and is left alone for a while.", wait)
            if host.busy >= self._limit[lane]:
                wait = self._snooze_time(host, lane, now)
                raise Snoozed("host_busy", f"{name} has as many requests at a time as are allowed.", wait)
            host.busy += 1
            host.last_request = now
            return host

    def _snooze_time(self, host: Host, lane: Lane, now: float) -> float:
        """Seconds until one more may come: those of a lane come one by one, as fast as the host works."""
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
        if host.failures >= MAX_FAILURES and now >= host.open_until:  # not those that began before its rest
            host.open_since = host.open_since if host.open_time.wait else now
            host.open_until = now + host.open_time.next()

    def _add(self, name: str, now: float) -> Host:
        if len(self._hosts) >= MAX_HOSTS:
            lately = now - LONGEST_OPEN_TIME
            self._hosts = {name: host for name, host in self._hosts.items() if host.busy or host.last_request > lately}
        return self._hosts.setdefault(name, Host())


@cache
def host_limiter() -> HostLimiter:
    """Those of this process, by the settings."""
    return HostLimiter(get_settings().fetch_max_per_host)


def _host_of(url: str) -> str:
    """The name that a host is known by here: with its port, where that is neither that of http nor that of https."""
    try:
        parts = urlsplit(url)
        name, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return ""
    return name if port in {None, 80, 443} else f"{name}:{port}"


def _health_after(error: PipelineError) -> bool | None:
    """Whether a request that ended so shows that the host is well; None where it tells nothing."""
    if error.code in NEUTRAL_ERRORS or isinstance(error, Snoozed):
        return None
    return error.code not in HOST_FAILURES and not error.code.startswith("http_5")
