"""Writing the job log: a thread that puts what the working threads tell it into MongoDB, in batches.

It is never in the way: to tell it takes microseconds, and while MongoDB is down it keeps the latest turns and lets the
oldest go. A process that is killed takes with it what it was told in the last second.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pymongo
from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, PyMongoError

from pipeline.clients import mongo
from pipeline.events import Event
from pipeline.monitoring.job_log.schema import INDEXES, JOBS, MINUTES, LogEntry, counts, entry_of, updates

logger = logging.getLogger(__name__)

#: Turns that wait for MongoDB at the most: about 1 kB each.
CAPACITY = 10_000

#: Turns that are written at once at the most, and seconds that they are gathered for.
BATCH, BATCH_WINDOW = 1000, 1.0

#: Seconds that MongoDB may take for a batch.
TIMEOUT = 10.0

#: Seconds between attempts while MongoDB is in trouble: doubled from the first to the last.
FIRST_BACKOFF, LAST_BACKOFF = 1.0, 30.0

#: MongoDB's code where another process has just made the document: the same update finds it now.
DUPLICATE_KEY = 11000


class JobLogWriter:
    """A listener of `pipeline.events`. Its thread runs from `start` to `stop`.

    Parameters:
        write: puts entries into the database; raises PyMongoError where it is in trouble.
        capacity: how many turns are kept while it is.
        batch_window: seconds to gather turns for one batch.
    """

    def __init__(
        self,
        write: Callable[[Sequence[LogEntry]], None] | None = None,
        *,
        capacity: int = CAPACITY,
        batch_window: float = BATCH_WINDOW,
    ) -> None:
        self._write = write or write_entries
        self._entries: deque[LogEntry] = deque(maxlen=capacity)
        self._batch_window = batch_window
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job log", daemon=True)
        self._in_trouble = False
        self.lost = 0  #: turns for which there was no room

    def __call__(self, event: Event) -> None:
        """Take note of one turn."""
        entry = entry_of(event)
        with self._lock:
            self.lost += len(self._entries) == self._entries.maxlen
            self._entries.append(entry)
        self._some.set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Write what is left, if that takes no longer than `timeout` seconds."""
        self._stopping.set()
        self._some.set()
        self._thread.join(timeout)
        if self._thread.is_alive() or self._entries:
            logger.warning("The job log ends without its latest turns: MongoDB did not take them in time.")

    def _run(self) -> None:
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            self._some.wait()
            self._stopping.wait(self._batch_window)
            self._some.clear()
            if self._write_all():
                backoff = FIRST_BACKOFF
                continue
            self._some.set()
            self._stopping.wait(backoff)
            backoff = min(backoff * 2, LAST_BACKOFF)
        self._write_all()  # what came in meanwhile

    def _write_all(self) -> bool:
        """Whether all that is there was written."""
        while batch := self._take():
            try:
                self._write(batch)
            except PyMongoError as error:  # its text may hold hosts and documents
                self._put_back(batch)
                if not self._in_trouble:
                    logger.warning("The job log waits: MongoDB gave %s. The jobs go on.", type(error).__name__)
                self._in_trouble = True
                return False
            except Exception as error:
                logger.error("The job log cannot write %d turns: %s", len(batch), type(error).__name__)
        if self._in_trouble:
            logger.info("The job log goes on. Turns lost since this process began: %d.", self.lost)
        self._in_trouble = False
        return True

    def _take(self) -> list[LogEntry]:
        with self._lock:
            return [self._entries.popleft() for _ in range(min(BATCH, len(self._entries)))]

    def _put_back(self, batch: Sequence[LogEntry]) -> None:
        """Before what came meanwhile, as far as there is room: the oldest are lost."""
        with self._lock:
            room = (self._entries.maxlen or 0) - len(self._entries)
            kept = batch[max(0, len(batch) - room) :]
            self.lost += len(batch) - len(kept)
            self._entries.extendleft(reversed(kept))


def write_entries(entries: Sequence[LogEntry]) -> None:
    """Put entries into the job log. Doing it twice adds nothing to a story.

    Raises:
        PyMongoError: MongoDB is in trouble.
    """
    database = mongo.job_database()
    with pymongo.timeout(TIMEOUT):
        _bulk(database[JOBS], updates(entries))
        _bulk(database[MINUTES], counts(entries))


def _bulk(collection: Collection[dict[str, Any]], changes: Sequence[UpdateOne], *, again: bool = True) -> None:
    try:
        collection.bulk_write(changes, ordered=False)
    except BulkWriteError as error:
        errors = (error.details or {}).get("writeErrors", [])
        raced = [changes[each["index"]] for each in errors if each["code"] == DUPLICATE_KEY]
        refused = {each["code"] for each in errors} - {DUPLICATE_KEY}
        if refused:  # trying again cannot help
            logger.error("MongoDB refused %d updates of the job log, codes %s.", len(errors) - len(raced), refused)
        if raced and again:
            _bulk(collection, raced, again=False)


def missing_indexes() -> list[tuple[str, str, dict[str, Any], str]]:
    """Those of `pipeline.monitoring.job_log.schema.INDEXES` that are not there.

    Raises:
        RetryableError: MongoDB could not be asked.
    """
    with mongo.mongo_errors("look at the indexes of the job log"):
        there = {
            (name, index["key"][0][0])
            for name in (JOBS, MINUTES)
            for index in mongo.job_database()[name].index_information().values()
        }
    return [index for index in INDEXES if index[:2] not in there]


def create_index(collection: str, by: str, options: Mapping[str, Any]) -> None:
    """Make an index of `pipeline.monitoring.job_log.schema.INDEXES`.

    Raises:
        RetryableError: MongoDB could not make it.
    """
    doing = f"create the index of {collection} by {by}"
    with mongo.mongo_errors(doing, timeout=600, where=mongo.job_database):
        mongo.job_database()[collection].create_index(by, **options)
