"""Checks of MongoDB: that it answers, and that the sweeps may read and write there; nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import pymongo
from bson import ObjectId
from pymongo.errors import OperationFailure, PyMongoError, ServerSelectionTimeoutError

from pipeline.clients import mongo
from pipeline.errors import RetryableError
from pipeline.monitoring.job_log import writer as job_log_writer
from pipeline.monitoring.job_log.schema import JOBS
from pipeline.ops.checks.model import Check, CheckStatus, Context, Row
from pipeline.sweeps import run_state
from pipeline.sweeps.documents import SWEPT

#: Seconds for each request.
TIMEOUT: Final = 10

#: https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml; 8000 is Atlas's own
_UNKNOWN_USER, _DENIED = frozenset({18, 8000}), 13

_ROLE = "Give the user the role readWrite on that database."


def _answers(context: Context) -> Iterator[Row]:
    if context.settings.database_url is None:
        yield Row(CheckStatus.SKIP, "MongoDB", "No MongoDB variable is set: sweeps are off.")
        return
    try:
        with pymongo.timeout(TIMEOUT):
            database = mongo.database()
            database.command("ping")
            database[run_state.COLLECTION].find_one({"_id": ObjectId()})  # a ping needs no user
    except PyMongoError as error:
        yield _trouble("MongoDB", "ask it", error)
    else:
        yield Row(CheckStatus.OK, "MongoDB", f"It answers, and takes the credentials; the database is {database.name}.")


def _collections(context: Context) -> Iterator[Row]:
    if context.settings.database_url is None:
        return
    for name in (*SWEPT, run_state.COLLECTION):
        yield _collection(name)


def _collection(name: str) -> Row:
    """Reads one document, and updates none: a filter that nothing matches."""
    database = mongo.database()
    doing = "read it"
    try:
        with pymongo.timeout(TIMEOUT):
            found = database[name].find_one({}, {"_id": True})
            doing = "update it"
            database[name].update_one({"_id": ObjectId()}, {"$unset": {"image_pipeline_check": ""}})
    except PyMongoError as error:
        return _trouble(name, doing, error)
    if found is None and name in SWEPT:
        return Row(
            CheckStatus.SKIP,
            name,
            "It may be read and updated, but is empty or not there: there is nothing to sweep.",
            "If there should be, the URL names another database.",
        )
    return Row(CheckStatus.OK, name, "It may be read and updated.")


def _indexes(context: Context) -> Iterator[Row]:
    if context.settings.database_url is None:
        return
    try:
        missing = [by for by, *_ in run_state.missing_indexes()]
    except RetryableError as error:
        yield Row(CheckStatus.SKIP, run_state.COLLECTION, f"Its indexes may not be looked at. {error.message}")
        return
    if missing:
        yield Row(
            CheckStatus.WARN,
            run_state.COLLECTION,
            f"It has no index by {' nor by '.join(missing)}: sweeps get slower, and what has ended stays.",
            "`image-pipeline provision` makes it.",
        )
    else:
        yield Row(CheckStatus.OK, run_state.COLLECTION, "Its indexes are there.")


def _job_log(context: Context) -> Iterator[Row]:
    if context.settings.jobs_mongo_url is None:
        yield Row(CheckStatus.SKIP, JOBS, "JOBS_MONGO_URL is not set: there is no job log.")
        return
    try:
        with pymongo.timeout(TIMEOUT):
            jobs = mongo.job_database()[JOBS]
            jobs.find_one({"_id": ""})
            jobs.update_one({"_id": ""}, {"$unset": {"image_pipeline_check": ""}})
        missing = [f"{collection} by {by}" for collection, by, *_ in job_log_writer.missing_indexes()]
    except PyMongoError as error:
        yield replace(_trouble(JOBS, "read and update it", error), status=CheckStatus.WARN)  # no job waits for it
        return
    except RetryableError as error:
        yield Row(CheckStatus.SKIP, JOBS, f"Its indexes may not be looked at. {error.message}")
        return
    if missing:
        message = f"There is no index of {' nor of '.join(missing)}: jobs are not forgotten after 30 days."
        yield Row(CheckStatus.WARN, JOBS, message, "`image-pipeline provision` makes it.")
    else:
        yield Row(CheckStatus.OK, JOBS, "The job log may be read and updated, and its indexes are there.")


def _trouble(subject: str, doing: str, error: PyMongoError) -> Row:
    """What MongoDB's refusal means. The error's own text is not shown: it may hold hosts and documents."""
    code: Any = error.code if isinstance(error, OperationFailure) else None
    if code in _UNKNOWN_USER:
        message, hint = (
            "MongoDB does not know the user or the password.",
            "Look at both in the URL, and at its authSource.",
        )
    elif code == _DENIED:
        message, hint = f"The user may not {doing}.", _ROLE
    elif isinstance(error, ServerSelectionTimeoutError) or error.timeout:
        message = "MongoDB does not answer, or has no primary."
        hint = "Look at the host and port in the URL, at TLS, and whether this host is let in; jobs of sweeps wait."
    else:
        message = f"Could not {doing}: MongoDB gave {type(error).__name__}{f' {code}' if code else ''}."
        hint = "Look at the URL, and at MongoDB's log."
    return Row(CheckStatus.FAIL, subject, message, hint)


_SWEEPING = frozenset({"notify", "sweep", "scheduler"})
_LOGGING = frozenset({"fetch", "resize", "upload", "notify", "ingest", "operator", "provision"})

CHECKS = (
    Check(
        "MongoDB",
        "answers",
        "Asks for a document that is not there: the host, the user.",
        _answers,
        _SWEEPING,
        opens=True,
    ),
    Check("MongoDB", "collections", "Reads a document of each collection, and updates none.", _collections, _SWEEPING),
    Check("MongoDB", "indexes", "Looks for the indexes of the sweeps' state.", _indexes, _SWEEPING | {"provision"}),
    Check("Job log", "job log", "Asks for a job that is not there, and looks for the indexes.", _job_log, _LOGGING),
)
