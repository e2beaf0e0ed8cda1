"""The host limiter: few parallel requests per host, and a circuit breaker for hosts that fail.

If a host has no free slot, the job is snoozed until one is likely to be free; this does not count as an attempt. A
snooze takes a second and three requests to SQS. So a few callers wait for a host that is known to be quick, for half a
second at most. A slot is good for one request, so each host in a chain of redirects is limited on its own.

A host is a scheme, a name and a port. Sources and receivers have a limiter each, because they fail differently:

- Only failures to connect open the circuit of a source. A feed can make a healthy host answer with any error, but no
  URL of a scheme, name and port can be connected to while another one cannot.
- A receiver's circuit belongs to one URL without its query. So it may also open for requests that were not answered or
  refused, and a customer whose endpoint is broken delays no customer with another path at the same host.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import NoReturn
from urllib.parse import urlsplit

from pipeline.errors import (
    SLOW,
    Fault,
    NoConnection,
    NoRequest,
    PipelineError,
    Retry,
    RetryableError,
    Snoozed,
    facts_of,
)
from pipeline.net.bulkhead import Bulkhead, Crowd, Speed, bulkhead
from pipeline.net.circuit import Circuit
from pipeline.net.guard import as_requested
from pipeline.settings import get_settings
from pipeline.stages import Lane

#: The assumed duration of requests to an unknown host, in seconds.
ASSUMED_REQUEST_TIME = 0.5

#: Seconds within which a quick host's request ends. It is also the first time limit of a download.
QUICK_SECONDS = 3.0

#: How many callers wait for a slot of a quick host instead of being snoozed, and their longest wait in seconds.
MAX_WAITING, LONGEST_WAIT = 8, 0.5

#: Seconds between two snoozed jobs that return to a host whose circuit is open. A refused connection takes so little
#: time that the whole crowd would return at once.
RESTING_STEP = 0.1

#: Ports that a URL need not name.
DEFAULT_PORTS = {"http": 80, "https": 443}

#: The number of known hosts above which the longest idle ones are forgotten. They take 12 MB.
MAX_HOSTS = 20_000

#: The number of circuits of one host above which further paths share one, and the characters of a path to keep.
MAX_CIRCUITS, MAX_PATH = 1000, 200


@dataclass(frozen=True)
class Policy:
    """The rules for a kind of hosts.

    Attributes:
        limit: How many requests one host gets at a time. Bulk jobs may use all slots but one.
        retry: The delays of a job whose host has been failing for an hour.
        is_failure: Whether an error is a failure of the host.
        max_failures: Failures in a row after which a circuit opens.
        by_path: Whether each path has a circuit of its own, in which every failure counts, of whatever folder.
            Otherwise a host has one circuit, in which each URL counts once in each folder.
    """

    limit: int
    retry: Retry = Retry.SOURCE
    is_failure: Callable[[PipelineError], bool] = lambda error: isinstance(error, NoConnection)
    max_failures: int = 20
    by_path: bool = False

    def limit_of(self, lane: Lane) -> int:
        """Return how many requests of a lane one host gets at a time."""
        return self.limit if lane is Lane.LIVE else max(1, self.limit - 1)


@dataclass(slots=True)
class Host:
    """The state of one host. Times are in seconds of the limiter's clock.

    Attributes:
        busy: Requests in progress.
        speed: Its speed at its last request.
        circuits: Its circuits with failures or requests in progress, by path; just one, with the name "", if they do
            not belong to paths.
        request_time: The moving average of the duration of its requests.
        crowd: The snoozed jobs that wait for a slot.
        waiting: The callers that wait for a slot.
        freed: Wakes them. Most hosts never need it, and it would take twice the memory of all the rest.
    """

    busy: int = 0
    waiting: int = 0
    speed: Speed = Speed.UNKNOWN
    circuits: dict[str, Circuit] = field(default_factory=dict)
    request_time: float = ASSUMED_REQUEST_TIME
    crowd: Crowd = field(default_factory=Crowd)
    freed: threading.Condition | None = None


@dataclass(frozen=True)
class RestingHost:
    """A host with an open circuit."""

    name: str  #: with the path that the circuit belongs to, if it does not belong to all
    seconds: float  #: how long it has been open
    waiting: int  #: jobs that this process snoozed for it


@dataclass(frozen=True)
class _Slot:
    """One request in progress."""

    name: str
    host: Host
    key: str
    circuit: Circuit
    speed: Speed
    lane: Lane
    url: str
    folder: str
    began: float


class HostLimiter:
    """Limits the requests of one process to each host.

    Args:
        policy: The rules.
        clock: Returns monotonic seconds.
        bulkhead: Limits the requests to all hosts that are not known to be quick.
    """

    def __init__(
        self, policy: Policy, clock: Callable[[], float] = time.monotonic, bulkhead: Bulkhead | None = None
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._bulkhead = bulkhead or Bulkhead()
        self._lock = threading.Lock()
        self._hosts: OrderedDict[str, Host] = OrderedDict()  # by last use, except that busy ones may be later
        self._numbers = itertools.count()

    @property
    def open_circuits(self) -> int:
        """How many circuits are open."""
        return len(self.resting())

    def resting(self) -> list[RestingHost]:
        """Return the hosts whose circuits are open, the longest first."""
        with self._lock:
            now = self._clock()
            found = [
                RestingHost(f"{name}{path}", now - circuit.open_since, circuit.waiting(now))
                for name, host in self._hosts.items()
                for path, circuit in host.circuits.items()
                if circuit.is_open
            ]
        return sorted(found, key=lambda each: -each.seconds)

    def release(self, meant: str = "") -> None:
        """Close the circuits of a host, by its name or a URL, or of all, and forget how slow it was."""
        server = server_of(meant) or meant
        with self._lock:
            for host in (host for name, host in self._hosts.items() if not meant or is_at(name, server)):
                for circuit in host.circuits.values():
                    circuit.succeeded()
                host.crowd.disperse()
                host.request_time, host.speed = ASSUMED_REQUEST_TIME, Speed.UNKNOWN

    @contextmanager
    def slot(self, url: str, lane: Lane = Lane.LIVE, folder: str = "", *, patient: bool = False) -> Iterator[None]:
        """Take a slot for one request to the host of `url`. The outcome of the block updates the host's circuit.

        Args:
            url: The URL to be requested.
            lane: The lane of the job.
            folder: The folder of the job, which distinguishes feeds.
            patient: Whether the request may take long, because an earlier one did.

        Raises:
            Snoozed: `host_busy`, `host_resting`, `too_many_slow`.
            RetryableError: `host_down`, if the host has been failing for an hour.
        """
        name = host_of(url)
        if not name:  # the request will report why the URL is bad
            yield
            return
        slot = self._begin(name, url, lane, folder, patient=patient)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._end(slot, error)

    def _begin(self, name: str, url: str, lane: Lane, folder: str, *, patient: bool) -> _Slot:
        with self._lock:
            host = self._use(name)
            has_slot, now = self._has_slot(host, lane), self._clock()
            key, circuit = self._circuit(host, url)
            if circuit.is_open and not circuit.may_be_probed(self._prober(folder), now):
                self._rest(name, host, circuit, lane=lane, folder=folder, now=now)
            if not has_slot:
                wait = host.crowd.snooze(lane, self._step(host, lane), now, folder)
                raise Snoozed("host_busy", f"{name} already has as many requests as are allowed at a time.", wait)
            speed = Speed.SLOW if patient else host.speed
            if not self._bulkhead.take(speed, lane, folder):
                wait = self._bulkhead.snooze(speed, lane, folder, now)
                raise Snoozed("too_many_slow", "Enough threads of this process wait for hosts that may be slow.", wait)
            if not host.busy:
                host.crowd.disperse()
            host.circuits[key] = circuit
            host.busy += 1
            circuit.busy += 1
            return _Slot(name, host, key, circuit, speed, lane, url, folder, now)

    def _has_slot(self, host: Host, lane: Lane) -> bool:
        """Return whether a slot is free, or becomes free soon at a quick host. The lock is held, but not meanwhile."""
        limit = self._policy.limit_of(lane)
        if host.busy < limit or host.speed is not Speed.QUICK or host.waiting >= MAX_WAITING:
            return host.busy < limit
        freed = host.freed = host.freed or threading.Condition(self._lock)
        host.waiting += 1
        try:
            return freed.wait_for(lambda: host.busy < limit, LONGEST_WAIT)
        finally:
            host.waiting -= 1

    def _rest(self, name: str, host: Host, circuit: Circuit, *, lane: Lane, folder: str, now: float) -> NoReturn:
        if circuit.is_down(now):
            message = f"{name} has been failing for more than an hour and gets only an occasional request."
            raise RetryableError("host_down", message, retry=self._policy.retry)
        step = max(self._step(host, lane), RESTING_STEP)
        wait = host.crowd.snooze(lane, step, now, folder, opens=circuit.open_until)
        circuit.waiting(now)  # keeps the heap short
        circuit.snoozed(now + wait)
        raise Snoozed("host_resting", f"{name} failed too often in a row and gets no requests for a while.", wait)

    def _step(self, host: Host, lane: Lane) -> float:
        """Return the seconds after which a host that keeps all its slots busy has one free."""
        return host.request_time / self._policy.limit_of(lane)

    def _circuit(self, host: Host, url: str) -> tuple[str, Circuit]:
        key = _path_of(url) if self._policy.by_path else ""
        key = key if key in host.circuits or len(host.circuits) < MAX_CIRCUITS else ""
        return key, host.circuits.get(key) or Circuit(self._policy.max_failures)

    def _prober(self, folder: str) -> str:
        """Return the folder that may probe an open circuit at once if it has not failed; the same one for a path."""
        return "" if self._policy.by_path else folder

    def _end(self, slot: _Slot, error: BaseException | None) -> None:
        self._bulkhead.give_back(slot.speed, slot.lane, slot.folder)
        with self._lock:
            host, circuit = slot.host, slot.circuit
            host.busy -= 1
            circuit.busy -= 1
            if error is None or _shows_something(error):
                self._learn(slot, error)
            if not (circuit.busy or circuit.failures):
                host.circuits.pop(slot.key, None)
            if host.freed:
                host.freed.notify_all()
            self._use(slot.name)

    def _learn(self, slot: _Slot, error: BaseException | None) -> None:
        """Update what is known of a host from the outcome of a request."""
        host, now = slot.host, self._clock()
        took = now - slot.began
        host.request_time += (took - host.request_time) / 4
        failed = isinstance(error, PipelineError) and self._policy.is_failure(error)
        ran_out = isinstance(error, PipelineError) and error.code in SLOW
        host.speed = Speed.SLOW if ran_out or took > QUICK_SECONDS else Speed.QUICK
        if failed:
            failure = next(self._numbers) if self._policy.by_path else hash((slot.url, slot.folder))
            slot.circuit.failed(failure, self._prober(slot.folder), now, took)
        else:
            slot.circuit.succeeded()

    def _use(self, name: str) -> Host:
        """Return a host, which is now the last used one, and forget a few that were not used for long."""
        host = self._hosts.get(name) or self._hosts.setdefault(name, Host())
        self._hosts.move_to_end(name)
        self._forget()
        return host

    def _forget(self) -> None:
        """Forget the hosts that were not used for longest. They are few each time, because each request adds one."""
        for _ in range(len(self._hosts) - MAX_HOSTS):
            name, host = next(iter(self._hosts.items()))
            if host.busy or host.waiting:
                self._hosts.move_to_end(name)
            else:
                del self._hosts[name]


def _shows_something(error: BaseException) -> bool:
    """Return whether an error shows how the host is. The thread may have been interrupted, or nothing was requested."""
    return isinstance(error, PipelineError) and not isinstance(error, Snoozed | NoRequest)


def _is_receivers_failure(error: PipelineError) -> bool:
    return facts_of(error.code).fault is Fault.SERVER


def receivers(limit: int) -> Policy:
    """Return the rules for receivers, with so many requests at a time to each."""
    return Policy(limit, Retry.POSTBACK, _is_receivers_failure, max_failures=10, by_path=True)


@cache
def host_limiter() -> HostLimiter:
    """Return this process's limiter of sources, with the limit of the settings."""
    return HostLimiter(Policy(get_settings().fetch_max_per_host), bulkhead=bulkhead())


@cache
def receiver_limiter() -> HostLimiter:
    """Return this process's limiter of receivers, with the limit of the settings."""
    return HostLimiter(receivers(get_settings().notify_max_per_host), bulkhead=bulkhead())


def is_at(url: str, host: str) -> bool:
    """Return whether a request for `url` connects to the host with this name, or this name and port."""
    server = server_of(url)
    return host in {server, server.rpartition(":")[0]}


def server_of(url: str) -> str:
    """Return the name of the host that a request for `url` connects to, and its port unless it is the usual one."""
    return host_of(url).partition("://")[2]


def endpoint_of(url: str) -> str:
    """Return the receiver that `url` names, without its query; empty if it names none."""
    return f"{host}{urlsplit(as_requested(url)).path}" if (host := host_of(url)) else ""


def _path_of(url: str) -> str:
    path = urlsplit(as_requested(url)).path
    return path if len(path) <= MAX_PATH else f"{path[:MAX_PATH]}…{hash(path):x}"


def host_of(url: str) -> str:
    """Return scheme, name and port of the server that a request for `url` connects to; empty if it names none."""
    try:
        parts = urlsplit(as_requested(url))
        name, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError:
        return ""
    if parts.scheme not in DEFAULT_PORTS or not name:
        return ""
    return f"{parts.scheme}://{name}" + ("" if port in {None, DEFAULT_PORTS[parts.scheme]} else f":{port}")
