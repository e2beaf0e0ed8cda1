"""The sources of what the pages show: the queues, the job log, the dead letters and the sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from time import monotonic
from typing import Any

from pipeline.dashboard import flow, sweeps
from pipeline.dashboard.readings import History, PolledValue, Readers
from pipeline.dashboard.sweeps import RunView
from pipeline.monitoring.job_log import reader as job_log_reader
from pipeline.monitoring.job_log.reader import Failure, JobHistory, Minute
from pipeline.monitoring.queue_depths import DEAD, Depth, depths
from pipeline.ops.dead_letters.actions import browse
from pipeline.ops.dead_letters.letter import DeadLetter
from pipeline.settings import Settings

#: Seconds between two reads of each.
QUEUES_EVERY, JOBS_EVERY, LETTERS_EVERY, SWEEPS_EVERY = 5.0, 2.0, 5.0, 5.0

#: Reading dead letters hides them from others meanwhile, so it is done when their number has changed, and after so
#: many seconds.
LETTERS_AGE = 120.0

#: Seconds that a reading of dead letters under way may take to end when the dashboard does.
STOP_GRACE = 5.0

#: Jobs, and dead letters, that are read at the most.
JOBS, LETTERS = 50, 500

#: How far back failures and rates are looked for.
FAILURES_SINCE, RATES_SINCE = timedelta(days=1), timedelta(minutes=flow.RATE_MINUTES)


@dataclass(frozen=True)
class JobLogView:
    """What the job log says at a glance."""

    latest: Sequence[JobHistory] = ()
    failures: Sequence[Failure] = ()
    minutes: Sequence[Minute] = ()


class Sources:
    """One reading for each, and the history of the queues. What the settings leave out is not asked."""

    def __init__(self, settings: Settings) -> None:
        self.history = History()
        self.reading_letters = Lock()  #: held by whoever reads the dead-letter queues: it hides them from others
        self._letters_were: tuple[list[int], float] | None = None  #: how many there were when they were read, and when
        self.queues: PolledValue[list[Depth]] = PolledValue("the queues", self._depths, [], QUEUES_EVERY, always=True)
        self.job_log: PolledValue[JobLogView] = PolledValue("the job log", _job_log, JobLogView(), JOBS_EVERY)
        self.letters: PolledValue[list[DeadLetter]] = PolledValue("the dead letters", self._letters, [], LETTERS_EVERY)
        self.sweeps: PolledValue[list[RunView]] = PolledValue("the sweeps", sweeps.read, [], SWEEPS_EVERY)
        asked: list[PolledValue[Any]] = [self.queues, self.letters]
        asked += [self.job_log] if settings.jobs_mongo_url else []
        asked += [self.sweeps] if settings.database_url else []
        self._readers = Readers(asked)

    def _depths(self) -> list[Depth]:
        found = depths()
        self.history.add(flow.waiting_by_stage(found))
        return found

    def _letters(self) -> list[DeadLetter]:
        numbers = [depth.waiting + depth.in_flight for depth in self.queues.seen.value if depth.lane == DEAD]
        were, read_at = self._letters_were or ([], 0.0)
        if self._letters_were and were == numbers and monotonic() - read_at < LETTERS_AGE:
            return self.letters.seen.value
        if not any(numbers) and self.queues.seen.at and not self.queues.seen.trouble:
            found: list[DeadLetter] = []
        else:
            with self.reading_letters:
                if self._readers.stopping:
                    return self.letters.seen.value
                found = browse(limit=LETTERS)
        self._letters_were = (numbers, monotonic())
        return found

    def letters_changed(self) -> None:
        """Dead letters were taken away: read what is left."""
        self._letters_were = None
        self.refresh()

    @contextmanager
    def running(self) -> Iterator[None]:
        """They are read inside."""
        with self._readers.running():
            yield

    def let_go(self) -> None:
        """After the end: wait until a reading of the dead letters that was under way has given them back."""
        if self.reading_letters.acquire(timeout=STOP_GRACE):
            self.reading_letters.release()

    def watched(self) -> None:
        """Somebody looks on."""
        self._readers.watched()

    def refresh(self) -> None:
        """Something was changed: read everything anew."""
        self._readers.refresh()


def _job_log() -> JobLogView:
    now = datetime.now(UTC)
    return JobLogView(
        latest=job_log_reader.latest(JOBS),
        failures=job_log_reader.failures(now - FAILURES_SINCE),
        minutes=job_log_reader.rates(now - RATES_SINCE),
    )
