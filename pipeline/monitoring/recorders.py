"""Recorders of attempts, which run as long as a worker process: the job log and traces.

Recorders need a thread, so they start in the worker process. Dramatiq's master imports the same modules, but forks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import dramatiq

from pipeline.events import Event, subscribe, unsubscribe
from pipeline.monitoring.job_log.writer import JobLogWriter
from pipeline.settings import Settings

#: Seconds that each recorder may take to stop: honcho kills a process 5 s after asking it to stop.
STOP_TIMEOUT = 1.0


class Recorder(Protocol):
    """An event subscriber that is started and stopped."""

    def __call__(self, event: Event) -> None:
        """Record an attempt, in microseconds."""

    def start(self) -> None:
        """Start, in the worker process."""

    def stop(self, timeout: float) -> None:
        """Deliver the remaining records, for at most `timeout` seconds."""


@contextmanager
def recording(settings: Settings) -> Iterator[None]:
    """Record the events emitted inside the context, with the recorders that the settings enable."""
    recorders: list[Recorder] = []
    if settings.jobs_mongo_url:
        recorders.append(JobLogWriter(keep_days=settings.keep_results_days))
    if settings.traces_endpoint:
        from pipeline.monitoring.traces import Traces  # noqa: PLC0415 - costs 10 MB, and is rarely enabled

        recorders.append(Traces(settings.traces_endpoint))
    for recorder in recorders:
        recorder.start()
        subscribe(recorder)
    try:
        yield
    finally:
        for recorder in recorders:
            unsubscribe(recorder)
            recorder.stop(STOP_TIMEOUT)


class Recording(dramatiq.Middleware):
    """Records from the boot of a worker process until its last actor has ended."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._recording = ExitStack()

    def after_process_boot(self, broker: Any) -> None:
        self._recording.enter_context(recording(self._settings))

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        self._recording.close()
