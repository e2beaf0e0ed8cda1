"""MongoDB clients: of the customer's database, which is swept, and of the job log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo import MongoClient, ReadPreference
from pymongo.errors import ConnectionFailure, PyMongoError

from pipeline.clients.lazy import POOL_SIZE, Lazy
from pipeline.errors import RetryableError, SettingsError
from pipeline.settings import get_settings

if TYPE_CHECKING:
    from pydantic import SecretStr
    from pymongo.database import Database

#: Error code of MongoDB for a key that already exists.
DUPLICATE_KEY = 11000

#: Error codes of MongoDB for a full disk, and for an internal error, by which the embedded server reports one.
#: https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
DISK_FULL, INTERNAL = 14031, 1

#: The sentence for a MongoDB that does not answer. It is the same everywhere, whatever was asked.
NO_ANSWER = "MongoDB does not answer. Live jobs go on without it."

#: Timeout of a short request, in seconds.
SHORT_TIMEOUT = 10.0

#: Seconds that a person waits for MongoDB, on a page or in a terminal.
PERSON_TIMEOUT = 1.0

#: Whether an operation has failed in this process. The threads of pymongo may then hang.
has_failed = False


@Lazy
def _mongo() -> MongoClient[dict[str, Any]]:
    url = get_settings().database_url
    if url is None:
        raise RetryableError("mongo_error", "No MongoDB variable is set.")
    # Dates and texts that are invalid in Python must not fail a whole query.
    tolerant: dict[str, Any] = {"datetime_conversion": "DATETIME_AUTO", "unicode_decode_error_handler": "replace"}
    return _client(url, "image-pipeline", maxPoolSize=POOL_SIZE, **tolerant)


def database() -> Database[dict[str, Any]]:
    """Return the customer's database. Reads go to the primary, even if its URL has another read preference."""
    return _mongo().get_default_database(read_preference=ReadPreference.PRIMARY)


@Lazy
def _jobs_mongo() -> MongoClient[dict[str, Any]]:
    url = get_settings().jobs_mongo_url
    if url is None:
        raise SettingsError("JOBS_MONGO_URL is not set. Set it to the URL of the MongoDB database for the job log.")
    return _client(url, "image-pipeline-jobs", maxPoolSize=8)  # one thread writes, and a few of the dashboard read


def job_database() -> Database[dict[str, Any]]:
    """Return the database of the job log.

    Raises:
        SettingsError: JOBS_MONGO_URL is not set.
    """
    return _jobs_mongo().get_default_database(read_preference=ReadPreference.PRIMARY)


def _client(url: SecretStr, name: str, **options: Any) -> MongoClient[dict[str, Any]]:
    timeouts: dict[str, Any] = {"serverSelectionTimeoutMS": 5000, "connectTimeoutMS": 5000}
    return MongoClient(url.get_secret_value(), appname=name, tz_aware=True, **timeouts, **options)


@contextmanager
def mongo_errors(
    doing: str, *, timeout: float | None = None, where: Callable[[], Database[dict[str, Any]]] = database
) -> Iterator[None]:
    """Translate errors of pymongo to a RetryableError `mongo_error`, with `trouble` as its message.

    Args:
        doing: completes the message.
        timeout: seconds for all operations inside the context together; default `SHORT_TIMEOUT`.
        where: returns the database. With a long `timeout` it is pinged first while no server is known, because pymongo
            would search for one for all that time.
    """
    timeout = timeout or SHORT_TIMEOUT
    try:
        if timeout > SHORT_TIMEOUT and not _is_known(where()):
            with pymongo.timeout(SHORT_TIMEOUT):
                where().command("ping")
        with pymongo.timeout(timeout):
            yield
    except PyMongoError as error:  # its message may contain hosts and documents
        global has_failed  # noqa: PLW0603 - one fact of the process
        has_failed = True
        raise RetryableError("mongo_error", trouble(error, doing)) from error


def trouble(error: PyMongoError, doing: str) -> str:
    """Describe an error in a sentence for pages, commands and logs. Its text may contain hosts and documents."""
    if isinstance(error, ConnectionFailure) or error.timeout:
        return NO_ANSWER
    code = getattr(error, "code", None)
    if code == DISK_FULL or "No space left" in str(error):
        return f"Could not {doing}: the disk of MongoDB is full."
    if code == INTERNAL:
        return f"Could not {doing}: MongoDB has an internal error. Its disk may be full: see its log."
    return f"Could not {doing}: MongoDB raised {type(error).__name__}{f' {code}' if code else ''}."


def _is_known(database: Database[dict[str, Any]]) -> bool:
    """Return whether pymongo knows a server that takes writes. It forgets one at the first error of a connection."""
    servers = database.client.topology_description.server_descriptions().values()
    return any(server.is_writable for server in servers)


def within(seconds: float = PERSON_TIMEOUT) -> AbstractContextManager[None]:
    """Limit all operations inside the context together, by default to what a person waits."""
    return pymongo.timeout(seconds)


def reach(where: Callable[[], Database[dict[str, Any]]] = database) -> None:
    """Check that a database answers while a person waits, before an operation that may take longer.

    Raises:
        RetryableError: it does not answer.
    """
    with mongo_errors("reach MongoDB", timeout=PERSON_TIMEOUT, where=where):
        where().command("ping")
