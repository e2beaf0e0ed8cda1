"""The sources of the pages: queues, job log, heartbeats, dead letters and sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from time import monotonic
from typing import Any

from pipeline.dashboard.polling import DepthHistory, PolledValue, Poller, Unchanged
from pipeline.dashboard.views import flow, sweeps
from pipeline.dashboard.views.sweeps import RunView
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.monitoring.job_log import search as job_log_search
from pipeline.monitoring.job_log.reader import FailureGroup, JobHistory, Minute
from pipeline.monitoring.job_log.search import JobFilter
from pipeline.monitoring.needs import Need, needs
from pipeline.monitoring.pauses import paused
from pipeline.monitoring.processes import Process, processes
from pipeline.monitoring.queue_depths import DEAD, Depth, depths, queue_names
from pipeline.monitoring.stalls import stalls
from pipeline.ops.dead_letters.actions import Survey, survey
from pipeline.settings import Settings
from pipeline.stages import Lane

#: Polling interval of each source, in seconds.
QUEUES_INTERVAL, JOBS_INTERVAL, FAILURES_INTERVAL, PROCESSES_INTERVAL = 5.0, 2.0, 10.0, 5.0
LETTERS_INTERVAL, SWEEPS_INTERVAL = 5.0, 5.0

#: Maximum age of the dead letters in seconds. Reading hides them from other readers, so it happens only when their
#: number has changed or after this time.
LETTERS_AGE = 120.0

#: Seconds to wait at the end for a running read of dead letters.
STOP_TIMEOUT = 5.0

#: Number of live jobs below which the latest of sweeps are read too.
FEW = 12

#: Maximum numbers of jobs of each lane and of dead letters to read.
JOBS, LETTERS = 25, 500

#: Age of the oldest failures, and of the oldest rates and durations of jobs, to read.
FAILURES_AGE, RATES_AGE = timedelta(days=1), timedelta(hours=1)


@dataclass(frozen=True)
class JobLogView:
    """The part of the job log that the pages show."""

    latest: Sequence[JobHistory] = ()  #: the latest live jobs; if these are few, followed by the latest of sweeps
    minutes: Sequence[Minute] = ()


class Sources:
    """A polled value for each source, and the history of the queues. Sources that the settings omit are not polled."""

    def __init__(self, settings: Settings) -> None:
        self.history = DepthHistory()
        #: Held while reading the dead-letter queues, which hides messages from other readers.
        self.letters_lock = Lock()
        self._letters_read: tuple[list[int], float] | None = None  #: number per queue and time of the last read
        self.with_job_log = settings.jobs_mongo_url is not None
        self.queues: PolledValue[list[Depth]] = PolledValue(
            "the queues", self._depths, [], QUEUES_INTERVAL, always=True
        )
        self.job_log: PolledValue[JobLogView] = PolledValue("the job log", _job_log, JobLogView(), JOBS_INTERVAL)
        self.failures: PolledValue[list[FailureGroup]] = PolledValue(
            "the failures in the job log", _failures, [], FAILURES_INTERVAL
        )
        self.processes: PolledValue[list[Process]] = PolledValue("the processes", processes, [], PROCESSES_INTERVAL)
        self.pauses: PolledValue[dict[str, datetime]] = PolledValue("the pauses", paused, {}, PROCESSES_INTERVAL)
        self.letters: PolledValue[Survey] = PolledValue(
            "the dead letters", self._letters, Survey(), LETTERS_INTERVAL, fresh_for=LETTERS_AGE + 30
        )
        self.sweeps: PolledValue[list[RunView]] = PolledValue("the sweeps", sweeps.read, [], SWEEPS_INTERVAL)
        values: list[PolledValue[Any]] = [self.queues, self.letters]
        values += [self.job_log, self.failures, self.processes, self.pauses] if self.with_job_log else []
        values += [self.sweeps] if settings.database_url else []
        self.poller = Poller(values)

    def stalled(self, now: datetime) -> dict[str, str]:
        """Return a sentence for each stage whose messages wait and are not taken."""
        seen = self.processes.snapshot
        known = seen.value if self.with_job_log and seen.at and not seen.error else None
        return stalls(self.queues.snapshot.value, known, now, self.history.waiting_since, self.pauses.snapshot.value)

    def needs(self, now: datetime) -> list[Need]:
        """Return the needs of an operator, as far as the sources could be read."""
        depths = self.queues.snapshot
        return needs(
            depths.value,
            self.processes.snapshot.value,
            now,
            stalled=self.stalled(now),
            paused=self.pauses.snapshot.value,
            failures=self.failures.snapshot.value,
            missing=sorted(set(queue_names()) - {each.queue for each in depths.value}) if depths.at else (),
        )

    def _depths(self) -> list[Depth]:
        found = depths()
        self.history.add(flow.waiting_by_stage(found))
        return found

    def _letters(self) -> Survey:
        numbers = [depth.waiting + depth.in_flight for depth in self.queues.snapshot.value if depth.lane == DEAD]
        before, read_at = self._letters_read or ([], 0.0)
        if self._letters_read and before == numbers and monotonic() - read_at < LETTERS_AGE:
            raise Unchanged
        if not any(numbers) and self.queues.snapshot.at and not self.queues.snapshot.error:
            found = Survey()
        else:
            with self.letters_lock:
                if self.poller.stopping:
                    raise Unchanged
                found = survey(keep=LETTERS, limit=LETTERS)
        self._letters_read = (numbers, monotonic())
        return found

    def letters_changed(self) -> None:
        """Read the dead letters again after a redrive took some."""
        self._letters_read = None
        self.poller.refresh()

    def wait_for_letters(self) -> None:
        """Wait until a running read of dead letters has released them."""
        if self.letters_lock.acquire(timeout=STOP_TIMEOUT):
            self.letters_lock.release()


def _job_log() -> JobLogView:
    latest = list(job_log_search.search(JobFilter(Lane.LIVE), JOBS).jobs[:JOBS])
    if len(latest) < FEW:
        latest += job_log_search.search(JobFilter(Lane.BULK), JOBS).jobs[:JOBS]
    return JobLogView(latest, job_log_reader.rates(datetime.now(UTC) - RATES_AGE))


def _failures() -> list[FailureGroup]:
    return job_log_reader.failures(datetime.now(UTC) - FAILURES_AGE)
