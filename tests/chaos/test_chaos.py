"""The short chaos suite; `make chaos` runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import procfile_with
from tests.chaos.__main__ import show
from tests.chaos.outages import outage
from tests.chaos.run import run

pytestmark = pytest.mark.unmeasured

SEED = 1
JOBS = 120

#: All faults are shorter than in the long suite, and so are the leases and timeouts that they exceed.
SCALE = 2 / 3


@pytest.mark.timeout(600)
def test_each_job_has_one_outcome_despite_all_faults() -> None:
    # Given orders of every kind, when all faults happen meanwhile,
    report = run(SEED, JOBS, SCALE)
    # then each has its expected outcome, possibly repeated, and nothing is left.
    show(report)
    assert not report.outcome.problems
    assert not report.outcome.lost | report.outcome.corrupt
    assert len(report.thrown) >= 35, report.thrown


def test_the_service_recovers_from_an_outage_of_sqs_and_can_stop_during_it(tmp_path: Path) -> None:
    # The outage is longer than the leases, and ends all that are held.
    procfile = procfile_with(tmp_path, modules=dict.fromkeys(["fetch", "resize", "upload", "notify"], "brief_leases"))
    outcome = outage("refused", 10, procfile, {"giants": 0, "quarantine": 0, "sweep": 0})
    assert (outcome.lost, outcome.dead_letters) == (0, 0), outcome
    assert outcome.jobs >= 40
    assert outcome.stopping < 30
