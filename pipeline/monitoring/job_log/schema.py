"""Schema of the job log: one small document per job, extended by each attempt.

The collection `image_pipeline_jobs` holds one document per job. Its `_id` is the job's id; a redrive, reported as
`<id>.r1`, shares the document. Its fields:

    folder, lane, sweep    folder of its objects; lane; collection and run of its sweep
    began, updated         time it reached its first stage; time of the latest attempt (a TTL index deletes the job
                           30 days later)
    failed, ended          time of the latest attempt that left a dead letter; of the latest that ended a delivery
    open                   true until the job ends; set only when the document is created
    redrives               number of redrives
    sources                by number: `url` as host and path, `fields`, then `urls` of the renditions or the `error`;
                           with details `facts`, as in results
    turns                  the latest `MAX_ATTEMPTS` attempts: `stage`, `verdict`, `at`, `seconds`, and where known
                           `attempt`, `attempts`, `code`, `message`, `waited`, `wait`, `redrive`, `deliveries`, `due`
    latest                 the latest attempt of each stage, delivery and failure, under the keys of `_places`. A list
                           of jobs reads these and no older attempts

The collection `image_pipeline_minutes` holds one document per minute: in `turns` the number of attempts by stage and
outcome, and in `took` the number of live jobs that ended by the step of their duration: 2 ** (step / 10) seconds.

The collection `image_pipeline_results` holds, only with KEEP_RESULTS_DAYS, the jobs that were delivered completely:
`job` encoded as in a message, with the producer's payload, and when it `expires`.

Attempts of one job arrive from several processes in any order, so all updates commute; the reader derives the status.
Payloads, secrets and query strings of URLs are never stored elsewhere.

The writer and the reader use these operators, which MongoDB 4.2 and the embedded server support:
`$set`, `$setOnInsert`, `$unset`, `$min`, `$max` also of documents, `$inc`, `$push` with `$each` and `$slice`, upserts,
in bulk; queries by equality, `$in`, `$and`, `$or`, `$exists`, `$gte`, `$lt` and a pattern; sort, skip and limit; a TTL
index, a sparse one, a partial one by equality, and one by two fields; aggregations of `$match`, `$sort`, `$limit`,
`$project` with `$objectToArray` and `$slice`, `$unwind`, and `$group` with `$sum`, `$first` and `$push`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
from pymongo import UpdateOne

from pipeline.events import Event, Outcome
from pipeline.job import CLEAN_UP, Source
from pipeline.monitoring.processes import PROCESSES
from pipeline.monitoring.processes import RETENTION as PROCESS_RETENTION
from pipeline.net.http_errors import shown
from pipeline.payload import to_json
from pipeline.stages import NOTIFY, Lane
from pipeline.storage.publish import image_info
from pipeline.text import shorten

JOBS, MINUTES, RESULTS = "image_pipeline_jobs", "image_pipeline_minutes", "image_pipeline_results"

#: Retention of a job after its last attempt, and of a minute.
RETENTION = timedelta(days=30)

#: Latest attempts kept per job: more than all retries of all stages add up to.
MAX_ATTEMPTS = 64

#: Maximum length of an error message, in characters.
MAX_MESSAGE = 500

#: Indexes: collection, fields separated by commas, options, and purpose.
INDEXES: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    (JOBS, "updated", {"expireAfterSeconds": int(RETENTION.total_seconds())}, "expires jobs"),
    (JOBS, "lane,began", {}, "lists the jobs of a lane"),
    (JOBS, "failed", {"sparse": True}, "finds the latest failures"),
    (JOBS, "began", {"partialFilterExpression": {"open": True}}, "finds the oldest job under way"),
    (RESULTS, "expires", {"expireAfterSeconds": 0}, "expires results"),
    (PROCESSES, "seen", {"expireAfterSeconds": int(PROCESS_RETENTION.total_seconds())}, "expires heartbeats"),
    (MINUTES, "at", {"expireAfterSeconds": int(RETENTION.total_seconds())}, "expires minutes"),
)


@dataclass(frozen=True)
class LogEntry:
    """Everything one attempt adds to the document of its job.

    Attributes:
        job_id: id of the job.
        attempt: the new element of `turns`.
        known: constant values, for `$set`.
        least: values for `$min`.
        most: values for `$max`.
        took: step of the duration of a live job, if it ended.
        result: the delivered job with its payload, if it is to be kept.
    """

    job_id: str
    attempt: dict[str, Any]
    known: dict[str, Any]
    least: dict[str, Any]
    most: dict[str, Any]
    took: int | None = None
    result: dict[str, Any] | None = None


def entry_of(event: Event) -> LogEntry:
    """Build the entry for an event. It contains nothing of the payload."""
    job, at = event.job, _time(event.at)
    arrived = _plausible_arrival(event)
    began = arrived or event.at - event.seconds
    attempt: dict[str, Any] = {"stage": event.stage, "verdict": event.outcome.value, "at": at}
    attempt["seconds"] = round(event.seconds, 3)
    known: dict[str, Any] = {}
    most: dict[str, Any] = {"updated": at}
    if event.attempt > 1:
        attempt["attempt"] = event.attempt
    if event.code:
        attempt |= {"code": event.code, "message": _storable(shorten(event.message, MAX_MESSAGE))}
    if arrived and event.attempt == 1 and not (job and job.redrives):
        attempt["waited"] = round(max(0.0, event.at - event.seconds - arrived), 3)
    if event.wait:
        attempt |= {"wait": round(event.wait, 1), "attempts": event.attempts}
    if event.outcome in {Outcome.GIVEN_UP, Outcome.REJECTED}:
        most["failed"] = at
    if _ends(event):
        most["ended"] = at
    if job:
        known = {"folder": job.folder, "lane": job.lane.value}
        if job.sweep:
            known["sweep"] = {"collection": job.sweep.collection, "run": job.sweep.run}
        for number, source in enumerate(job.sources):
            known |= {f"sources.{number}.{name}": value for name, value in _facts(job.folder, source).items()}
        if job.due.name != event.stage and job.deliveries != ():
            attempt["due"] = job.due.name
        if job.redrives:
            attempt["redrive"] = most["redrives"] = job.redrives
        if event.stage == NOTIFY.name and (deliveries := event.worked_on or job.deliveries):
            attempt["deliveries"] = list(deliveries)
    # MongoDB compares documents field by field, so that the latest attempt is the greatest.
    most |= {f"latest.{place}": {"at": at} | attempt for place in _places(attempt)}
    took = event.took if job and job.lane is Lane.LIVE else None
    step = None if took is None else round(10 * math.log2(max(took, 0.01)))
    return LogEntry(event.job_id, attempt, known, {"began": _time(began)}, most, step)


def result_of(event: Event) -> dict[str, Any] | None:
    """Return the encoded job of an event that completes a result for a receiver; None for all other events."""
    job = event.job
    if event.stage != NOTIFY.name or event.outcome is not Outcome.DONE or job is None:
        return None
    return None if job.sweep or job.deliveries == (CLEAN_UP,) else job.encode()


def kept(entries: Iterable[LogEntry], until: datetime) -> list[UpdateOne]:
    """Return one update per result that is to be kept `until` then."""
    results = {entry.job_id: entry.result for entry in entries if entry.result}
    return [
        UpdateOne({"_id": job_id}, {"$set": {"job": to_json(job), "expires": until}}, upsert=True)
        for job_id, job in results.items()
    ]


def _places(attempt: Mapping[str, Any]) -> list[str]:
    """Return the keys under which an attempt may be the latest: its stage or its deliveries, and if it failed."""
    stage, redrive = attempt["stage"], attempt.get("redrive", 0)
    if stage == NOTIFY.name:
        return [f"{stage}-{redrive}-{name}" for name in attempt.get("deliveries") or ("all",)]
    gave_up = attempt["verdict"] in {Outcome.GIVEN_UP, Outcome.REJECTED}
    return [stage, f"{stage}-{redrive}-gave-up"] if gave_up else [stage]


def _plausible_arrival(event: Event) -> float:
    """Return when the job reached the stage, or 0 if its message, which anyone may write, has an implausible time."""
    return event.arrived if event.at - RETENTION.total_seconds() < event.arrived <= event.at else 0.0


def _ends(event: Event) -> bool:
    if event.stage == NOTIFY.name:
        return event.outcome in {Outcome.DONE, Outcome.GIVEN_UP} or event.worked_on == (CLEAN_UP,)
    if event.outcome is Outcome.DONE and event.job:  # a re-check of an unchanged source goes to no other stage
        return event.job.due.name == event.stage
    is_silent = event.outcome is Outcome.DROPPED and event.job and event.job.deliveries == ()
    return event.outcome is Outcome.REJECTED or bool(is_silent)


def _facts(folder: str, source: Source) -> dict[str, Any]:
    facts: dict[str, Any] = {"url": shown(source.url), "fields": list(source.fields)}
    if source.error:
        facts["error"] = {**source.error, "message": _storable(shorten(source.error["message"], MAX_MESSAGE))}
    elif source.due == NOTIFY.name and source.content:
        facts["urls"] = {name: info["url"] for name, info in image_info(folder, source.content).items()}
        if source.details:
            facts["facts"] = source.details.facts.as_result(has_wrong_type=source.has_wrong_type)
    return facts


def is_storable(entry: LogEntry) -> bool:
    """Return whether MongoDB's format can express an entry: no lone surrogates, no integers beyond 64 bits."""
    try:
        bson.encode({name: getattr(entry, name) for name in ("job_id", "attempt", "known", "least", "most")})
    except Exception:  # several types, which depend on the value
        return False
    return True


def updates(entries: Iterable[LogEntry]) -> list[UpdateOne]:
    """Return one update per job. The result in the database does not depend on the order of `entries`."""
    merged: dict[str, dict[str, Any]] = {}
    for entry in entries:
        update = merged.setdefault(entry.job_id, {"$set": {}, "$min": {}, "$max": {}, "turns": []})
        update["$set"].update(entry.known)
        update["$min"] |= {name: min(value, update["$min"].get(name, value)) for name, value in entry.least.items()}
        known_most = update["$max"]
        known_most |= {name: max(value, known_most.get(name, value), key=_rank) for name, value in entry.most.items()}
        update["turns"].append(entry.attempt)
    return [UpdateOne({"_id": job_id}, _operators(update), upsert=True) for job_id, update in merged.items()]


def _operators(update: dict[str, Any]) -> dict[str, Any]:
    if "lane" not in update["$set"]:  # the message contains no job
        update["$setOnInsert"] = {"lane": Lane.LIVE.value}
    push = {"turns": {"$each": update.pop("turns"), "$slice": -MAX_ATTEMPTS}}
    # The end may be written before an earlier attempt. Either way the job must not be open afterwards.
    if "ended" in update["$max"]:
        update["$unset"] = {"open": ""}
    else:
        update.setdefault("$setOnInsert", {})["open"] = True
    return {name: values for name, values in update.items() if values} | {"$push": push}


def _rank(value: Any) -> Any:
    """Return the sort key of a value of `$max`. MongoDB compares documents field by field."""
    return tuple((name, str(field)) for name, field in value.items()) if isinstance(value, dict) else value


def counts(entries: Iterable[LogEntry]) -> list[UpdateOne]:
    """Return one update per minute that adds the numbers of attempts by stage and outcome, and of live jobs."""
    minutes: dict[datetime, Counter[str]] = {}
    for entry in entries:
        attempt = entry.attempt
        minute = minutes.setdefault(attempt["at"].replace(second=0, microsecond=0), Counter())
        minute[f"turns.{attempt['stage']}.{attempt['verdict']}"] += 1
        if entry.took is not None:
            minute[f"took.{entry.took}"] += 1
    return [
        UpdateOne({"_id": at}, {"$set": {"at": at}, "$inc": dict(numbers)}, True) for at, numbers in minutes.items()
    ]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def _storable(text: str) -> str:
    """Replace the lone surrogates that UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()
