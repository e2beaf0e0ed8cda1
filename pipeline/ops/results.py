"""Delivers the kept result of a job again, to the same receivers, where KEEP_RESULTS_DAYS keeps results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dramatiq.errors import BrokerError

from pipeline.clients import mongo
from pipeline.errors import PermanentError, RetryableError
from pipeline.job import Job, UnknownVersion
from pipeline.job_ids import possible_ids
from pipeline.monitoring.job_log.reader import ids_from
from pipeline.monitoring.job_log.schema import RESULTS
from pipeline.payload import parse_json
from pipeline.settings import get_settings

#: Shortest beginning of an id.
MIN_ID = 4


class NoResult(LookupError):
    """No result with this id is kept."""

    def __init__(self, job_id: str) -> None:
        days = get_settings().keep_results_days
        kept = f"Results are kept for {days} days." if days else "KEEP_RESULTS_DAYS is not set, so none is kept."
        super().__init__(f"No result of the job {job_id!r} is kept. {kept}")


def is_kept(job_id: str) -> bool:
    """Return whether the result of a job can be delivered again.

    Raises:
        RetryableError: MongoDB cannot be reached.
    """
    if not get_settings().keep_results_days or get_settings().jobs_mongo_url is None:
        return False
    with mongo.mongo_errors("read the kept result"):
        return mongo.job_database()[RESULTS].find_one({"_id": _base(job_id)}, {"_id": 1}) is not None


def find(prefix: str) -> list[str]:
    """Return the ids of the first two jobs with a kept result that begin with `prefix`, or `prefix` alone if it is one.

    Raises:
        ValueError: the prefix is too short.
    """
    if len(prefix) < MIN_ID:
        raise ValueError(f"{prefix!r} is too short: write at least {MIN_ID} characters of a job's id")
    with mongo.mongo_errors("read the kept results"):
        query = {"_id": ids_from(_base(prefix))}
        found = list(mongo.job_database()[RESULTS].find(query, {"_id": 1}).sort("_id", 1).limit(2))
        found = found or list(mongo.job_database()[RESULTS].find({"_id": possible_ids(prefix)[1]}, {"_id": 1}))
    ids = [each["_id"] for each in found]
    return ids[:1] if _base(prefix) in ids else ids


def deliver_again(job_id: str) -> str:
    """Send the result of a job to every receiver that its message asked for, under a new id.

    A receiver drops a repeated id as a duplicate, so the result has the id of a redrive, which is returned.

    Raises:
        NoResult: no result with this id is kept.
        RetryableError: MongoDB or SQS cannot be reached; nothing was sent.
    """
    import pipeline.actors  # noqa: PLC0415, F401 - builds the broker
    from pipeline.worker.registry import our_broker  # noqa: PLC0415 - needs the broker
    from pipeline.worker.stage_actor import message_of  # noqa: PLC0415 - needs the broker

    with mongo.mongo_errors("read the kept result"):
        count = {"$inc": {"deliveries": 1}}
        found = mongo.job_database()[RESULTS].find_one_and_update({"_id": _base(job_id)}, count)
    job = _job_in(found, job_id)
    number = job.redrives + job.letters + int(found.get("deliveries", 0)) + 1 if found else 0
    again = replace(job.redriven(number), deliveries=None)
    try:
        our_broker().enqueue(message_of(again))
    except BrokerError as error:
        raise RetryableError("sqs_error", f"Could not send to the notify stage: {error}") from error
    return again.report_id


def _job_in(found: Any, job_id: str) -> Job:
    if not found:
        raise NoResult(job_id)
    try:
        return Job.decode(parse_json(found["job"]))
    except UnknownVersion as error:
        raise PermanentError("unknown_version", f"This release cannot read the result: {error}.") from error


def _base(job_id: str) -> str:
    """Return the id of a job without the suffix of a redrive."""
    return possible_ids(job_id)[0]
