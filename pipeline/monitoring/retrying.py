"""The jobs that wait for a retry, by cause. Each process counts those that failed in it, from its events.

A heartbeat publishes the causes. They are forgotten when the process ends, and known again after the next attempts.
"""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
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

#: Seconds between two looks for causes that have ended, while a service of our own is in trouble.
LOOK_INTERVAL = 5.0

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


@dataclass
class _Cause:
    code: str
    detail: str
    first: float
    last: float
    recovered: float | None = None  #: time of the first success since the last failure
    ended: bool = False


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
        self._troubled: dict[str, float] = {}  # services of our own in trouble, by code, and since when
        self._looked = 0.0

    def __call__(self, event: Event) -> None:
        """Count a failure or a success, in microseconds."""
        with self._lock:
            is_snoozed = event.outcome is Outcome.SNOOZED
            if event.outcome is Outcome.RETRY or (is_snoozed and event.code in RESTING):
                self._failed(event)
            elif not is_snoozed:
                self._ended(event)
        if self._troubled and self._clock() - self._looked > LOOK_INTERVAL:
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
        """Return the present causes: our own services first, then those with the most jobs."""
        with self._lock:
            now = self._looked = self._clock()
            waiting = self._waiting(now)
            found = [
                _published(stage, where, cause, waiting.get(id(cause), []))
                for (stage, where), causes in self._causes.items()
                for cause in causes.values()
                if not _is_over(cause, is_awaited=id(cause) in waiting, now=now)
            ]
            self._forget(lambda cause: _is_over(cause, is_awaited=id(cause) in waiting, now=now))
            codes = {cause.code for causes in self._causes.values() for cause in causes.values()}
            over = {code: self._troubled.pop(code) for code in self._troubled.keys() - codes}
        for code, since in over.items():
            logger.warning("%s answers again, after %s of trouble.", SERVICES[code], format_duration(now - since))
        return tuple(sorted(found, key=rank)[:MAX_PUBLISHED])

    def _failed(self, event: Event) -> None:
        fault = facts_of(event.code).fault
        place = "" if fault in {Fault.SERVICE, Fault.WORKER} else next(_places(event), "")
        detail = _detail(event.message) if fault is Fault.SERVICE else ""
        causes = self._causes.setdefault((event.stage, place), {})
        if event.code in RESTING and causes:
            cause = max(causes.values(), key=lambda each: each.last)
        else:
            cause = causes.setdefault((event.code, detail), _Cause(event.code, detail, event.at, event.at))
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
            self._jobs.pop(_key(event, place), None)
            if event.outcome is Outcome.DONE:
                for cause in self._causes.get((event.stage, place), {}).values():
                    cause.recovered = cause.recovered or event.at

    def _waiting(self, now: float) -> dict[int, list[_Waiting]]:
        """Return the jobs that still wait, by the id of their cause, and forget the others."""
        found: dict[int, list[_Waiting]] = {}
        for key, job in list(self._jobs.items()):
            if job.cause.ended or job.returns + GRACE < now:
                del self._jobs[key]
            else:
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


def merged(found: Iterable[Retrying]) -> list[Retrying]:
    """Add up the causes of several processes, with one entry for each host or receiver of a stage."""
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
    ]
    return sorted(added, key=rank)


def _is_over(cause: _Cause, *, is_awaited: bool, now: float) -> bool:
    if cause.recovered is not None and now - cause.recovered >= QUIET:
        return True
    return not is_awaited and now - cause.last >= QUIET


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
