"""Reading the job log: the story of each job, told by its turns; what failed, and how fast each stage works.

Everything here raises SettingsError where JOBS_MONGO_URL is not set, and RetryableError where MongoDB cannot be asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from pipeline.clients import mongo
from pipeline.events import Outcome
from pipeline.job import CLEAN_UP
from pipeline.monitoring.job_log.schema import JOBS, MINUTES
from pipeline.stages import NOTIFY, STAGES

if TYPE_CHECKING:
    from pymongo.collection import Collection

JobStatus = Literal["under_way", "done", "failed", "rejected", "partly"]

#: Failures and jobs that one look reads at the most, the latest: what a person is told does not wait for all of them.
MOST_READ = 10_000

#: Job ids that a failure gives as examples.
EXAMPLES = 5


@dataclass(frozen=True)
class Attempt:
    """One turn of a job in a stage. Times are in UTC, spans in seconds."""

    stage: str
    verdict: Outcome
    at: datetime  #: when it ended
    seconds: float  #: how long the stage worked on it
    attempt: int = 1
    code: str = ""
    message: str = ""
    waited: float | None = None  #: of a first attempt: from the job's arrival in the stage until it began
    wait: float = 0.0  #: until the next attempt, where one was to follow
    redrive: int = 0  #: 1 where an operator had sent the job through again, 2 after another time
    deliveries: tuple[str, ...] = ()  #: of notify, where it was about some only
    due: str = ""  #: the stage that the job was due in then, where that is another


_ATTEMPT_FIELDS = frozenset(each.name for each in fields(Attempt))


@dataclass(frozen=True)
class HistorySource:
    """One image of a job: `urls` of its renditions by their names once it is stored, or why it is not."""

    url: str  #: host and path
    fields: tuple[str, ...] = ()
    urls: dict[str, str] = field(default_factory=dict)
    error: dict[str, str] | None = None  #: `stage`, `code` and `message`


@dataclass(frozen=True)
class JobHistory:
    """What is known of one job.

    Its status is `done` once every image is stored and every delivery made, `failed` where no image is stored,
    `partly` where some image or some delivery failed, `rejected` where it asked for nothing that can be done.
    """

    id: str
    status: JobStatus
    stage: str  #: where it failed first; else where it is due; `notify` where it is done
    began: datetime
    updated: datetime
    folder: str = ""
    lane: str = ""
    sweep: dict[str, str] | None = None  #: `collection` and `run`
    redrives: int = 0
    sources: tuple[HistorySource, ...] = ()
    turns: tuple[Attempt, ...] = ()  #: the oldest first


@dataclass(frozen=True)
class FailureGroup:
    """Dead letters with one cause."""

    stage: str
    code: str
    count: int
    at: datetime  #: the latest
    message: str  #: its sentence
    job_ids: tuple[str, ...]  #: of the latest few


@dataclass(frozen=True)
class Minute:
    """How many turns each stage had in one minute, by verdict."""

    at: datetime
    attempts: dict[str, dict[str, int]]

    def count(self, stage: str, *verdicts: Outcome) -> int:
        """The turns of `stage` with one of `verdicts`, or all."""
        found = self.attempts.get(stage, {})
        return sum(found.get(verdict, 0) for verdict in verdicts or Outcome)


FAILED: frozenset[JobStatus] = frozenset({"failed", "rejected", "partly"})


def latest(limit: int = 50, *, failed: bool | None = None, stage: str | None = None) -> list[JobHistory]:
    """List the jobs with the latest attempts, the latest first.

    Args:
        limit: how many jobs are returned.
        failed: True for jobs that failed, even partly; False for all others; None for both.
        stage: only jobs whose `JobHistory.stage` it is.
    """
    with mongo.mongo_errors("read the job log"):
        query = {"failed": {"$exists": True}} if failed else {}
        found = _jobs().find(query).sort("failed" if failed else "updated", -1).limit(MOST_READ)
        histories = (_history(each) for each in found)
        wanted = (
            history
            for history in histories
            if failed in {None, history.status in FAILED} and stage in {None, history.stage}
        )
        return list(islice(wanted, limit))


def history(job_id: str) -> JobHistory | None:
    """The story of a job by its id, or by that of a redrive of it; None where the log has none."""
    with mongo.mongo_errors("read the job log"):
        found = _jobs().find_one({"_id": re.sub(r"\.r\d+$", "", job_id)})
    return _history(found) if found else None


def matching(prefix: str, limit: int = 10) -> list[str]:
    """The first ids of jobs that begin with `prefix`."""
    with mongo.mongo_errors("read the job log"):
        query = {"_id": {"$gte": prefix, "$lt": f"{prefix}\uffff"}}
        return [each["_id"] for each in _jobs().find(query, {"_id": 1}).sort("_id", 1).limit(limit)]


def failures(since: datetime) -> list[FailureGroup]:
    """What ended as a dead letter since then, grouped by stage and code, the most frequent first."""
    with mongo.mongo_errors("read the job log"):
        query = {"failed": {"$gte": since}}
        found = _jobs().find(query, {"turns": 1}).sort("failed", -1).limit(MOST_READ)
        groups: dict[tuple[str, str], list[tuple[str, Attempt]]] = {}
        for each in found:
            for attempt in _attempts(each):
                if attempt.verdict in {Outcome.GIVEN_UP, Outcome.REJECTED} and attempt.at >= since:
                    groups.setdefault((attempt.stage, attempt.code), []).append((each["_id"], attempt))
    return sorted((_failure(*cause, members) for cause, members in groups.items()), key=lambda each: -each.count)


def _failure(stage: str, code: str, members: Sequence[tuple[str, Attempt]]) -> FailureGroup:
    members = sorted(members, key=lambda member: member[1].at, reverse=True)
    ids = tuple(dict.fromkeys(job_id for job_id, _ in members))
    return FailureGroup(stage, code, len(members), members[0][1].at, members[0][1].message, ids[:EXAMPLES])


def rates(since: datetime) -> list[Minute]:
    """The minutes from that of `since` on, the oldest first; one in which nothing happened is not among them."""
    with mongo.mongo_errors("read the job log"):
        query = {"at": {"$gte": since.astimezone(UTC).replace(second=0, microsecond=0)}}
        found = mongo.job_database()[MINUTES].find(query).sort("at", 1)
        return [Minute(each["at"], each.get("turns", {})) for each in found]


def per_minute(minutes: Iterable[Minute], now: datetime, over: timedelta = timedelta(minutes=5)) -> dict[str, float]:
    """How many turns of each stage went well in a minute, on average from the minute of `now - over` until `now`."""
    since = (now - over).replace(second=0, microsecond=0)
    counted = [minute for minute in minutes if since <= minute.at <= now]
    stages = {stage for minute in counted for stage in minute.attempts}
    span = (now - since) / timedelta(minutes=1)
    return {stage: sum(minute.count(stage, Outcome.DONE) for minute in counted) / span for stage in stages}


def oldest() -> dict[str, datetime]:
    """When the oldest job that is under way began, by the stage that it is due in.

    Of jobs that have had an attempt: what waits for its first stage is not in the log. A job whose last turns the log
    missed, while MongoDB was down, stays among them until it is forgotten.
    """
    with mongo.mongo_errors("read the job log"):
        found = _jobs().find({"open": True}, {"began": 1, "turns": 1}).sort("began", 1).limit(MOST_READ)
        began: dict[str, datetime] = {}
        for each in found:
            began.setdefault(_due(list(_attempts(each))), each["began"])
            if len(began) == len(STAGES):
                break
    return began


def _jobs() -> Collection[dict[str, Any]]:
    return mongo.job_database()[JOBS]


def _history(found: Mapping[str, Any]) -> JobHistory:
    attempts = tuple(_attempts(found))
    numbered = sorted(found.get("sources", {}).items(), key=lambda item: int(item[0]))
    sources = tuple(_source(each) for _, each in numbered)
    status = _status(attempts, sources)
    return JobHistory(
        id=found["_id"],
        status=status,
        stage=_stage(attempts, status),
        began=found["began"],
        updated=found["updated"],
        folder=found.get("folder", ""),
        lane=found.get("lane", ""),
        sweep=found.get("sweep"),
        redrives=found.get("redrives", 0),
        sources=sources,
        turns=attempts,
    )


def _attempts(found: Mapping[str, Any]) -> Iterator[Attempt]:
    """The turns in the order of time. One that was written twice, for the answer was lost, is told once."""
    seen = set()
    for each in sorted(found["turns"], key=lambda attempt: attempt["at"]):
        values = {name: value for name, value in each.items() if name in _ATTEMPT_FIELDS}
        values |= {"verdict": Outcome(each["verdict"]), "deliveries": tuple(each.get("deliveries", ()))}
        attempt = Attempt(**values)
        if attempt not in seen:
            seen.add(attempt)
            yield attempt


def _source(found: Mapping[str, Any]) -> HistorySource:
    """What was stored after a redrive has an error no more."""
    urls = found.get("urls", {})
    return HistorySource(found["url"], tuple(found["fields"]), urls, None if urls else found.get("error"))


def _status(attempts: Sequence[Attempt], sources: Sequence[HistorySource]) -> JobStatus:
    if any(attempt.verdict is Outcome.REJECTED for attempt in attempts):
        return "rejected"
    deliveries = _deliveries(attempts)
    if deliveries is None or Outcome.RETRY in deliveries.values():
        return "under_way"
    failed = sum(source.error is not None for source in sources)
    if failed and failed == len(sources):
        return "failed"
    return "partly" if failed or Outcome.GIVEN_UP in deliveries.values() else "done"


def _deliveries(attempts: Sequence[Attempt]) -> dict[str, Outcome] | None:
    """How each delivery stands, as far as some went apart from the others; None: notify has had no turn.

    Of the latest redrive alone. An attempt that went well without a name made all that were left; one with a name shows
    that it went on after one that failed as a whole. The clean-up after the deliveries is none of them.
    """
    latest = max((attempt.redrive for attempt in attempts), default=0)
    ours = [attempt for attempt in attempts if attempt.stage == NOTIFY.name and attempt.redrive == latest]
    if not ours:
        return None
    deliveries: dict[str, Outcome] = {}
    for attempt in ours:
        if attempt.verdict is Outcome.DONE and not attempt.deliveries:
            deliveries.clear()
        else:
            verdict = Outcome.RETRY if attempt.verdict is Outcome.SNOOZED else attempt.verdict
            if attempt.deliveries:
                deliveries.pop("", None)
            deliveries |= dict.fromkeys(attempt.deliveries or ("",), verdict)
    deliveries.pop(CLEAN_UP, None)
    return deliveries


def _stage(attempts: Sequence[Attempt], status: JobStatus) -> str:
    if status in FAILED:
        dead = (attempt for attempt in attempts if attempt.verdict in {Outcome.GIVEN_UP, Outcome.REJECTED})
        return next((attempt.stage for attempt in dead), NOTIFY.name)
    return NOTIFY.name if status == "done" else _due(attempts)


def _due(attempts: Sequence[Attempt]) -> str:
    """The stage that a job which is under way is due in."""
    return attempts[-1].due or attempts[-1].stage
