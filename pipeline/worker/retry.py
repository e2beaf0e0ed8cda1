"""The retry policy: whether and when a failed attempt is followed by another one."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import PipelineError, Retry, RetryableError, Snoozed
from pipeline.settings import Settings
from pipeline.sqs.wire import MAX_DELAY

#: Each wait is multiplied by a random factor from this range, so that jobs that failed together are retried apart.
JITTER = (0.8, 1.2)


@dataclass(frozen=True)
class RetryDecision:
    """The consequence of one error.

    Attributes:
        wait: Seconds until the next attempt; None if the error is final.
        counted: The list of delays of which this attempt used one; None if no attempt is counted.
        of: The number of the last attempt, if all later errors follow the same list.
    """

    wait: float | None
    counted: Retry | None
    of: int


class RetryPolicy:
    """Decides on errors by the lists of delays in the settings."""

    def __init__(self, settings: Settings, rng: random.Random | None = None) -> None:
        self._delays = {
            Retry.SOURCE: settings.fetch_retry_delays,
            Retry.SERVICE: settings.retry_delays,
            Retry.POSTBACK: settings.postback_retry_delays,
        }
        self._rng = rng or random.Random()  # noqa: S311 - no secret is drawn

    def decide(self, error: PipelineError, attempts: Mapping[str, int]) -> RetryDecision:
        """Return what follows from an error.

        Args:
            error: The error of this attempt.
            attempts: The number of failed attempts before it, by the list that each followed.
        """
        number = sum(attempts.values()) + 1
        if isinstance(error, Snoozed):
            return RetryDecision(error.wait, None, number)
        if not isinstance(error, RetryableError):
            return RetryDecision(None, None, number)
        left = self._delays[error.retry][attempts.get(error.retry, 0) :]
        return RetryDecision(self._wait(left[0], error) if left else None, error.retry, number + len(left))

    def _wait(self, delay: float, error: RetryableError) -> float:
        jittered = delay * self._rng.uniform(*JITTER)
        if delay <= MAX_DELAY:  # one delay of SQS suffices, and jitter must not make it two
            jittered = min(jittered, MAX_DELAY)
        if error.retry_after is None:
            return jittered
        # A source sets the time of the next request; a postback's receiver may only delay it (contract, section 4).
        return error.retry_after if error.retry is Retry.SOURCE else max(jittered, error.retry_after)
