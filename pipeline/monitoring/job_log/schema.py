"""What the job log holds: one small document per job, and what each turn of a job adds to it.

A document of the collection `image_pipeline_jobs`, whose `_id` is the job's id (also of its redrives, `<id>.r1`):

    folder, lane, sweep    where its objects go; its lane; the collection and the run of a sweep
    began, updated         when it came to its first stage; its latest attempt (a TTL index forgets it 30 days later)
    failed, ended          its latest attempt with a dead letter; its latest attempt that ended a delivery
    open                   true until it has ended: set where the document is made, never again
    redrives               how often an operator sent it through again
    sources                by number: `url` as host and path, `fields`, then `urls` of the renditions or the `error`
    turns                  the latest `MAX_ATTEMPTS`: `stage`, `verdict`, `at`, `seconds`, and where they are known
                           `attempt`, `code`, `message`, `waited`, `wait`, `redrive`, `deliveries`, `due`

and one of `image_pipeline_minutes`, whose `_id` is a minute: the turns of all jobs in it, by stage and verdict.

The turns of one job come from several processes, in any order, so every update commutes with every other. What they
add up to is worked out where it is read. Payloads, secrets and the queries of URLs are never stored.

Operators used here and in the reader; MongoDB has them all since 4.2, and so has the embedded server:
`$set`, `$setOnInsert`, `$unset`, `$min`, `$max`, `$inc`, `$push` with `$each` and `$slice`, upserts, in bulk; queries
by equality, `$exists`, `$gte` and `$lt`; sort and limit; a TTL index, a sparse one, and a partial one by equality.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import UpdateOne

from pipeline.events import Event, Outcome
from pipeline.job import CLEAN_UP, Source
from pipeline.net.http_errors import shown
from pipeline.stages import NOTIFY
from pipeline.storage.publish import image_info

JOBS, MINUTES = "image_pipeline_jobs", "image_pipeline_minutes"

#: How long a job is remembered after its last turn, and a minute.
KEPT = timedelta(days=30)

#: Turns of one job that are kept, the latest: more than all delays of retries together make.
MAX_ATTEMPTS = 64

#: Characters of an error's sentence.
MAX_MESSAGE = 500

#: The indexes: of which collection, by what, its options, and what for.
INDEXES: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    (JOBS, "updated", {"expireAfterSeconds": int(KEPT.total_seconds())}, "forgets jobs and finds the latest"),
    (JOBS, "failed", {"sparse": True}, "finds the latest failures"),
    (JOBS, "began", {"partialFilterExpression": {"open": True}}, "finds the oldest job under way"),
    (MINUTES, "at", {"expireAfterSeconds": int(KEPT.total_seconds())}, "forgets minutes"),
)


@dataclass(frozen=True)
class LogEntry:
    """What one turn adds to the document of its job: values that do not change, and others that only grow."""

    job_id: str
    attempt: dict[str, Any]
    known: dict[str, Any]  #: for `$set`
    least: dict[str, Any]  #: for `$min`
    most: dict[str, Any]  #: for `$max`


def entry_of(event: Event) -> LogEntry:
    """The entry for one event. Holds nothing of the payload."""
    job, at = event.job, _time(event.at)
    arrived = _believable(event)
    began = arrived or event.at - event.seconds
    attempt: dict[str, Any] = {"stage": event.stage, "verdict": event.verdict.value, "at": at}
    attempt["seconds"] = round(event.seconds, 3)
    known: dict[str, Any] = {}
    most: dict[str, Any] = {"updated": at}
    if event.attempt > 1:
        attempt["attempt"] = event.attempt
    if event.code:
        attempt |= {"code": event.code, "message": _storable(event.message[:MAX_MESSAGE])}
    if arrived and event.attempt == 1 and not (job and job.redrives):
        attempt["waited"] = round(max(0.0, event.at - event.seconds - arrived), 3)
    if event.wait:
        attempt["wait"] = round(event.wait, 1)
    if event.verdict in {Outcome.GIVEN_UP, Outcome.REJECTED}:
        most["failed"] = at
    if _ends(event):
        most["ended"] = at
    if job:
        known = {"folder": job.folder, "lane": job.lane.value}
        if job.sweep:
            known["sweep"] = {"collection": job.sweep.collection, "run": job.sweep.run}
        for number, source in enumerate(job.sources):
            known |= {f"sources.{number}.{name}": value for name, value in _facts(job.folder, source).items()}
        if job.due.name != event.stage:
            attempt["due"] = job.due.name
        if job.redrives:
            attempt["redrive"] = most["redrives"] = job.redrives
        if event.stage == NOTIFY.name and (deliveries := event.worked_on or job.deliveries):
            attempt["deliveries"] = list(deliveries)
    return LogEntry(event.job_id, attempt, known, {"began": _time(began)}, most)


def _believable(event: Event) -> float:
    """When the job came to the stage; 0 where its message, which anybody may have made, tells of no such time."""
    return event.arrived if event.at - KEPT.total_seconds() < event.arrived <= event.at else 0.0


def _ends(event: Event) -> bool:
    if event.stage == NOTIFY.name:
        return event.verdict in {Outcome.DONE, Outcome.GIVEN_UP} or event.worked_on == (CLEAN_UP,)
    return event.verdict is Outcome.REJECTED


def _facts(folder: str, source: Source) -> dict[str, Any]:
    facts: dict[str, Any] = {"url": shown(source.url), "fields": list(source.fields)}
    if source.error:
        facts["error"] = {**source.error, "message": _storable(source.error["message"][:MAX_MESSAGE])}
    elif source.due == NOTIFY.name and source.content:
        facts["urls"] = {name: info["url"] for name, info in image_info(folder, source.content).items()}
    return facts


def updates(entries: Iterable[LogEntry]) -> list[UpdateOne]:
    """An update for each job that `entries` tell of: what it holds afterwards does not depend on their order."""
    merged: dict[str, dict[str, Any]] = {}
    for entry in entries:
        update = merged.setdefault(entry.job_id, {"$set": {}, "$min": {}, "$max": {}, "turns": []})
        update["$set"].update(entry.known)
        update["$min"] |= {name: min(value, update["$min"].get(name, value)) for name, value in entry.least.items()}
        update["$max"] |= {name: max(value, update["$max"].get(name, value)) for name, value in entry.most.items()}
        update["turns"].append(entry.attempt)
    return [UpdateOne({"_id": job_id}, _operators(update), upsert=True) for job_id, update in merged.items()]


def _operators(update: dict[str, Any]) -> dict[str, Any]:
    push = {"turns": {"$each": update.pop("turns"), "$slice": -MAX_ATTEMPTS}}
    # Whichever comes first, the end or another turn: afterwards the job is not open.
    update |= {"$unset": {"open": ""}} if "ended" in update["$max"] else {"$setOnInsert": {"open": True}}
    return {name: values for name, values in update.items() if values} | {"$push": push}


def counts(entries: Iterable[LogEntry]) -> list[UpdateOne]:
    """An update for each minute in which `entries` have a turn: how many, by stage and verdict."""
    minutes: dict[datetime, dict[str, int]] = {}
    for entry in entries:
        attempt = entry.attempt
        minute = minutes.setdefault(attempt["at"].replace(second=0, microsecond=0), {})
        name = f"{attempt['stage']}.{attempt['verdict']}"
        minute[name] = minute.get(name, 0) + 1
    return [
        UpdateOne({"_id": at}, {"$set": {"at": at}, "$inc": {f"turns.{name}": n for name, n in numbers.items()}}, True)
        for at, numbers in minutes.items()
    ]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def _storable(text: str) -> str:
    """The text as UTF-8 can write it."""
    return text.encode("utf-8", "replace").decode()
