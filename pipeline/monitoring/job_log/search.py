"""Search the job log: lists of jobs by lane, outcome, stage, error code and text, page by page.

The order never changes while jobs go on: the latest to begin come first, or among failures the latest to fail. Lists
read no attempts but the latest of each stage.

No index contains texts, codes or stages. So a search examines windows of jobs, latest first, and stops at
`MAX_EXAMINED` jobs or after `MAX_SECONDS`. It then reports how far it came, and the next page goes on from there. If
there are no more jobs than that, one query reads them all.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from time import monotonic
from typing import Any, Literal

import pymongo
from bson.regex import Regex
from pymongo.errors import PyMongoError

from pipeline.clients import mongo
from pipeline.events import Outcome
from pipeline.job_ids import is_whole
from pipeline.monitoring.job_log.reader import FAILED, JobHistory, history_of, ids_from, matching
from pipeline.monitoring.job_log.schema import JOBS
from pipeline.stages import NOTIFY, Lane

#: Outcomes that a list can be restricted to.
Outcomes = Literal["", "failed", "well"]

#: Bounds of one search. The first window has only the time limit of the caller, so each page makes progress.
MAX_EXAMINED, MAX_SECONDS = 20_000, 0.5

#: Jobs in the first window, factor by which windows grow, and jobs in the largest. Most lists need only the first.
FIRST_WINDOW, GROWTH, MAX_WINDOW = 200, 5, 5_000

#: Time before a position in which jobs are first looked for, how it grows, and beyond which there is no bound.
FIRST_SPAN, SPAN_GROWTH, MAX_SPAN = timedelta(minutes=1), 8, timedelta(days=60)

_EPOCH, _FUTURE = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)

#: The beginning of a UUID, and a beginning that is long enough that few other jobs have it in a URL or folder.
_BEGINNING = re.compile(r"[0-9a-f-]+", re.IGNORECASE)
_LONG_BEGINNING = re.compile(r"[0-9a-f]{8}[0-9a-f-]*", re.IGNORECASE)


@dataclass(frozen=True)
class JobFilter:
    """A filter for jobs. Empty fields match every job."""

    lane: Lane | None = None
    outcome: Outcomes = ""  #: `failed`: also if only a part failed; `well`: all others
    stage: str = ""  #: `JobHistory.stage`: the stage that failed, or in which the job is due
    code: str = ""  #: of the error of any attempt
    text: str = ""  #: the beginning of an id, or a part of a URL as host and path or of the folder; case is ignored

    @property
    def order(self) -> str:
        """The field by whose time jobs are listed."""
        return "failed" if self.outcome == "failed" else "began"

    def indexed(self) -> list[dict[str, Any]]:
        """Return the conditions that an index answers in the order of the list, together with bounds of its time.

        There is one for each lane, because the embedded server uses an index only for equality and a closed range.
        """
        return [{}] if self.order == "failed" else [{"lane": lane} for lane in Lane if self.lane in {None, lane}]

    def query(self) -> dict[str, Any]:
        """Return the other conditions that MongoDB checks."""
        query: dict[str, Any] = {}
        if self.code:
            query["turns.code"] = self.code
        texts, stages = self._with_text(), self._in_stage()
        if texts and stages:
            return query | {"$and": [{"$or": texts}, {"$or": stages}]}
        return query | ({"$or": texts or stages} if texts or stages else {})

    def _with_text(self) -> list[dict[str, Any]]:
        """Return conditions of which a job with the text fulfils one. Whole ids are looked up before."""
        if not self.text:
            return []
        part = Regex(re.escape(self.text), "i")  # which the embedded server compares in less time than `$regex`
        conditions = [{name: part} for name in ("folder", "sources.0.url", "sources.1.url")]
        is_beginning = _BEGINNING.fullmatch(self.text) and not is_whole(self.text)
        return [{"_id": ids_from(self.text.lower())}, *conditions] if is_beginning else conditions

    def _in_stage(self) -> list[dict[str, Any]]:
        """Return conditions of which a job in the stage fulfils one: it failed, is under way or was dropped.

        Most jobs end in the last stage, so its list needs no conditions. Failures have an index.
        """
        if self.stage in {"", NOTIFY.name} or self.outcome == "failed":
            return []
        return [{"failed": {"$exists": True}}, {"open": True}, {f"latest.{self.stage}.verdict": Outcome.DROPPED.value}]

    def matches(self, history: JobHistory) -> bool:
        """Return whether a job fits the conditions that depend on more than one field of its document."""
        failed = {"": None, "failed": True, "well": False}[self.outcome]
        return (
            failed in {None, history.status in FAILED}
            and self.stage in {"", history.stage}
            and self.lane in {None, history.lane}
        )


@dataclass(frozen=True)
class JobPage:
    """A part of a list of jobs.

    Attributes:
        jobs: the jobs that match.
        following: the position where the next part starts; empty at the end.
        cut_off: a sentence for people if the search stopped before the part was full; else empty.
    """

    jobs: tuple[JobHistory, ...] = ()
    following: str = ""
    cut_off: str = ""


def search(wanted: JobFilter = JobFilter(), limit: int = 50, after: str = "") -> JobPage:
    """List the jobs that match, within the bounds of one search.

    If the text begins the ids of jobs that match, the list consists of these. Otherwise the job would not be found by
    its id once enough others began after it.

    Args:
        wanted: the filter.
        limit: number of jobs; jobs that began at the same time as the last one are added.
        after: `JobPage.following` of the previous part.

    Raises:
        ValueError: `after` is not a position.
        SettingsError: JOBS_MONGO_URL is not set.
        RetryableError: MongoDB cannot be reached.
    """
    before = _moment(after) if after else None
    with mongo.mongo_errors("read the job log"):
        if not after and is_whole(wanted.text) and (jobs := _with_id(wanted, limit)):
            return JobPage(jobs)
        if wanted.query() and mongo.job_database()[JOBS].estimated_document_count() <= MAX_EXAMINED:
            # One window, without lanes: the embedded server reads all jobs for each query that no index answers alone.
            found, last = _read(wanted, limit, None, before, lists=[{}])
            return JobPage(tuple(found), _place(last))
        if not after and (jobs := _with_id(wanted, limit)):
            return JobPage(jobs)
        return _in_windows(wanted, limit, before)


def _with_id(wanted: JobFilter, limit: int) -> tuple[JobHistory, ...]:
    """Return the jobs that match, by the beginning of their ids or a MessageId; none if it is short or begins many."""
    ids = matching(wanted.text.lower(), limit + 1) if _LONG_BEGINNING.fullmatch(wanted.text) else []
    if not ids or len(ids) > limit:
        return ()
    query = {"_id": {"$in": ids}} | replace(wanted, text="").query()
    found = _with_attempts(mongo.job_database()[JOBS].find(query, {"turns": 0}))
    listed = (document for document in found if wanted.order in document)
    latest_first = sorted(listed, key=lambda document: document[wanted.order], reverse=True)
    return tuple(history for history in map(history_of, latest_first) if wanted.matches(history))


def _in_windows(wanted: JobFilter, limit: int, before: datetime | None) -> JobPage:
    jobs: list[JobHistory] = []
    examined, size, deadline = 0, FIRST_WINDOW, monotonic() + MAX_SECONDS
    while not examined or (examined < MAX_EXAMINED and monotonic() < deadline):
        size = min(size, MAX_EXAMINED - examined)
        try:
            with pymongo.timeout(max(0.001, deadline - monotonic())) if examined else nullcontext():
                since = _since(wanted, before, size)
                found, last = _read(wanted, limit - len(jobs), since, before)
        except PyMongoError as error:
            if not examined or not error.timeout:
                raise
            break  # the jobs of the windows before are a part of the list
        jobs += found
        if last is not None or since is None or len(jobs) >= limit:
            return JobPage(tuple(jobs), _place(last or since))
        before, examined, size = since, examined + size, min(size * GROWTH, MAX_WINDOW)
    return JobPage(tuple(jobs), _place(before), _cut_off(wanted, before))


def _since(wanted: JobFilter, before: datetime | None, size: int) -> datetime | None:
    """Return the time of the job with which a window of `size` jobs ends; None if there are fewer.

    It looks back over growing spans, because the embedded server sorts all jobs of a span.
    """
    by, jobs, span = wanted.order, mongo.job_database()[JOBS], FIRST_SPAN
    while True:
        floor = None if span > MAX_SPAN else (before or datetime.now(UTC)) - span
        for indexed in wanted.indexed():
            query = indexed | _between(by, floor, before)
            for found in jobs.find(query, {by: 1, "_id": 0}).sort(by, -1).skip(size - 1).limit(1):
                at: datetime = found[by]
                return at
        if floor is None:
            return None
        span *= SPAN_GROWTH


def _read(
    wanted: JobFilter,
    limit: int,
    since: datetime | None,
    before: datetime | None,
    *,
    lists: Sequence[dict[str, Any]] = (),
) -> tuple[list[JobHistory], datetime | None]:
    """Return the jobs of a window that match, and the time of the last one if they are cut at `limit`."""
    by = wanted.order
    query = wanted.query() | _between(by, since, before)
    jobs: list[JobHistory] = []
    last: datetime | None = None
    found = (
        mongo.job_database()[JOBS].find(each | query, {"turns": 0}).sort(by, -1) for each in lists or wanted.indexed()
    )
    for document in _with_attempts(heapq.merge(*found, key=itemgetter(by), reverse=True)):
        if len(jobs) >= limit and document[by] != last:
            return jobs, last
        last = document[by]
        history = history_of(document)
        if wanted.matches(history):
            jobs.append(history)
    return jobs, None


def _between(by: str, since: datetime | None, before: datetime | None) -> dict[str, Any]:
    return {by: {"$gte": since or _EPOCH, "$lt": before or _FUTURE}}


def _cut_off(wanted: JobFilter, before: datetime | None) -> str:
    return f"Not everything was searched: jobs that {wanted.order} before {before:%Y-%m-%d %H:%M:%S} UTC were left out."


def _with_attempts(found: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the documents with their latest attempts as `turns`; an earlier version wrote none, so all are read."""
    for document in found:
        if "latest" in document:
            yield document | {"turns": list(document["latest"].values())}
        elif whole := mongo.job_database()[JOBS].find_one({"_id": document["_id"]}):
            yield whole


def _place(moment: datetime | None) -> str:
    return f"{(moment - _EPOCH) // timedelta(milliseconds=1)}" if moment else ""


def _moment(position: str) -> datetime:
    if not re.fullmatch(r"[0-9]{1,14}", position):
        raise ValueError("this is not a position in a list of jobs")
    return _EPOCH + timedelta(milliseconds=int(position))
