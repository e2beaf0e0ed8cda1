"""The retry policy: whether and when a failed attempt is followed by another one."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.attempt import Attempt
from pipeline.errors import PipelineError, Retry, RetryableError, Snoozed
from pipeline.settings import Settings

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


def delays_of(settings: Settings) -> Mapping[Retry, Sequence[float]]:
    """Return the lists of delays."""
    return {
        Retry.SOURCE: settings.fetch_retry_delays,
        Retry.SERVICE: settings.retry_delays,
        Retry.POSTBACK: settings.postback_retry_delays,
    }


class RetryPolicy:
    """Decides on errors by the delays that an attempt has left."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - no secret is drawn

    def decide(self, error: PipelineError, attempt: Attempt) -> RetryDecision:
        """Return what follows if an attempt ends with an error."""
        if isinstance(error, Snoozed):
            return RetryDecision(error.wait, None, attempt.number)
        if not isinstance(error, RetryableError):
            return RetryDecision(None, None, attempt.number)
        left = attempt.left(error.retry)
        return RetryDecision(self._wait(left[0], error) if left else None, error.retry, attempt.number + len(left))

    def _wait(self, delay: float, error: RetryableError) -> float:
        jittered = delay * self._rng.uniform(*JITTER)
        if error.retry_after is None:
            return jittered
        # A source sets the time of the next request; a postback's receiver may only delay it (contract, section 4).
        return error.retry_after if error.retry is Retry.SOURCE else max(jittered, error.retry_after)
