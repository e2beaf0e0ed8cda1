"""The last failed attempt of a job under way, and the time of its next attempt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.events import Outcome
from pipeline.monitoring.job_log.reader import JobHistory
from pipeline.settings import Settings
from pipeline.stages import FETCH, NOTIFY
from pipeline.text import format_duration

#: Codes of errors that follow RETRY_DELAYS in every stage.
SERVICE_CODES = frozenset(
    {
        *("s3_error", "sqs_error", "staging_error", "mongo_error"),
        *("internal_error", "time_limit", "out_of_memory"),
    }
)


@dataclass(frozen=True)
class NextAttempt:
    """The next attempt of a stage at a job."""

    stage: str
    code: str  #: of the last attempt's error
    message: str
    attempt: int  #: number of the last attempt
    attempts: int  #: number of attempts until the stage gives up
    at: datetime
    snoozed: bool  #: nothing failed: the job waits for a slot

    @property
    def reason(self) -> str:
        """The reason for people: `unreachable, attempt 3 of 6`."""
        if self.snoozed:
            return f"{self.stage} waits for a slot ({self.code})" if self.code else f"{self.stage} waits for a slot"
        return f"{self.stage}: {self.code}, attempt {self.attempt} of {max(self.attempt, self.attempts)}"

    def text(self, now: datetime) -> str:
        """Return the reason and the time until the attempt: `unreachable, attempt 3 of 6, next in 58 s`."""
        seconds = (self.at - now).total_seconds()
        return f"{self.reason}, next {'now' if seconds < 1 else f'in {format_duration(seconds, whole=True)}'}"


def next_attempt(history: JobHistory, settings: Settings) -> NextAttempt | None:
    """Return what a job waits for, or None if it has ended or its last attempt succeeded."""
    if history.status != "under_way" or not history.turns:
        return None
    last = history.turns[-1]
    if last.verdict not in {Outcome.RETRY, Outcome.SNOOZED}:
        return None
    return NextAttempt(
        stage=last.stage,
        code=last.code,
        message=last.message,
        attempt=last.attempt,
        attempts=1 + len(_delays(last.stage, last.code, settings)),
        at=last.at + timedelta(seconds=last.wait),
        snoozed=last.verdict is Outcome.SNOOZED,
    )


def _delays(stage: str, code: str, settings: Settings) -> tuple[float, ...]:
    if code in SERVICE_CODES:
        return settings.retry_delays
    return {FETCH.name: settings.fetch_retry_delays, NOTIFY.name: settings.postback_retry_delays}.get(
        stage, settings.retry_delays
    )
