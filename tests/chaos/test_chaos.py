"""The short chaos suite; `make chaos` runs the long one."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import show
from tests.chaos.outages import outage
from tests.chaos.run import run

pytestmark = pytest.mark.unmeasured

SEED = 1
JOBS = 120


@pytest.mark.timeout(600)
def test_each_job_has_one_outcome_despite_all_faults() -> None:
    # Given orders of every kind, when all faults happen meanwhile,
    report = run(SEED, JOBS)
    # then each has its expected outcome, possibly repeated, and nothing is left.
    show(report)
    assert not report.outcome.problems
    assert not report.outcome.lost | report.outcome.corrupt
    assert len(report.thrown) >= 35, report.thrown


def test_the_service_recovers_from_an_outage_of_sqs_and_can_stop_during_it() -> None:
    outcome = outage("refused", 10)
    assert (outcome.lost, outcome.dead_letters) == (0, 0), outcome
    assert outcome.jobs >= 40
    assert outcome.stopping < 30
