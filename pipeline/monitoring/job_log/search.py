"""Search the job log: lists of jobs by lane, outcome, stage, error code and text, page by page.

The order never changes while jobs go on: the latest to begin come first, or among failures the latest to fail. Lists
read no attempts but the latest of each stage.

No index contains texts, codes or stages. So a search examines windows of jobs, latest first, and stops at
`MAX_EXAMINED` jobs or after `MAX_SECONDS`. It then reports how far it came, and the next page goes on from there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Literal

import pymongo
from pymongo.errors import PyMongoError

from pipeline.clients import mongo
from pipeline.monitoring.job_log.reader import FAILED, JobHistory, history_of, ids_from, matching
from pipeline.monitoring.job_log.schema import JOBS
from pipeline.stages import Lane

#: Outcomes that a list can be restricted to.
Outcomes = Literal["", "failed", "well"]

#: Bounds of one search. The first window has only the time limit of the caller, so each page makes progress.
MAX_EXAMINED, MAX_SECONDS = 20_000, 0.5

#: Jobs in the first window, factor by which windows grow, and jobs in the largest. Most lists need only the first.
FIRST_WINDOW, GROWTH, MAX_WINDOW = 200, 5, 5_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: The beginning of a UUID. It is long enough that few other jobs have it in a URL or folder.
_ID = re.compile(r"[0-9a-f]{8}[0-9a-f-]*", re.IGNORECASE)


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

    def indexed(self) -> dict[str, Any]:
        """Return the conditions that an index answers in the order of the list, without reading documents."""
        if self.order == "failed":
            return {"failed": {"$exists": True}}
        return {"lane": {"$in": [self.lane] if self.lane else list(Lane)}}

    def query(self) -> dict[str, Any]:
        """Return the conditions that MongoDB checks."""
        query = self.indexed()
        if self.lane:
            query["lane"] = {"$in": [self.lane]}
        if self.code:
            query["turns.code"] = self.code
        if self.text:
            part = {"$regex": re.escape(self.text), "$options": "i"}
            names = ("folder", "sources.0.url", "sources.1.url")
            query["$or"] = [{"_id": ids_from(self.text.lower())}, *({name: part} for name in names)]
        return query

    def matches(self, history: JobHistory) -> bool:
        """Return whether a job fits the conditions that depend on more than one field of its document."""
        failed = {"": None, "failed": True, "well": False}[self.outcome]
        return failed in {None, history.status in FAILED} and self.stage in {"", history.stage}


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
        if not after and (jobs := _with_id(wanted, limit)):
            return JobPage(jobs)
        return _in_windows(wanted, limit, before)


def _with_id(wanted: JobFilter, limit: int) -> tuple[JobHistory, ...]:
    """Return the jobs that match, by the beginning of their ids or a MessageId; none if it is short or begins many."""
    ids = matching(wanted.text.lower(), limit + 1) if _ID.fullmatch(wanted.text) else []
    if not ids or len(ids) > limit:
        return ()
    query = replace(wanted, text="").query() | {"_id": {"$in": ids}}
    documents = mongo.job_database()[JOBS].find(query, {"turns": 0}).hint("_id_")
    latest_first = sorted(_with_attempts(documents), key=lambda document: document[wanted.order], reverse=True)
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
    """Return the time of the job with which a window of `size` jobs ends; None if there are fewer."""
    by = wanted.order
    query = wanted.indexed() | _between(by, None, before)
    found = mongo.job_database()[JOBS].find(query, {by: 1, "_id": 0}).sort(by, -1).skip(size - 1).limit(1)
    return next((document[by] for document in found), None)


def _read(
    wanted: JobFilter, limit: int, since: datetime | None, before: datetime | None
) -> tuple[list[JobHistory], datetime | None]:
    """Return the jobs of a window that match, and the time of the last one if they are cut at `limit`."""
    by = wanted.order
    query = wanted.query() | _between(by, since, before)
    jobs: list[JobHistory] = []
    last: datetime | None = None
    for document in _with_attempts(mongo.job_database()[JOBS].find(query, {"turns": 0}).sort(by, -1)):
        if len(jobs) >= limit and document[by] != last:
            return jobs, last
        last = document[by]
        history = history_of(document)
        if wanted.matches(history):
            jobs.append(history)
    return jobs, None


def _between(by: str, since: datetime | None, before: datetime | None) -> dict[str, Any]:
    bounds = {name: moment for name, moment in (("$gte", since), ("$lt", before)) if moment}
    return {by: bounds} if bounds else {}


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
