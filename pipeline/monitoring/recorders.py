"""Who keeps a record of each turn, for as long as a process works: the job log, and the traces.

They need a thread, so they start in the process that works: dramatiq's master imports the same modules, and forks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import dramatiq

from pipeline.events import Event, subscribe, unsubscribe
from pipeline.monitoring.job_log.writer import JobLogWriter
from pipeline.settings import Settings

#: Seconds that each may take at the end: honcho kills a process 5 s after it was told to stop.
STOP_TIMEOUT = 1.0


class Recorder(Protocol):
    """A listener with a beginning and an end."""

    def __call__(self, event: Event) -> None:
        """Take note of one turn, quickly."""

    def start(self) -> None:
        """Begin, in the process that works."""

    def stop(self, timeout: float) -> None:
        """Hand on what is left, if that takes no longer than `timeout` seconds."""


def recorders(settings: Settings) -> list[Recorder]:
    """Those that the settings ask for."""
    found: list[Recorder] = []
    if settings.jobs_mongo_url:
        found.append(JobLogWriter())
    if settings.traces_endpoint:
        from pipeline.monitoring.traces import Traces  # noqa: PLC0415 - 10 MB that most processes do without

        found.append(Traces(settings.traces_endpoint))
    return found


@contextmanager
def recording(settings: Settings) -> Iterator[None]:
    """Keep records of what is told inside."""
    started = _start(settings)
    try:
        yield
    finally:
        _stop(started)


class Recording(dramatiq.Middleware):
    """Keeps records from the boot of a worker process until its last actor has ended."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started: Sequence[Recorder] = ()

    def after_process_boot(self, broker: Any) -> None:
        """Begin: this is a worker process, and it forks no more."""
        self._started = _start(self._settings)

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """End: no thread works any more."""
        _stop(self._started)
        self._started = ()


def _start(settings: Settings) -> list[Recorder]:
    started = recorders(settings)
    for recorder in started:
        recorder.start()
        subscribe(recorder)
    return started


def _stop(started: Sequence[Recorder]) -> None:
    for recorder in started:
        unsubscribe(recorder)
        recorder.stop(STOP_TIMEOUT)
