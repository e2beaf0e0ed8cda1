"""Read the job log: job histories, failures, and the throughput of each stage.

Every function raises SettingsError if JOBS_MONGO_URL is not set, and RetryableError if MongoDB cannot be reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from pipeline.clients import mongo
from pipeline.events import Outcome
from pipeline.job import CLEAN_UP
from pipeline.job_ids import is_whole, possible_ids
from pipeline.monitoring.job_log.schema import JOBS, MINUTES
from pipeline.stages import NOTIFY, STAGES

if TYPE_CHECKING:
    from pymongo.collection import Collection

JobStatus = Literal["under_way", "done", "failed", "rejected", "partly", "dropped"]

#: Maximum number of jobs one query reads, latest first, so that a person never waits for a full scan.
MAX_READ = 10_000

#: Projection of a query for ids.
_ID = {"_id": 1}

#: Example job ids in a failure group.
EXAMPLES = 5


@dataclass(frozen=True)
class Attempt:
    """One attempt of a stage at a job. Times are in UTC, durations in seconds."""

    stage: str
    outcome: Outcome
    at: datetime  #: end of the attempt
    seconds: float  #: duration of the work
    attempt: int = 1
    attempts: int = 0  #: number of the last attempt if every further attempt fails in the same way; 0: unknown
    code: str = ""
    message: str = ""
    waited: float | None = None  #: for a first attempt: time between arrival in the stage and start
    wait: float = 0.0  #: delay before the next attempt, if one was scheduled
    redrive: int = 0  #: number of redrives at that time
    deliveries: tuple[str, ...] = ()  #: in notify: the deliveries concerned, if not all
    due: str = ""  #: stage the job was due in afterwards, if different


_ATTEMPT_FIELDS = frozenset(each.name for each in fields(Attempt))


@dataclass(frozen=True)
class HistorySource:
    """One source image of a job: `urls` by rendition name once stored, else the error."""

    url: str  #: host and path
    fields: tuple[str, ...] = ()
    urls: dict[str, str] = field(default_factory=dict)
    error: dict[str, str] | None = None  #: `stage`, `code` and `message`
    facts: dict[str, Any] = field(default_factory=dict)  #: with details, those of results


@dataclass(frozen=True)
class JobHistory:
    """The history of one job.

    The status is `done` once all images are stored and all deliveries made, `failed` if no image was stored, `partly`
    if some image or delivery failed, `rejected` if the message was invalid, and `dropped` if an operator dropped it.
    """

    id: str
    status: JobStatus
    stage: str  #: first stage that failed; else the stage it is due in; `notify` once done
    began: datetime
    updated: datetime
    folder: str = ""
    lane: str = ""
    sweep: dict[str, str] | None = None  #: `collection` and `run`
    redrives: int = 0
    sources: tuple[HistorySource, ...] = ()
    attempts: tuple[Attempt, ...] = ()  #: oldest first


#: The fields of a history that are read as they are stored.
_HISTORY_FACTS = ("began", "updated", "folder", "lane", "sweep", "redrives")


@dataclass(frozen=True)
class FailureGroup:
    """Dead letters with the same stage and error code. All but the count come from the latest ones."""

    stage: str
    code: str
    count: int
    at: datetime
    message: str
    job_ids: tuple[str, ...]  #: at most `EXAMPLES`


@dataclass(frozen=True)
class Minute:
    """The attempts and the live jobs that ended in one minute."""

    at: datetime
    attempts: dict[str, dict[str, int]]  #: number by stage and outcome
    took: dict[float, int] = field(default_factory=dict)  #: number of live jobs by seconds, within 4 %

    def count(self, stage: str, *outcomes: Outcome) -> int:
        """Count the attempts of `stage` with one of the `outcomes`, or all attempts if none is given."""
        found = self.attempts.get(stage, {})
        return sum(found.get(outcome, 0) for outcome in outcomes or Outcome)


FAILED: frozenset[JobStatus] = frozenset({"failed", "rejected", "partly"})


def history(job_id: str) -> JobHistory | None:
    """Return the history of a job by its id, a redrive's id or the input's MessageId, or None if it is unknown."""
    with mongo.mongo_errors("read the job log"):
        found = next(filter(None, (_jobs().find_one({"_id": each}) for each in possible_ids(job_id))), None)
    return history_of(found) if found else None


def matching(prefix: str, limit: int = 10) -> list[str]:
    """List the first `limit` job ids that start with `prefix`, or the job of the input message with this MessageId.

    A whole id is looked up, because the embedded server reads all jobs to find a beginning.
    """
    whole = {"$in": list(possible_ids(prefix))}
    with mongo.mongo_errors("read the job log"):
        found = (
            [] if is_whole(prefix) else list(_jobs().find({"_id": ids_from(prefix)}, _ID).sort("_id", 1).limit(limit))
        )
        return [each["_id"] for each in found or _jobs().find({"_id": whole}, _ID)]


def ids_from(prefix: str) -> dict[str, str]:
    """Return the condition that an id begins with `prefix`."""
    return {"$gte": prefix, "$lt": f"{prefix}\uffff"}


def failures(since: datetime) -> list[FailureGroup]:
    """Group the dead letters since `since` by stage and code, most frequent first.

    MongoDB reads at most `MAX_READ` jobs, the latest failures, and groups them itself. It returns only the groups.
    """
    with mongo.mongo_errors("read the job log"):
        return [_failure(each) for each in _jobs().aggregate(_failing(since))]


def _failing(since: datetime) -> list[dict[str, Any]]:
    """Return the aggregation of `failures`.

    `latest` contains an attempt under several keys if it failed several deliveries, so attempts are told apart first.
    """
    dead = {
        "latest.v.verdict": {"$in": [Outcome.GIVEN_UP.value, Outcome.REJECTED.value]},
        "latest.v.at": {"$gte": since},
    }
    attempt = {"job": "$_id", "at": "$latest.v.at", "stage": "$latest.v.stage", "code": "$latest.v.code"}
    return [
        {"$match": {"failed": {"$gte": since}}},
        {"$sort": {"failed": -1}},
        {"$limit": MAX_READ},
        {"$project": {"latest": {"$objectToArray": "$latest"}}},
        {"$unwind": "$latest"},
        {"$match": dead},
        {"$group": {"_id": attempt, "message": {"$first": "$latest.v.message"}}},
        {"$sort": {"_id.at": -1}},
        {
            "$group": {
                "_id": {"stage": "$_id.stage", "code": "$_id.code"},
                "count": {"$sum": 1},
                "at": {"$first": "$_id.at"},
                "message": {"$first": "$message"},
                "jobs": {"$push": "$_id.job"},
            }
        },
        {"$project": {"count": 1, "at": 1, "message": 1, "jobs": {"$slice": ["$jobs", 10 * EXAMPLES]}}},
        {"$sort": {"count": -1}},
    ]


def _failure(found: Mapping[str, Any]) -> FailureGroup:
    ids = tuple(dict.fromkeys(found["jobs"]))  # a job that failed again after a redrive is listed once
    cause = found["_id"]
    return FailureGroup(
        cause["stage"], cause.get("code", ""), found["count"], found["at"], found["message"] or "", ids[:EXAMPLES]
    )


def rates(since: datetime) -> list[Minute]:
    """List the minutes with attempts from the minute of `since` on, oldest first."""
    with mongo.mongo_errors("read the job log"):
        query = {"at": {"$gte": since.astimezone(UTC).replace(second=0, microsecond=0)}}
        found = mongo.job_database()[MINUTES].find(query).sort("at", 1)
        return [_minute(each) for each in found]


def _minute(found: Mapping[str, Any]) -> Minute:
    took = {2 ** (int(step) / 10): number for step, number in found.get("took", {}).items()}
    return Minute(found["at"], found.get("turns", {}), took)


def quantile(minutes: Iterable[Minute], part: float) -> float | None:
    """Return the seconds within which `part` of the live jobs ended, from acceptance on; None if none did."""
    counted = sum((Counter(minute.took) for minute in minutes), Counter[float]())
    left = part * counted.total()
    for seconds in sorted(counted):
        left -= counted[seconds]
        if left <= 0:
            return seconds
    return None


def per_minute(minutes: Iterable[Minute], now: datetime, over: timedelta = timedelta(minutes=5)) -> dict[str, float]:
    """Return each stage's successful attempts per minute, averaged from the minute of `now - over` until `now`."""
    since = (now - over).replace(second=0, microsecond=0)
    counted = [minute for minute in minutes if since <= minute.at <= now]
    stages = {stage for minute in counted for stage in minute.attempts}
    span = (now - since) / timedelta(minutes=1)
    return {stage: sum(minute.count(stage, Outcome.DONE) for minute in counted) / span for stage in stages}


def under_way(before: datetime) -> Iterator[JobHistory]:
    """Yield unfinished jobs that began before a time, the latest `MAX_READ` of them, without older attempts."""
    with mongo.mongo_errors("read the job log"):
        query = {"open": True, "began": {"$lt": before}}
        for found in _jobs().find(query, {"turns": 0}).sort("began", -1).limit(MAX_READ):
            yield history_of({**found, "turns": list(found.get("latest", {}).values())})


def oldest() -> dict[str, datetime]:
    """Return when the oldest unfinished job began, by the stage it is due in.

    A job is unknown before its first attempt. If the log missed a job's last attempts while MongoDB was down, the job
    counts as unfinished until it expires.
    """
    with mongo.mongo_errors("read the job log"):
        found = _jobs().find({"open": True}, {"began": 1, "latest": 1}).sort("began", 1).limit(MAX_READ)
        began: dict[str, datetime] = {}
        for each in found:
            attempts = {"turns": list(each.get("latest", {}).values())}
            if attempts["turns"]:  # an earlier version wrote none
                began.setdefault(_due(list(_attempts(attempts))), each["began"])
            if len(began) == len(STAGES):
                break
    return began


def _jobs() -> Collection[dict[str, Any]]:
    return mongo.job_database()[JOBS]


def history_of(found: Mapping[str, Any]) -> JobHistory:
    """Return the history in a job's document."""
    attempts = tuple(_attempts(found))
    numbered = sorted(found.get("sources", {}).items(), key=lambda item: int(item[0]))
    sources = tuple(_source(each) for _, each in numbered)
    status = _status(attempts, sources)
    facts = {name: found[name] for name in _HISTORY_FACTS if name in found}
    return JobHistory(found["_id"], status, _stage(attempts, status), sources=sources, attempts=attempts, **facts)


def _attempts(found: Mapping[str, Any]) -> Iterator[Attempt]:
    """Yield the attempts in order of time, without the duplicates of a write whose answer was lost."""
    seen = set()
    for each in sorted(found["turns"], key=lambda attempt: attempt["at"]):
        values = {name: value for name, value in each.items() if name in _ATTEMPT_FIELDS}
        values |= {"outcome": Outcome(each["verdict"]), "deliveries": tuple(each.get("deliveries", ()))}
        attempt = Attempt(**values)
        if attempt not in seen:
            seen.add(attempt)
            yield attempt


def _source(found: Mapping[str, Any]) -> HistorySource:
    urls = found.get("urls", {})  # a source stored by a redrive still has the error of the first attempt
    error, facts = None if urls else found.get("error"), found.get("facts", {})
    return HistorySource(found["url"], tuple(found["fields"]), urls, error, facts)


def _status(attempts: Sequence[Attempt], sources: Sequence[HistorySource]) -> JobStatus:
    if any(attempt.outcome is Outcome.REJECTED for attempt in attempts):
        return "rejected"
    if attempts and attempts[-1].outcome is Outcome.DROPPED and not attempts[-1].due:
        return "dropped"  # without a result
    deliveries = _deliveries(attempts)
    if deliveries is None or Outcome.RETRY in deliveries.values():
        return "under_way"
    failed = sum(source.error is not None for source in sources)
    if failed and failed == len(sources):
        is_dropped = all(source.error and source.error["code"] == "dropped" for source in sources)
        return "dropped" if is_dropped else "failed"
    return "partly" if failed or Outcome.GIVEN_UP in deliveries.values() else "done"


def _deliveries(attempts: Sequence[Attempt]) -> dict[str, Outcome] | None:
    """Return the state of each delivery in the latest redrive, or None before the first attempt of notify.

    A successful attempt without delivery names completed all that were left. An attempt with names supersedes an
    earlier attempt that failed as a whole. The clean-up after the deliveries is not a delivery.
    """
    latest = max((attempt.redrive for attempt in attempts), default=0)
    ours = [attempt for attempt in attempts if attempt.stage == NOTIFY.name and attempt.redrive == latest]
    if not ours:
        return None
    deliveries: dict[str, Outcome] = {}
    for attempt in ours:
        if attempt.outcome is Outcome.DONE and not attempt.deliveries:
            deliveries.clear()
        else:
            outcome = Outcome.RETRY if attempt.outcome is Outcome.SNOOZED else attempt.outcome
            if attempt.deliveries:
                deliveries.pop("", None)
            deliveries |= dict.fromkeys(attempt.deliveries or ("",), outcome)
    deliveries.pop(CLEAN_UP, None)
    return deliveries


def _stage(attempts: Sequence[Attempt], status: JobStatus) -> str:
    if status in FAILED:
        dead = (attempt for attempt in attempts if attempt.outcome in {Outcome.GIVEN_UP, Outcome.REJECTED})
        return next((attempt.stage for attempt in dead), NOTIFY.name)
    return NOTIFY.name if status == "done" else _due(attempts)


def _due(attempts: Sequence[Attempt]) -> str:
    """Return the stage an unfinished job is due in."""
    return attempts[-1].due or attempts[-1].stage
