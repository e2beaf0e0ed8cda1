"""Search the job log: lists of jobs by lane, outcome, stage, error code and text, page by page.

The order never changes while jobs go on: the latest to begin come first, or among failures the latest to fail. Lists
read no attempts but the latest of each stage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pipeline.clients import mongo
from pipeline.monitoring.job_log.reader import FAILED, MAX_READ, JobHistory, history_of
from pipeline.monitoring.job_log.schema import JOBS
from pipeline.stages import Lane

#: Outcomes that a list can be restricted to.
Outcomes = Literal["", "failed", "well"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class JobFilter:
    """A filter for jobs. Empty fields match every job."""

    lane: Lane | None = None
    outcome: Outcomes = ""  #: `failed`: also if only a part failed; `well`: all others
    stage: str = ""  #: `JobHistory.stage`: the stage that failed, or in which the job is due
    code: str = ""  #: of the error of any attempt
    text: str = ""  #: the beginning of an id, or a part of a URL as host and path or of the folder; case is ignored

    def query(self) -> dict[str, Any]:
        """Return the conditions that MongoDB checks."""
        query: dict[str, Any] = {}
        if self.outcome == "failed":
            query["failed"] = {"$exists": True}
        if self.lane or not query:
            query["lane"] = {"$in": [self.lane] if self.lane else list(Lane)}
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
    """A part of a list of jobs, and the place where the next one starts; empty at the end."""

    jobs: tuple[JobHistory, ...] = ()
    following: str = ""


def search(wanted: JobFilter = JobFilter(), limit: int = 50, after: str = "") -> JobPage:
    """List the jobs that match.

    Args:
        wanted: the filter.
        limit: number of jobs; jobs that began at the same time as the last one are added.
        after: `JobPage.following` of the previous part.

    Raises:
        ValueError: `after` is not a place.
        SettingsError: JOBS_MONGO_URL is not set.
        RetryableError: MongoDB cannot be reached.
    """
    by = "failed" if wanted.outcome == "failed" else "began"
    query = wanted.query()
    if after:
        query[by] = {"$lt": _moment(after)}
    with mongo.mongo_errors("read the job log"):
        found = mongo.job_database()[JOBS].find(query, {"turns": 0}).sort(by, -1).limit(MAX_READ)
        return _page(found, wanted, limit, by)


def _page(found: Any, wanted: JobFilter, limit: int, by: str) -> JobPage:
    jobs: list[JobHistory] = []
    last: datetime | None = None
    read = 0
    for document in _with_attempts(found):
        if len(jobs) >= limit and document[by] != last:
            return JobPage(tuple(jobs), _place(last))
        read, last = read + 1, document[by]
        history = history_of(document)
        if wanted.matches(history):
            jobs.append(history)
    return JobPage(tuple(jobs), _place(last) if read >= MAX_READ else "")


def _with_attempts(found: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the documents with their latest attempts as `turns`; an earlier version wrote none, so all are read."""
    for document in found:
        if "latest" in document:
            yield document | {"turns": list(document["latest"].values())}
        elif whole := mongo.job_database()[JOBS].find_one({"_id": document["_id"]}):
            yield whole


def ids_from(prefix: str) -> dict[str, str]:
    """Return the condition that an id begins with `prefix`."""
    return {"$gte": prefix, "$lt": f"{prefix}\uffff"}


def _place(moment: datetime | None) -> str:
    return f"{(moment - _EPOCH) // timedelta(milliseconds=1)}" if moment else ""


def _moment(place: str) -> datetime:
    if not re.fullmatch(r"[0-9]{1,14}", place):
        raise ValueError("this is not a place in a list of jobs")
    return _EPOCH + timedelta(milliseconds=int(place))
