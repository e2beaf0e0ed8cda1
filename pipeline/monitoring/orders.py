"""An operator's orders about jobs that wait: drop them, or try them now.

They are kept where the pauses are, in `image_pipeline_pauses`, which each process reads with every heartbeat. A stage
follows them when it next looks at a job, so no queue is searched.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from pipeline.clients import mongo
from pipeline.errors import CODES
from pipeline.job import ID
from pipeline.monitoring.pauses import PAUSES, paused_in
from pipeline.net.host_limits import endpoint_of, is_at, server_of
from pipeline.payload import folder_name
from pipeline.sqs.queues import RETENTION

T = TypeVar("T")

#: How long a filter is kept: no job that waited when it was made waits longer in SQS.
KEEP_DROP = timedelta(seconds=RETENTION)

#: How long a request to try now is kept: longer than the longest delay of SQS, with time for heartbeats.
KEEP_TRY = timedelta(minutes=20)

#: Maximum number of orders of each kind, because a stage compares each job with all of them.
MAX_ORDERS = 100

#: Maximum number of documents to read: the orders, and a pause of each stage.
MAX_READ = 1000


@dataclass(frozen=True)
class Drop:
    """A filter: fetch drops the sources that it matches. An empty field matches all."""

    folder: str  #: as in keys
    host: str  #: of the source, perhaps with a port
    before: AwareDatetime  #: sources of jobs that fetch was sent later are left alone
    silent: bool  #: a job that is dropped completely has no result
    ends: AwareDatetime  #: when the filter is deleted
    id: str = field(default_factory=lambda: secrets.token_hex(3))

    def matches(self, folder: str, url: str, accepted: datetime) -> bool:
        """Return whether to drop a source of a job that was accepted then."""
        if accepted >= self.before or self.folder not in {"", folder}:
            return False
        return not self.host or is_at(url, self.host)


@dataclass(frozen=True)
class TryNow:
    """A request to try now the jobs whose wait for a retry began before it."""

    kind: str  #: a key of `KINDS`
    value: str
    at: AwareDatetime


@dataclass(frozen=True)
class Orders:
    """All orders, as one read found them."""

    paused: dict[str, datetime] = field(default_factory=dict)
    drops: tuple[Drop, ...] = ()
    tries: tuple[TryNow, ...] = ()


def _job(value: str) -> str:
    job_id = re.sub(r"\.r\d+$", "", value)
    return job_id if ID.fullmatch(job_id) else ""


def _code(value: str) -> str:
    return value if value in CODES or re.fullmatch(r"http_[1-5]\d\d", value) else ""


def _host(value: str) -> str:
    return server_of(f"http://{value}") if re.fullmatch(r"[^\s/@?#\\]{1,260}", value) else ""


#: What can be tried now. Each function returns the value in the form that is compared, or nothing if it is not one.
KINDS: dict[str, Callable[[str], str]] = {"job": _job, "endpoint": endpoint_of, "host": _host, "code": _code}


def try_now(kind: str, value: str) -> TryNow:
    """Let jobs that wait for a retry try now, by job, endpoint, host or error code.

    Each job is tried once for each call. It takes a minute or two, because jobs look about once a minute.

    Args:
        kind: `job`, `endpoint`, `host` or `code`.
        value: The id of a job, the URL of a receiver, a host name, or the code of the last error.

    Raises:
        ValueError: The kind or the value is not one, or there are too many orders.
        SettingsError: JOBS_MONGO_URL is not set.
        RetryableError: MongoDB cannot be reached.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
    if not (known := KINDS[kind](value.strip())):
        raise ValueError(f"{value[:100]!r} is not the {kind} of a job that could wait")
    order = TryNow(kind, known, _now())
    name = hashlib.sha256(f"{kind} {known}".encode()).hexdigest()[:16]
    _write(f"try-{name}", "try", order, order.at + KEEP_TRY)
    return order


def drop(*, folder: str = "", host: str = "", before: datetime | None = None, silent: bool = False) -> Drop:
    """Return a filter for the jobs of a folder, a host, or before a time, or of all that are given. `keep` starts it.

    Raises:
        ValueError: Nothing is given, the host is not one, or the time is in the future.
        SettingsError: JOBS_MONGO_URL is not set.
        RetryableError: MongoDB cannot be reached.
    """
    now = _now()
    if not (folder or host or before):
        raise ValueError("name a folder, a host or a time: without them it would drop every job")
    if before and before > now:
        raise ValueError("the time is in the future: only jobs that wait now can be dropped")
    if host and not (host := _host(host)):
        raise ValueError("the host is a name, perhaps with a port, such as cdn.example.com:8080")
    if folder and folder != folder_name(None):
        folder = folder_name(folder)
    return Drop(folder, host, before or now, silent, now + KEEP_DROP)


def keep(order: Drop) -> None:
    """Let fetch follow a filter. It raises the errors of `try_now`."""
    _write(f"drop-{order.id}", "drop", order, order.ends)


def remove(drop_id: str) -> bool:
    """Delete a filter; returns whether it existed. Dropped jobs stay dropped."""
    with mongo.mongo_errors("remove the filter"):
        return bool(mongo.job_database()[PAUSES].delete_one({"_id": f"drop-{drop_id}"}).deleted_count)


def read() -> Orders:
    """Return the pauses and all orders that are in force, by one query.

    Raises:
        SettingsError: JOBS_MONGO_URL is not set.
        RetryableError: MongoDB cannot be reached.
    """
    with mongo.mongo_errors("read the job log"):
        found = list(mongo.job_database()[PAUSES].find().limit(MAX_READ))
    return Orders(paused_in(found), tuple(_live(_DROPS, "drop", found)), tuple(_live(_TRIES, "try", found)))


_DROPS, _TRIES = TypeAdapter(Drop), TypeAdapter(TryNow)


def _live(orders: TypeAdapter[T], kind: str, found: Iterable[Mapping[str, Any]]) -> Iterator[T]:
    """Yield the orders of a kind that are in force. Orders that this release cannot read are left out."""
    for each in found:
        expires = each.get("expires")
        if isinstance(expires, datetime) and expires > datetime.now(UTC):
            with suppress(KeyError, ValidationError):
                yield orders.validate_python(each[kind])


def _now() -> datetime:
    """Return the time of the database. By the clock of an operator's machine, a filter could drop new jobs."""
    with mongo.mongo_errors("read the job log"):
        now: datetime = mongo.job_database().command("hello")["localTime"]
    return now.replace(tzinfo=UTC)


def _write(key: str, kind: str, order: Drop | TryNow, expires: datetime) -> None:
    with mongo.mongo_errors("write to the job log"):
        orders = mongo.job_database()[PAUSES]
        orders.delete_many({"expires": {"$lt": _now()}})
        if orders.count_documents({kind: {"$exists": True}, "_id": {"$ne": key}}) >= MAX_ORDERS:
            raise ValueError(f"there are {MAX_ORDERS} orders of this kind already: remove one, or wait")
        orders.update_one({"_id": key}, {"$set": {kind: asdict(order), "expires": expires}}, upsert=True)
