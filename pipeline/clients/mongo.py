"""Clients of MongoDB: the customer's database that is swept, and the job log's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo import MongoClient, ReadPreference
from pymongo.errors import PyMongoError

from pipeline.clients.lazy import Lazy
from pipeline.errors import RetryableError, SettingsError
from pipeline.settings import get_settings

if TYPE_CHECKING:
    from pymongo.database import Database

#: Connections kept open: more than the threads of any process in the Procfile.
POOL_SIZE = 64

#: Seconds in which MongoDB has to answer a short request.
MONGO_ANSWERS = 10.0


@Lazy
def _mongo() -> MongoClient[dict[str, Any]]:
    url = get_settings().database_url
    if url is None:
        raise RetryableError("mongo_error", "No MongoDB variable is set.")
    return MongoClient(
        url.get_secret_value(),
        appname="image-pipeline",
        tz_aware=True,
        datetime_conversion="DATETIME_AUTO",  # a date or a text that is none in Python keeps from reading no others
        unicode_decode_error_handler="replace",
        maxPoolSize=POOL_SIZE,
        serverSelectionTimeoutMS=5000,
        connectTimeoutMS=5000,
    )


def database() -> Database[dict[str, Any]]:
    """The MongoDB database that the sweeps work on; reads go to the primary, whatever its URL says."""
    return _mongo().get_default_database(read_preference=ReadPreference.PRIMARY)


@Lazy
def _jobs_mongo() -> MongoClient[dict[str, Any]]:
    url = get_settings().jobs_mongo_url
    if url is None:
        raise SettingsError("JOBS_MONGO_URL is not set: name there the MongoDB database that is to hold the job log.")
    return MongoClient(
        url.get_secret_value(),
        appname="image-pipeline-jobs",
        tz_aware=True,
        maxPoolSize=8,  # one thread of a process writes; a dashboard's few read
        serverSelectionTimeoutMS=5000,
        connectTimeoutMS=5000,
    )


def job_database() -> Database[dict[str, Any]]:
    """The MongoDB database of the job log.

    Raises:
        SettingsError: JOBS_MONGO_URL is not set.
    """
    return _jobs_mongo().get_default_database(read_preference=ReadPreference.PRIMARY)


@contextmanager
def mongo_errors(
    doing: str, *, timeout: float | None = None, where: Callable[[], Database[dict[str, Any]]] = database
) -> Iterator[None]:
    """Turns what pymongo raises into a RetryableError `mongo_error` that says what was being done.

    All that is inside may take `timeout` seconds together, by default `MONGO_ANSWERS`. Where that is long, the database
    `where` it is done is asked first whether it is there: pymongo would look for it all that time.
    """
    timeout = timeout or MONGO_ANSWERS
    try:
        if timeout > MONGO_ANSWERS:
            with pymongo.timeout(MONGO_ANSWERS):
                where().command("ping")
        with pymongo.timeout(timeout):
            yield
    except PyMongoError as error:  # its text may hold hosts and documents
        raise RetryableError("mongo_error", f"Could not {doing}: MongoDB gave {type(error).__name__}.") from error
