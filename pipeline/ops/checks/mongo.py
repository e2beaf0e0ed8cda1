"""Checks that MongoDB answers, and that sweeps and the job log can read and write there. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pymongo
from bson import ObjectId
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError, ServerSelectionTimeoutError

from pipeline.clients import mongo
from pipeline.errors import RetryableError
from pipeline.monitoring.job_log import writer as job_log_writer
from pipeline.monitoring.job_log.schema import JOBS
from pipeline.ops.checks.model import Check, CheckStatus, Context, Row, fail, ok, skip, warn
from pipeline.sweeps import indexes, run_state, sources
from pipeline.sweeps.documents import SWEPT

#: Timeout of each request, in seconds.
TIMEOUT: Final = mongo.PERSON_TIMEOUT

#: https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml; 8000 is specific to Atlas
_UNKNOWN_USER, _DENIED = frozenset({18, 8000}), 13

#: The `_id` of no document.
ABSENT = ObjectId("0" * 24)

_ROLE = "Grant the user the role readWrite on that database."


def _answers(context: Context) -> Iterator[Row]:
    """Query a document that does not exist, to test the host and the user."""
    if context.settings.database_url is None:
        if context.settings.recheck_days:
            hint = "Set MONGO_URL for scheduler, sweep, fetch and notify, or unset RECHECK_DAYS."
            yield warn("MongoDB", "RECHECK_DAYS is set without a MongoDB variable, so re-checks are off.", hint)
        else:
            yield skip("MongoDB", "No MongoDB variable is set, so sweeps are off.")
        return
    try:
        with pymongo.timeout(TIMEOUT):
            database = mongo.database()
            database.command("ping")
            database[run_state.COLLECTION].find_one({"_id": ABSENT})  # a ping works without a user
    except PyMongoError as error:
        yield _failed("MongoDB", "ask it", error)
    else:
        yield ok("MongoDB", f"It answers and accepts the credentials; the database is {database.name}.")


def _collections(context: Context) -> Iterator[Row]:
    """Read one document of each collection, and run an update that matches none."""
    if context.settings.database_url is None:
        return
    for name in (*SWEPT, run_state.COLLECTION, sources.COLLECTION):
        yield _collection(name, mongo.database())


def _collection(name: str, database: Database[dict[str, Any]]) -> Row:
    """Check reading with one document, and updating with a filter that matches nothing."""
    doing = "read it"
    try:
        with pymongo.timeout(TIMEOUT):
            found = database[name].find_one({}, {"_id": True})
            doing = "update it"
            database[name].update_one({"_id": ABSENT}, {"$unset": {"image_pipeline_check": ""}})
    except PyMongoError as error:
        return _failed(name, doing, error)
    if found is None and name in SWEPT:
        return skip(
            name,
            "It can be read and updated, but it is empty or missing: there is nothing to sweep.",
            "If you expect documents there, the URL names the wrong database.",
        )
    return ok(name, "It can be read and updated.")


def _indexes(context: Context) -> Iterator[Row]:
    """List the indexes of the state of sweeps and of the known sources."""
    if context.settings.database_url is None:
        return
    lacks = {
        run_state: "sweeps become slower, and old runs are never deleted",
        sources: "failing sources are listed slowly, and sources that nothing asks for are never deleted",
    }
    for ours, consequence in lacks.items():
        yield _with_indexes(ours.COLLECTION, partial(_missing_of, ours), consequence)


def _missing_of(ours: Any) -> list[str]:
    return [by for by, *_ in indexes.missing(ours.COLLECTION, ours.INDEXES)]


def _missing_of_job_log() -> list[str]:
    return [f"{by} of {collection}" for collection, by, *_ in job_log_writer.missing_indexes()]


def _with_indexes(collection: str, missing: Callable[[], list[str]], consequence: str) -> Row:
    """Return which indexes of a collection are missing."""
    try:
        found = missing()
    except (RetryableError, PyMongoError) as error:
        return skip(collection, f"Its indexes cannot be listed: {type(error).__name__}.")
    if found:
        message = f"It lacks the index by {' and by '.join(found)}: {consequence}."
        return warn(collection, message, "`image-pipeline provision` creates it.")
    return ok(collection, "Its indexes exist.")


def _job_log(context: Context) -> Iterator[Row]:
    """Query a job that does not exist, and list the indexes."""
    if context.settings.jobs_mongo_url is None:
        yield skip(JOBS, "JOBS_MONGO_URL is not set, so the job log is off.")
        return
    row = _collection(JOBS, mongo.job_database())
    if row.status is CheckStatus.FAIL:
        yield replace(row, status=CheckStatus.WARN)  # jobs do not wait for the job log
        return
    yield _with_indexes(JOBS, _missing_of_job_log, "jobs are not deleted after 30 days")


def _failed(subject: str, doing: str, error: PyMongoError) -> Row:
    """Explain an error of MongoDB. Its text is not shown because it may contain hosts and documents."""
    code: Any = error.code if isinstance(error, OperationFailure) else None
    if code in _UNKNOWN_USER:
        message, hint = (
            "MongoDB does not know the user or the password.",
            "Check both in the URL, and its authSource.",
        )
    elif code == _DENIED:
        message, hint = f"The user may not {doing}.", _ROLE
    elif isinstance(error, ServerSelectionTimeoutError) or error.timeout:
        message = "MongoDB does not answer, or has no primary."
        hint = "Check host and port in the URL, TLS, and MongoDB's access list. Jobs of sweeps wait meanwhile."
    else:
        message = f"Could not {doing}: MongoDB returned {type(error).__name__}{f' {code}' if code else ''}."
        hint = "Check the URL and MongoDB's log."
    return fail(subject, message, hint)


_SWEEPING = frozenset({"fetch", "notify", "sweep", "scheduler"})
_LOGGING = frozenset({"fetch", "resize", "upload", "notify", "ingest", "operator", "provision"})

CHECKS = (
    Check("MongoDB", "answers", _answers, _SWEEPING, opens=True),
    Check("MongoDB", "collections", _collections, _SWEEPING),
    Check("MongoDB", "indexes", _indexes, _SWEEPING | {"provision"}),
    Check("Job log", "job log", _job_log, _LOGGING),
)
