"""Doubling waits."""

from __future__ import annotations

import random

from pipeline.sqs.backoff import Backoff


def test_each_failure_in_a_row_doubles_the_wait_up_to_the_last() -> None:
    backoff = Backoff(first=1.0, last=5.0)
    assert [backoff.next() for _ in range(5)] == [1, 2, 4, 5, 5]
    # When an attempt succeeds, then the waits start again.
    backoff.reset()
    assert (backoff.wait, backoff.next()) == (0, 1)


def test_processes_that_failed_together_try_again_apart() -> None:
    # Given the backoffs of two processes
    backoffs = [Backoff(8.0, 64.0, random.Random(seed)) for seed in (1, 2)]
    # When both fail at the same time
    waits = [[backoff.next() for _ in range(4)] for backoff in backoffs]
    # Then they wait differently, and a shortened wait does not shorten the next.
    assert not set(waits[0]) & set(waits[1])
    for each in waits:
        assert all(full / 2 <= wait <= full for wait, full in zip(each, (8, 16, 32, 64), strict=True))
