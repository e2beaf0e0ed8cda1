"""Heartbeats: every few seconds, each process writes its state and its work to the job log's database.

The collection `image_pipeline_processes` has one document per process: `type`, `host`, `pid`, `version`, `stages`,
`threads`, `started`, `seen` (a TTL index deletes it a day later), `taken` (when it last began a message, by stage),
`in_hand` (for each busy thread its stage, job and start), `trouble` (why it takes no work), `resting` (hosts whose
circuit is open in it), `retrying` (its jobs that wait for a retry, by cause), `paused` (stages whose
pause it obeys) and `ended`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
from pymongo.errors import PyMongoError

from pipeline.clients import mongo
from pipeline.errors import RetryableError
from pipeline.monitoring.retrying import Retrying
from pipeline.stages import GIANT_QUEUES, GIANTS, QUARANTINE, QUARANTINE_QUEUES, STAGES, stage_of_queue
from pipeline.version import version

logger = logging.getLogger(__name__)

PROCESSES = "image_pipeline_processes"

#: Seconds between two heartbeats, and seconds after the last one until a process counts as gone.
INTERVAL, GONE_AFTER = 5.0, 20.0


#: Timeout of a heartbeat, in seconds.
TIMEOUT = 3.0

#: Maximum number of processes to read, and how long a process stays listed after its end.
MAX_READ, LISTED = 1000, timedelta(minutes=15)

#: How far back restarts are counted.
RESTARTS_OVER = timedelta(hours=1)

#: Retention of a process after its last heartbeat.
RETENTION = timedelta(days=1)


@dataclass(frozen=True)
class InProgress:
    """The message that a thread works on."""

    stage: str
    job: str  #: id of the job; empty if the message contains none
    since: datetime


@dataclass(frozen=True)
class Resting:
    """A source or receiver that gets no requests from a process, because it only failed."""

    kind: str  #: `source` or `receiver`
    host: str  #: of a receiver with its path
    since: datetime
    waiting: int  #: jobs that wait for it
    folder: str = ""  #: always empty; earlier releases, which read it, have a circuit for each folder


@dataclass(frozen=True)
class Work:
    """The state of a process at the time of a heartbeat."""

    taken: dict[str, datetime] = field(default_factory=dict)  #: when it last began a message, by stage
    in_hand: tuple[InProgress, ...] = ()
    trouble: tuple[str, ...] = ()  #: sentences why it takes no work
    resting: tuple[Resting, ...] = ()  #: hosts whose circuit is open, the longest first
    retrying: tuple[Retrying, ...] = ()  #: its jobs that wait for a retry, by cause
    paused: tuple[str, ...] = ()  #: paused stages of which it has no message, and can receive none


@dataclass(frozen=True)
class Process:
    """A process as its last heartbeat described it."""

    id: str
    type: str  #: as in the Procfile: `fetch`, `ingest`, `scheduler`
    host: str
    pid: int
    version: str
    stages: tuple[str, ...]  #: the stages whose messages it takes, as `stage_name` returns them
    threads: int
    started: datetime
    seen: datetime
    work: Work = Work()
    ended: bool = False  #: whether it was stopped in order
    restarts: int = 0  #: restarts of processes of its type on its host in the last hour

    def is_alive(self, now: datetime) -> bool:
        """Return whether it runs, as far as its heartbeats show."""
        return not self.ended and now - self.seen < timedelta(seconds=GONE_AFTER)


class Heartbeat:
    """Writes the heartbeats of this process, from a thread that runs between `start` and `stop`.

    Args:
        type_: type of the process.
        stages: the stages whose messages it takes.
        threads: number of threads that work on messages.
        look: returns the current state, quickly.
        after: called after each heartbeat that was written, except the last.
    """

    def __init__(
        self,
        type_: str,
        stages: Iterable[str],
        threads: int,
        look: Callable[[], Work],
        after: Callable[[], None] = lambda: None,
    ) -> None:
        host, pid, now = socket.gethostname(), os.getpid(), datetime.now(UTC)
        self._look = look
        self._after = after
        self._id = f"{host}:{pid}:{now:%Y%m%dT%H%M%S}"
        self._facts = {"type": type_, "host": host, "pid": pid, "version": version()}
        self._facts |= {"stages": list(stages), "threads": threads, "started": now}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._fails = False

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Record the end of the process, for at most `timeout` seconds."""
        self._stopping.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._beat()
            self._stopping.wait(INTERVAL)
        self._beat(ended=True)

    def _beat(self, *, ended: bool = False) -> None:
        """Write one heartbeat. Never raises, because jobs go on without it."""
        try:
            state = self._facts | {"seen": datetime.now(UTC), "ended": ended} | asdict(self._look())
            with pymongo.timeout(TIMEOUT):
                mongo.job_database()[PROCESSES].update_one({"_id": self._id}, {"$set": state}, upsert=True)
                if not ended:
                    self._after()
            self._fails = False
        except Exception as error:  # its text may contain hosts; without this thread, no pause is followed any more
            if not self._fails:
                logger.warning("%s", _trouble(error))
            self._fails = True


def _trouble(error: Exception) -> str:
    doing = "write the heartbeat"
    match error:
        case PyMongoError():
            return mongo.trouble(error, doing)
        case RetryableError():
            return error.message
    return f"Could not {doing}: {type(error).__name__}. Jobs go on."


def processes(now: datetime | None = None) -> list[Process]:
    """List running and recently ended or lost processes, by type and host.

    The last process of a stage stays listed, because it shows when the messages of that stage were last taken.

    Raises:
        SettingsError: JOBS_MONGO_URL is not set.
        RetryableError: MongoDB cannot be reached.
    """
    now = now or datetime.now(UTC)
    with mongo.mongo_errors("read the job log"):
        query = {"seen": {"$gte": now - RETENTION}}
        found = [
            _process(each) for each in mongo.job_database()[PROCESSES].find(query).sort("seen", -1).limit(MAX_READ)
        ]
    latest = {each.type: each for each in reversed(found)}
    restarts = _restarts(found, now)
    kept = [
        replace(each, restarts=restarts[each.type, each.host])
        for each in found
        if now - each.seen < LISTED or latest[each.type] is each
    ]
    order = ["ingest", "fetch", "resize", GIANTS, "upload", "notify", "sweep", "scheduler"]
    ranks = {type_: number for number, type_ in enumerate(order)}
    kept.sort(key=lambda each: (not each.is_alive(now), each.host, each.pid))
    return sorted(kept, key=lambda each: (ranks.get(each.type, -1), each.type))


def _restarts(found: Iterable[Process], now: datetime) -> Counter[tuple[str, str]]:
    """Count by type and host the processes that began in the last hour in place of others that ended in it."""
    began: Counter[tuple[str, str]] = Counter()
    gone: Counter[tuple[str, str]] = Counter()
    for each in found:
        began[each.type, each.host] += now - each.started < RESTARTS_OVER
        gone[each.type, each.host] += not each.is_alive(now) and now - each.seen < RESTARTS_OVER
    return began & gone


def process_type(queues: Iterable[str]) -> str:
    """Return the name of a worker that consumes `queues`: its stages, in the order of the flow.

    >>> process_type(["upload_bulk", "upload"]), process_type(["sweep_channels"]), process_type(["fetch", "resize"])
    ('upload', 'sweep', 'fetch+resize')
    >>> process_type(["resize_giant", "resize_giant_bulk"]), process_type(["fetch_quarantine", "notify_quarantine"])
    ('giants', 'quarantine')
    """
    queues = set(queues)
    if queues and queues <= set(QUARANTINE_QUEUES.values()):
        return QUARANTINE
    if queues and queues <= GIANT_QUEUES:
        return GIANTS
    names = {stage.name if (stage := stage_of_queue(queue)) else queue.partition("_")[0] for queue in queues}
    order = [stage.name for stage in STAGES]
    return "+".join(sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name)))


def stage_name(queue: str) -> str:
    """Return the stage of a queue, without the namespace, as in `Depth.consumer`."""
    if queue in QUARANTINE_QUEUES.values():
        return QUARANTINE
    if queue in GIANT_QUEUES:
        return GIANTS
    stage = stage_of_queue(queue)
    return stage.name if stage else queue


def _process(found: Mapping[str, Any]) -> Process:
    in_hand = tuple(InProgress(each["stage"], each["job"], each["since"]) for each in found.get("in_hand", ()))
    resting = tuple(Resting(**each) for each in found.get("resting", ()))
    retrying = tuple(Retrying(**each) for each in found.get("retrying", ()))
    paused = tuple(found.get("paused", ()))
    trouble = tuple(found.get("trouble", ()))
    work = Work(dict(found.get("taken", {})), in_hand, trouble, resting, retrying, paused)
    names = {each.name for each in fields(Process)} - {"id", "work", "stages", "restarts"}
    facts = {name: value for name, value in found.items() if name in names}
    return Process(id=found["_id"], work=work, stages=tuple(found["stages"]), **facts)
