"""The retry policy: whether and when a failed attempt is followed by another one."""

from __future__ import annotations

import random

import pytest

from pipeline.attempt import Attempt
from pipeline.errors import PermanentError, Retry, RetryableError, Snoozed
from pipeline.settings import Settings
from pipeline.worker.retry import JITTER, RetryDecision, RetryPolicy, delays_of


class FixedRandom(random.Random):
    """Draws the same number each time."""

    def __init__(self, factor: float) -> None:
        super().__init__(1)
        self.factor = factor

    def uniform(self, a: float, b: float) -> float:
        assert (a, b) == JITTER
        return self.factor


def decide(error: PermanentError | RetryableError, factor: float = 1.0, **attempts: int) -> RetryDecision:
    settings = Settings(fetch_retry_delays=(2, 30), retry_delays=(5, 900, 3600), postback_retry_delays=(5, 1800))
    attempt = Attempt("fetch", failures=attempts, delays=delays_of(settings))
    decision = RetryPolicy(FixedRandom(factor)).decide(error, attempt)
    assert attempt.is_last_if(error) == (decision.wait is None)
    return decision


SOURCE = RetryableError("http_500", "Busy.", retry=Retry.SOURCE)
SERVICE = RetryableError("s3_error", "S3 is down.")


@pytest.mark.parametrize(
    ("error", "attempts", "decision"),
    [
        pytest.param(SOURCE, {}, RetryDecision(2, Retry.SOURCE, 3), id="first"),
        pytest.param(SOURCE, {"source": 1}, RetryDecision(30, Retry.SOURCE, 3), id="second"),
        pytest.param(SOURCE, {"source": 2}, RetryDecision(None, Retry.SOURCE, 3), id="last"),
        pytest.param(SERVICE, {"source": 2}, RetryDecision(5, Retry.SERVICE, 6), id="another list"),
        pytest.param(SOURCE, {"source": 1, "service": 2}, RetryDecision(30, Retry.SOURCE, 5), id="mixed"),
        pytest.param(SOURCE, {"source": 9}, RetryDecision(None, Retry.SOURCE, 10), id="more than a shortened list has"),
        pytest.param(PermanentError("empty", "No bytes."), {"source": 1}, RetryDecision(None, None, 2), id="permanent"),
        pytest.param(Snoozed("host_busy", "Busy.", 3.5), {"source": 1}, RetryDecision(3.5, None, 2), id="snoozed"),
    ],
)
def test_each_list_is_followed_to_its_end(
    error: PermanentError | RetryableError, attempts: dict[str, int], decision: RetryDecision
) -> None:
    assert decide(error, **attempts) == decision


@pytest.mark.parametrize(("factor", "wait"), [(0.8, 720), (1.0, 900), (1.2, 1080)])
def test_delays_have_jitter(factor: float, wait: float) -> None:
    assert decide(SERVICE, factor, service=1).wait == wait


@pytest.mark.parametrize(
    ("retry", "asked", "wait"),
    [(Retry.SOURCE, 1, 1), (Retry.SOURCE, 700, 700), (Retry.POSTBACK, 1, 5), (Retry.POSTBACK, 86400, 86400)],
)
def test_a_retry_after_is_obeyed(retry: Retry, asked: float, wait: float) -> None:
    assert decide(RetryableError("http_503", "Busy.", retry=retry, retry_after=asked)).wait == wait
