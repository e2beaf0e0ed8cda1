"""The sources of what the pages show: the queues, the job log, the dead letters and the sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline import job_stories
from pipeline.dashboard import flow, sweeps
from pipeline.dashboard.readings import History, Readers, Reading
from pipeline.dashboard.sweeps import RunView
from pipeline.dead_letters import DeadLetter, Filter, browse
from pipeline.depths import Depth, depths
from pipeline.job_stories import Failure, Minute, Story
from pipeline.settings import Settings

#: Seconds between two reads of each. Browsing dead letters hides them from others for a while, so it is seldom.
QUEUES_EVERY, JOBS_EVERY, LETTERS_EVERY, SWEEPS_EVERY = 5.0, 2.0, 20.0, 5.0

#: Jobs, and dead letters, that are read at the most.
JOBS, LETTERS = 50, 500

#: How far back failures and rates are looked for.
FAILURES_SINCE, RATES_SINCE = timedelta(days=1), timedelta(minutes=flow.RATE_MINUTES)


@dataclass(frozen=True)
class JobLog:
    """What the job log says at a glance."""

    latest: Sequence[Story] = ()
    failures: Sequence[Failure] = ()
    minutes: Sequence[Minute] = ()


class Sources:
    """One reading for each, and the history of the queues. What the settings leave out is not asked."""

    def __init__(self, settings: Settings) -> None:
        self.history = History()
        self.queues: Reading[list[Depth]] = Reading("the queues", self._depths, [], QUEUES_EVERY)
        self.job_log: Reading[JobLog] = Reading("the job log", _job_log, JobLog(), JOBS_EVERY)
        self.letters: Reading[list[DeadLetter]] = Reading(
            "the dead letters", lambda: browse(Filter(), LETTERS), [], LETTERS_EVERY
        )
        self.sweeps: Reading[list[RunView]] = Reading("the sweeps", sweeps.read, [], SWEEPS_EVERY)
        asked: list[Reading[Any]] = [self.queues, self.letters]
        asked += [self.job_log] if settings.jobs_mongo_url else []
        asked += [self.sweeps] if settings.database_url else []
        self._readers = Readers(asked)

    def _depths(self) -> list[Depth]:
        found = depths()
        self.history.add(flow.waiting_by_stage(found))
        return found

    @contextmanager
    def running(self) -> Iterator[None]:
        """They are read inside."""
        with self._readers.running():
            yield

    def watched(self) -> None:
        """Somebody looks on."""
        self._readers.watched()

    def refresh(self) -> None:
        """Something was changed: read everything anew."""
        self._readers.refresh()


def _job_log() -> JobLog:
    now = datetime.now(UTC)
    return JobLog(
        latest=job_stories.latest(JOBS),
        failures=job_stories.failures(now - FAILURES_SINCE),
        minutes=job_stories.rates(now - RATES_SINCE),
    )
