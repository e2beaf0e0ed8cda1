"""The jobs that wait for a retry, by cause. Each process counts its own failed jobs, from its events.

A heartbeat publishes the causes. They are forgotten when the process ends, and known again after the next attempts.
"""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from threading import Lock

from pipeline.errors import Fault, facts_of
from pipeline.events import Event, Outcome
from pipeline.net.host_limits import endpoint_of, host_of
from pipeline.stages import FETCH, NOTIFY
from pipeline.text import format_duration, shorten

logger = logging.getLogger(__name__)

#: Seconds without a failure after a success until the cause has ended.
QUIET = 15.0

#: Seconds after which a job that was due is no longer counted: it has been tried, perhaps by another process.
GRACE = 10.0

#: Seconds after which a job that was due is forgotten. Until then its success shows that its cause is over.
KEPT = 900.0

#: Seconds between two looks for causes that have begun or ended, in a process without heartbeats.
LOOK_INTERVAL = 5.0

#: Jobs of one host or receiver from which on the log has its trouble.
LOGGED_JOBS = 10

#: Maximum number of jobs and of causes to remember, and of causes to publish. The jobs take 6 MB.
MAX_JOBS, MAX_CAUSES, MAX_PUBLISHED = 20_000, 500, 20

#: Maximum length of a published text. A path of a receiver may have thousands of characters.
MAX_TEXT = 500

#: Codes of jobs that were not tried because their host has failed so often.
RESTING = frozenset({"host_resting", "host_down"})

#: Names of our own services by the code of their errors.
SERVICES = {"s3_error": "S3", "sqs_error": "SQS", "staging_error": "Staging", "mongo_error": "MongoDB"}


@dataclass(frozen=True)
class Retrying:
    """Jobs of one stage that wait for a retry because of one cause."""

    stage: str
    code: str  #: of the last failure
    detail: str  #: the answer of a service of our own, such as `AccessDenied`
    where: str  #: the host of the source, or the receiver without its query; empty for a service of our own
    jobs: int
    folders: int  #: number of folders that the jobs belong to, in one process
    since: datetime  #: the first failure
    next: datetime  #: the next attempt
    last: datetime  #: the latest failure
    recovered: datetime | None = None  #: the first success since then

    def is_over(self, now: datetime) -> bool:
        """Return whether it has worked since the latest failure, and for long enough to believe it."""
        return self.recovered is not None and now - self.recovered >= timedelta(seconds=QUIET)


@dataclass
class _Cause:
    code: str
    detail: str
    first: float
    last: float
    recovered: float | None = None  #: time of the first success since the last failure
    ended: bool = False

    def has_recovered(self, now: float) -> bool:
        """Return whether it is over, although its jobs may wait for hours."""
        return self.recovered is not None and now - self.recovered >= QUIET

    def is_past(self, now: float) -> bool:
        """Return whether it can be forgotten once no job waits. Other processes learn from it that it is over."""
        return now - self.recovered >= KEPT if self.recovered else now - self.last >= QUIET


@dataclass(frozen=True, slots=True)
class _Waiting:
    cause: _Cause
    returns: float
    folder: int


class BeingRetried:
    """The register of one process, which subscribes to its events.

    Args:
        clock: Returns Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = Lock()
        self._causes: dict[tuple[str, str], dict[tuple[str, str], _Cause]] = {}  # by stage and host
        self._jobs: OrderedDict[int, _Waiting] = OrderedDict()  # the latest failure is the last
        self._troubled: dict[str, float] = {}  # services, by code, and hosts whose trouble is logged, and since when
        self._looked = 0.0

    def __call__(self, event: Event) -> None:
        """Count a failure or a success, in microseconds."""
        with self._lock:
            is_snoozed = event.outcome is Outcome.SNOOZED
            if event.outcome is Outcome.RETRY or (is_snoozed and event.code in RESTING):
                self._failed(event)
            elif not is_snoozed:
                self._ended(event)
        if (self._causes or self._troubled) and self._clock() - self._looked > LOOK_INTERVAL:
            self.current()

    def hurry(self, is_meant: Callable[[str, str], bool]) -> None:
        """Note that the jobs of the causes that `is_meant` accepts, by code and host, are tried now."""
        soon = self._clock() + 60
        with self._lock:
            meant = {
                id(cause)
                for (_, where), causes in self._causes.items()
                for cause in causes.values()
                if is_meant(cause.code, where)
            }
            for key, job in self._jobs.items():
                if id(job.cause) in meant:
                    self._jobs[key] = replace(job, returns=min(job.returns, soon))

    def current(self) -> tuple[Retrying, ...]:
        """Return the causes: present ones first, then our own services, then by their number of jobs."""
        with self._lock:
            now = self._looked = self._clock()
            waiting = self._waiting(now)
            self._forget(lambda cause: id(cause) not in waiting and cause.is_past(now))
            found = [
                (cause, _published(stage, where, cause, waiting.get(id(cause), [])))
                for (stage, where), causes in self._causes.items()
                for cause in causes.values()
            ]
            lines = self._log_lines([each for cause, each in found if not cause.has_recovered(now)], now)
        for line in lines:
            logger.warning(line)
        found.sort(key=lambda each: (each[0].has_recovered(now), rank(each[1])))
        return tuple(each for _, each in found[:MAX_PUBLISHED])

    def _log_lines(self, found: Iterable[Retrying], now: float) -> list[str]:
        """Note whose trouble has begun or ended, and return the lines to log."""
        present = {each.where or each.code: each for each in found}
        over = {name: self._troubled.pop(name) for name in self._troubled.keys() - present.keys()}
        lines = [
            f"{SERVICES.get(name, name)} fails no jobs any more, after {format_duration(now - since)} of trouble."
            for name, since in over.items()
        ]
        for name, each in present.items():
            if each.where and each.jobs >= LOGGED_JOBS and name not in self._troubled:
                self._troubled[name] = each.since.timestamp()
                lines.append(f"{name} fails ({each.code}), and {each.jobs} jobs or deliveries wait for a retry.")
        return lines

    def _failed(self, event: Event) -> None:
        fault = facts_of(event.code).fault
        place = "" if fault in {Fault.SERVICE, Fault.WORKER} else next(_places(event), "")
        detail = _detail(event.message) if fault is Fault.SERVICE else ""
        causes = self._causes.setdefault((event.stage, place), {})
        if event.code in RESTING and causes:
            cause = max(causes.values(), key=lambda each: each.last)
        else:
            cause = causes.setdefault((event.code, detail), _Cause(event.code, detail, event.at, event.at))
            if cause.has_recovered(event.at):
                cause.first = event.at
            cause.last, cause.recovered = event.at, None
        folder = hash(event.job.folder if event.job else "")
        key = _key(event, place)
        self._jobs[key] = _Waiting(cause, event.at + event.wait, folder)
        self._jobs.move_to_end(key)
        if len(self._jobs) > MAX_JOBS:
            self._jobs.popitem(last=False)
        if sum(map(len, self._causes.values())) > MAX_CAUSES:
            oldest = min((each for causes in self._causes.values() for each in causes.values()), key=lambda c: c.last)
            self._forget(lambda cause: cause is oldest)
        if event.code in SERVICES and event.code not in self._troubled:
            self._troubled[event.code] = event.at
            sentence = "%s is in trouble, and jobs are retried: %s `image-pipeline check` explains it."
            logger.warning(sentence, SERVICES[event.code], event.message)

    def _ended(self, event: Event) -> None:
        for place in (*_places(event), ""):
            waited = self._jobs.pop(_key(event, place), None)
            if event.outcome is Outcome.DONE:
                of_host = self._causes.get((event.stage, place), {}).values() if place else ()
                # Another job may have succeeded without the service that refuses: a postback needs no MongoDB.
                for cause in (waited.cause,) if waited else of_host:
                    cause.recovered = cause.recovered or event.at

    def _waiting(self, now: float) -> dict[int, list[_Waiting]]:
        """Return the jobs that still wait, by the id of their cause, and forget long overdue ones."""
        found: dict[int, list[_Waiting]] = {}
        for key, job in list(self._jobs.items()):
            if job.cause.ended or job.returns + KEPT < now:
                del self._jobs[key]
            elif job.returns + GRACE >= now:
                found.setdefault(id(job.cause), []).append(job)
        return found

    def _forget(self, is_over: Callable[[_Cause], bool]) -> None:
        for place, causes in list(self._causes.items()):
            for key, cause in list(causes.items()):
                if is_over(cause):
                    cause.ended = True
                    del causes[key]
            if not causes:
                del self._causes[place]


@cache
def being_retried() -> BeingRetried:
    """Return the register of this process."""
    return BeingRetried()


def rank(each: Retrying) -> tuple[bool, int]:
    """Return the key that sorts our own services first, then the causes with the most jobs."""
    return each.code not in SERVICES, -each.jobs


def merged(found: Iterable[Retrying], now: datetime) -> list[Retrying]:
    """Add up the causes of several processes that are not over, with one entry for each host or receiver of a stage."""
    groups: dict[tuple[str, ...], list[Retrying]] = {}
    for each in found:
        key = (each.stage, each.where) if each.where else (each.stage, each.code, each.detail, "")
        groups.setdefault(key, []).append(each)
    added = [
        replace(
            max(group, key=lambda each: each.jobs),
            jobs=sum(each.jobs for each in group),
            folders=max(each.folders for each in group),
            since=min(each.since for each in group),
            next=min(each.next for each in group),
        )
        for group in groups.values()
        if not _is_over(group, now)
    ]
    return sorted((each for each in added if each.jobs), key=rank)


def _is_over(group: Sequence[Retrying], now: datetime) -> bool:
    """Return whether a cause is over by what one of the processes saw after the latest failure in any of them."""
    last = max(each.last for each in group)
    return any(each.recovered and each.recovered >= last and each.is_over(now) for each in group)


def _published(stage: str, where: str, cause: _Cause, waiting: list[_Waiting]) -> Retrying:
    following = min((job.returns for job in waiting), default=cause.last)
    return Retrying(
        stage,
        cause.code,
        cause.detail,
        shorten(where, MAX_TEXT),
        len(waiting),
        len({job.folder for job in waiting}),
        datetime.fromtimestamp(cause.first, UTC),
        datetime.fromtimestamp(following, UTC),
        datetime.fromtimestamp(cause.last, UTC),
        datetime.fromtimestamp(cause.recovered, UTC) if cause.recovered else None,
    )


def _key(event: Event, place: str) -> int:
    return hash((event.stage, event.job_id, place))


def _places(event: Event) -> Iterator[str]:
    """Yield the hosts of the sources, or the receiver, that an attempt asked."""
    if event.stage == FETCH.name:
        yield from filter(None, map(host_of, event.worked_on))
    elif event.stage == NOTIFY.name and event.job and event.job.postback_url:
        yield endpoint_of(event.job.postback_url)


def _detail(message: str) -> str:
    """Return the answer in a message about a service.

    >>> _detail("Could not put a rendition: S3 answered AccessDenied.")
    'AccessDenied'
    >>> _detail("The staging folder cannot be written: No space left on device.")
    'No space left on device'
    """
    answer = message.partition(": ")[2].removesuffix(".")
    return shorten(re.sub(r"^\w+ (answered|raised) (?=\w+$)", "", answer), 100)
