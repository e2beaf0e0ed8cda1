"""Runs that are followed."""

from __future__ import annotations

import pytest

from pipeline.ops import sweeps
from pipeline.sweeps import run_state
from pipeline.sweeps.run_state import Run


def test_the_last_counts_are_read_after_the_last_job_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a run whose last job ends between a look at the run and one at its jobs
    looks = iter([Run("run", "channels", walked=True), Run("run", "channels", walked=True, counts={"done": 1})])
    monkeypatch.setattr(run_state, "load", lambda _: next(looks))
    monkeypatch.setattr(run_state, "under_way", lambda _: 0)
    # Then its document is counted.
    assert [(each.done, each.over) for each in sweeps.follow("run")] == [(1, True)]
