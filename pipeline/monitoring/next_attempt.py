"""The last failed attempt of a job under way, and the time of its next attempt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.events import Outcome
from pipeline.monitoring.job_log.reader import JobHistory
from pipeline.text import format_duration


@dataclass(frozen=True)
class NextAttempt:
    """The next attempt of a stage at a job."""

    stage: str
    code: str  #: of the last attempt's error
    message: str
    attempt: int  #: number of the last attempt
    attempts: int  #: number of the last attempt, if all fail in the same way; 0: an earlier release did not record it
    at: datetime
    snoozed: bool  #: nothing failed: the job waits for a slot

    @property
    def reason(self) -> str:
        """The reason for people: `unreachable, attempt 3 of 6`."""
        if self.snoozed:
            return f"{self.stage} waits for a slot ({self.code})" if self.code else f"{self.stage} waits for a slot"
        of = f" of {self.attempts}" if self.attempts else ""
        return f"{self.stage}: {self.code}, attempt {self.attempt}{of}"

    def text(self, now: datetime) -> str:
        """Return the reason and the time until the attempt: `unreachable, attempt 3 of 6, next in 58 s`."""
        seconds = (self.at - now).total_seconds()
        return f"{self.reason}, next {'now' if seconds < 1 else f'in {format_duration(seconds, whole=True)}'}"


def next_attempt(history: JobHistory) -> NextAttempt | None:
    """Return what a job waits for, or None if it has ended or its last attempt succeeded."""
    if history.status != "under_way" or not history.attempts:
        return None
    last = history.attempts[-1]
    if last.outcome not in {Outcome.RETRY, Outcome.SNOOZED}:
        return None
    return NextAttempt(
        stage=last.stage,
        code=last.code,
        message=last.message,
        attempt=last.attempt,
        attempts=last.attempts,
        at=last.at + timedelta(seconds=last.wait),
        snoozed=last.outcome is Outcome.SNOOZED,
    )
