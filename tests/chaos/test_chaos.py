"""The short form of the chaos suite; `make chaos` is the long one."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import show
from tests.chaos.outages import outage
from tests.chaos.run import run

SEED = 1
JOBS = 120


@pytest.mark.timeout(600)
def test_whatever_dies_and_fails_each_job_has_one_outcome() -> None:
    # Given orders of every kind, when everything that can fail does so in the middle of them,
    report = run(SEED, JOBS)
    # then each has the outcome it should have, once but for repeats, and nothing is left.
    show(report)
    assert not report.verdict.problems
    assert not report.verdict.lost | report.verdict.corrupt
    assert len(report.thrown) >= 35, report.thrown


def test_an_outage_of_sqs_heals_by_itself_and_does_not_keep_a_process_from_stopping() -> None:
    outcome = outage("refused", 10)
    assert (outcome.lost, outcome.dead_letters) == (0, 0), outcome
    assert outcome.jobs >= 40
    assert outcome.stopping < 30
