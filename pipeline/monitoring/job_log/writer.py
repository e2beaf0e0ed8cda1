"""Write the job log: one thread collects the attempts of a process and writes them to MongoDB in batches.

Recording an attempt takes microseconds and never blocks a job. While MongoDB is down, the latest attempts are kept and
the oldest dropped. A killed process loses the attempts of its last second.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, PyMongoError

from pipeline.clients import mongo
from pipeline.events import Event
from pipeline.monitoring.job_log.schema import (
    INDEXES,
    JOBS,
    MINUTES,
    RESULTS,
    LogEntry,
    counts,
    entry_of,
    is_storable,
    kept,
    result_of,
    updates,
)
from pipeline.settings import get_settings
from pipeline.sqs.backoff import Backoff

logger = logging.getLogger(__name__)

#: Maximum number of attempts waiting for MongoDB, about 1 kB each.
CAPACITY = 10_000

#: Maximum number of attempts per write, and seconds that a batch is collected.
BATCH, BATCH_WINDOW = 1000, 1.0

#: Timeout of a batch, in seconds.
TIMEOUT = 10.0

#: Seconds between writes while MongoDB fails: doubled from the first to the last.
FIRST_BACKOFF, LAST_BACKOFF = 1.0, 30.0


class JobLogWriter:
    """Subscribes to `pipeline.events` and writes from a thread that runs between `start` and `stop`.

    Args:
        write: writes entries to the database; raises PyMongoError if it fails.
        capacity: number of attempts kept while the database fails.
        batch_window: seconds during which attempts are collected into one batch.
        keep_days: days that results are kept; 0: not at all.

    Attributes:
        lost: number of attempts dropped for lack of capacity.
    """

    def __init__(
        self,
        write: Callable[[Sequence[LogEntry]], None] | None = None,
        *,
        capacity: int = CAPACITY,
        batch_window: float = BATCH_WINDOW,
        keep_days: int = 0,
    ) -> None:
        self._write = write or write_entries
        self._entries: deque[LogEntry] = deque(maxlen=capacity)
        self._batch_window = batch_window
        self._keep_days = keep_days
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job log", daemon=True)
        self._in_trouble = False
        self.lost = 0

    def __call__(self, event: Event) -> None:
        entry = entry_of(event)
        if self._keep_days:
            entry = replace(entry, result=result_of(event))
        with self._lock:
            self.lost += len(self._entries) == self._entries.maxlen
            self._entries.append(entry)
        self._some.set()

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Write the remaining attempts, for at most `timeout` seconds."""
        self._stopping.set()
        self._some.set()
        self._thread.join(timeout)
        if self._thread.is_alive() or self._entries:
            logger.warning("The job log lost its latest attempts: MongoDB did not accept them in time.")

    def _run(self) -> None:
        backoff = Backoff(FIRST_BACKOFF, LAST_BACKOFF, random.Random())  # noqa: S311 - it draws jitter
        while not self._stopping.is_set():
            self._some.wait()
            self._stopping.wait(self._batch_window)
            self._some.clear()
            if self._write_all():
                backoff.reset()
                continue
            self._some.set()
            self._stopping.wait(backoff.next())
        self._write_all()  # attempts that arrived meanwhile

    def _write_all(self) -> bool:
        """Write all waiting entries; return whether MongoDB accepted them."""
        while batch := self._take():
            try:
                self._write(batch)
            except PyMongoError as error:
                self._put_back(batch)
                if not self._in_trouble:
                    logger.warning("%s The job log is delayed.", mongo.trouble(error, "write the job log"))
                self._in_trouble = True
                return False
            except Exception as error:
                self._without_bad(batch, error)
        if self._in_trouble:
            logger.info("The job log is being written again. Attempts lost since this process started: %d.", self.lost)
        self._in_trouble = False
        return True

    def _without_bad(self, batch: Sequence[LogEntry], error: Exception) -> None:
        """Return a batch that cannot be written to the queue, without the entries that cannot be encoded."""
        good = [entry for entry in batch if is_storable(entry)]
        if len(good) == len(batch):
            good = []  # the error has another cause, and would come again
        logger.error(
            "The job log dropped %d of %d attempts: %s.", len(batch) - len(good), len(batch), type(error).__name__
        )
        self._put_back(good)

    def _take(self) -> list[LogEntry]:
        with self._lock:
            return [self._entries.popleft() for _ in range(min(BATCH, len(self._entries)))]

    def _put_back(self, batch: Sequence[LogEntry]) -> None:
        """Return a batch to the front of the queue, dropping its oldest entries if they do not fit."""
        with self._lock:
            room = (self._entries.maxlen or 0) - len(self._entries)
            kept = batch[max(0, len(batch) - room) :]
            self.lost += len(batch) - len(kept)
            self._entries.extendleft(reversed(kept))


def write_entries(entries: Sequence[LogEntry]) -> None:
    """Write entries to the job log. Writing them twice does not change a job history.

    Raises:
        PyMongoError: MongoDB failed.
    """
    database = mongo.job_database()
    with pymongo.timeout(TIMEOUT):
        _bulk(database[JOBS], updates(entries))
        _bulk(database[MINUTES], counts(entries))
        if results := kept(entries, datetime.now(UTC) + timedelta(days=get_settings().keep_results_days)):
            _bulk(database[RESULTS], results)


def _bulk(collection: Collection[dict[str, Any]], changes: Sequence[UpdateOne], *, again: bool = True) -> None:
    try:
        collection.bulk_write(changes, ordered=False)
    except BulkWriteError as error:
        errors = (error.details or {}).get("writeErrors", [])
        # Another process has just inserted the document, so the same update succeeds now.
        raced = [changes[each["index"]] for each in errors if each["code"] == mongo.DUPLICATE_KEY]
        refused = {each["code"] for each in errors} - {mongo.DUPLICATE_KEY}
        if refused:  # a retry cannot help
            logger.error("MongoDB rejected %d updates of the job log with codes %s.", len(errors) - len(raced), refused)
        if raced and again:
            _bulk(collection, raced, again=False)


def missing_indexes() -> list[tuple[str, str, dict[str, Any], str]]:
    """List the elements of `schema.INDEXES` that do not exist.

    Raises:
        RetryableError: MongoDB could not be reached.
    """
    with mongo.mongo_errors("look at the indexes of the job log"):
        there = {
            (name, ",".join(field for field, _ in index["key"]))
            for name in {collection for collection, *_ in INDEXES}
            for index in mongo.job_database()[name].index_information().values()
        }
    return [index for index in INDEXES if index[:2] not in there]


def create_index(collection: str, by: str, options: Mapping[str, Any]) -> None:
    """Create an index of `schema.INDEXES`.

    Raises:
        RetryableError: MongoDB could not create it.
    """
    doing = f"create the index of {collection} by {by}"
    with mongo.mongo_errors(doing, timeout=600, where=mongo.job_database):
        mongo.job_database()[collection].create_index(by.split(","), **options)
