"""Shorthands for tests of host limiters."""

from __future__ import annotations

from itertools import count

import pytest

from pipeline.errors import NoConnection, PipelineError, Retry, Snoozed
from pipeline.net.host_limits import HostLimiter, Policy
from pipeline.stages import Lane

NUMBERS = count()
MAX_FAILURES = Policy(1).max_failures
URL, OTHER = "https://covers.example/a.jpg", "https://other.example/a.jpg"


def failing(code: str = "unreachable") -> PipelineError:
    return NoConnection(code, "A failure.", retry=Retry.SOURCE)


def ask(host_limiter: HostLimiter, error: PipelineError | None = None, url: str = URL, folder: str = "FOLDER") -> None:
    """Make one request that ends like this."""
    try:
        with host_limiter.slot(url, folder=folder):
            if error:
                raise error
    except PipelineError as raised:
        if raised is not error:
            raise


def fail(host_limiter: HostLimiter, times: int = MAX_FAILURES, folder: str = "FOLDER") -> None:
    """Fail to connect for as many URLs of one host."""
    for _ in range(times):
        ask(host_limiter, failing(), f"{URL}?{next(NUMBERS)}", folder)


def snooze(host_limiter: HostLimiter, url: str = URL, lane: Lane = Lane.LIVE, folder: str = "FOLDER") -> Snoozed:
    with pytest.raises(Snoozed) as caught, host_limiter.slot(url, lane, folder):
        pass
    return caught.value
