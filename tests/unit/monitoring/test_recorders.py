"""Recorders run as long as their process."""

from __future__ import annotations

import pytest

from pipeline.events import Event, Outcome, emit
from pipeline.monitoring import recorders
from pipeline.monitoring.recorders import Recording
from pipeline.settings import Settings


class JobLog:
    """Notes what happens to it."""

    def __init__(self, keep_days: int) -> None:
        self.seen: list[str] = []

    def __call__(self, event: Event) -> None:
        self.seen.append(event.job_id)

    def start(self) -> None:
        self.seen.append("start")

    def stop(self, timeout: float) -> None:
        self.seen.append("stop")


def test_attempts_are_recorded_from_the_boot_of_a_worker_until_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a worker with a job log
    made: list[JobLog] = []
    monkeypatch.setattr(recorders, "JobLogWriter", lambda **options: made.append(JobLog(**options)) or made[-1])
    recording = Recording(Settings(jobs_mongo_url="mongodb://h/jobs", traces_endpoint=None))  # type: ignore[arg-type]
    # When it works between other attempts
    emit(Event("fetch", "before", Outcome.DONE))
    assert made == []
    recording.after_process_boot(None)
    emit(Event("fetch", "during", Outcome.DONE))
    recording.after_worker_shutdown(None, None)
    emit(Event("fetch", "after", Outcome.DONE))
    # Then its own are recorded.
    assert made[0].seen == ["start", "during", "stop"]
