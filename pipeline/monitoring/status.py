"""Status of the service: queue depths and throughput of each stage, and recent failures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

from pipeline.clients import mongo
from pipeline.errors import RetryableError
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.monitoring.job_log import writer as job_log_writer
from pipeline.monitoring.job_log.reader import FailureGroup
from pipeline.monitoring.needs import Need, needs
from pipeline.monitoring.pauses import paused
from pipeline.monitoring.processes import Process
from pipeline.monitoring.processes import processes as read_processes
from pipeline.monitoring.queue_depths import DEAD, Depth, StageCounts, counts_of, depths, queue_names
from pipeline.monitoring.stalls import stalls
from pipeline.settings import get_settings
from pipeline.stages import STAGES

#: Interval over which rates are averaged, and over which failures are listed.
RATE_OVER = timedelta(minutes=2)
FAILURES_OVER = timedelta(hours=1)

#: Age of the dead letters whose causes are named with the number of all.
CAUSES_OVER = timedelta(days=1)

#: The stages that emit an event for each attempt; `ingest` and sweeps emit none.
WITH_ATTEMPTS = frozenset(stage.name for stage in STAGES)


@dataclass(frozen=True)
class StageStatus(StageCounts):
    """One stage."""

    per_minute: float | None = None  #: successful attempts; None: unknown
    oldest: datetime | None = None  #: when the oldest job due here began; None: unknown
    stalled: str = ""  #: why its messages wait and are not taken; empty if they are


@dataclass(frozen=True)
class ServiceStatus:
    """The stages in the order jobs pass them, failures of the last hour, and hints for people.

    Attributes:
        needs: the needs of an operator, the most urgent first.
        hints: its sentences, and why a part of the status is unknown.
    """

    at: datetime
    stages: list[StageStatus]
    failures: list[FailureGroup]
    hints: list[str]
    processes: list[Process]
    needs: list[Need] = field(default_factory=list)


@dataclass
class _Logged:
    """Figures from the job log. Parts that could not be read in time keep their defaults."""

    rates: dict[str, float] | None = None
    oldest: dict[str, datetime] = field(default_factory=dict)
    failures: list[FailureGroup] = field(default_factory=list)
    causes: Sequence[FailureGroup] = ()  #: of the dead letters of the last day
    processes: list[Process] | None = None
    paused: dict[str, datetime] = field(default_factory=dict)
    hint: str = ""

    def read(self, now: datetime, *, with_causes: bool) -> None:
        """Read the job log, for at most as long as a person waits. Causes are read if there are dead letters."""
        try:
            with mongo.within():
                self.paused = paused()
                self.processes = read_processes(now)
                self.rates = job_log_reader.per_minute(job_log_reader.rates(now - RATE_OVER), now, RATE_OVER)
                self.failures = job_log_reader.failures(now - FAILURES_OVER)
                self.oldest = job_log_reader.oldest()
                if with_causes:
                    self.causes = job_log_reader.failures(now - CAUSES_OVER)
                if job_log_writer.missing_indexes():
                    self.hint = "The job log lacks indexes, so jobs never expire. Run `image-pipeline provision`."
        except RetryableError as trouble:
            self.hint = trouble.message


def read_status() -> ServiceStatus:
    """Read the queues, and the job log if there is one. If the job log cannot be read, a hint explains why.

    Raises:
        RetryableError: SQS could not be reached.
    """
    now = datetime.now(UTC)
    found = depths()
    logged = _Logged(hint="Rates, the oldest jobs, failures and processes need the job log: set JOBS_MONGO_URL.")
    if get_settings().jobs_mongo_url:
        logged = _Logged()
        logged.read(now, with_causes=any(depth.lane == DEAD and depth.waiting + depth.in_flight for depth in found))
    stalled = stalls(found, logged.processes, now, paused=logged.paused)
    listed = needs(
        found,
        logged.processes or [],
        now,
        stalled=stalled,
        paused=logged.paused,
        failures=logged.causes,
        missing=sorted(set(queue_names()) - {depth.queue for depth in found}),
    )
    hints = [*(need.text for need in listed), logged.hint]
    stages = dict.fromkeys(depth.stage for depth in found)
    rows = [_stage(stage, found, logged, stalled.get(stage, "")) for stage in stages]
    return ServiceStatus(now, rows, logged.failures, list(filter(None, hints)), logged.processes or [], listed)


def _stage(stage: str, found: Iterable[Depth], logged: _Logged, stalled: str) -> StageStatus:
    counts = counts_of(stage, found)
    busy = counts.waiting or counts.bulk or counts.in_flight or counts.delayed
    return StageStatus(
        **asdict(counts),
        per_minute=logged.rates.get(stage, 0.0) if logged.rates is not None and stage in WITH_ATTEMPTS else None,
        oldest=logged.oldest.get(stage) if busy else None,  # with empty queues, the log has missed the end of that job
        stalled=stalled,
    )
