"""The crash counter of suspects, in both kinds of staging."""

from __future__ import annotations

import pytest

from pipeline.settings import get_settings
from pipeline.worker.crash_counter import StagedTrials


@pytest.fixture(params=["s3", "file"])
def trials(request, environment, tmp_path, monkeypatch) -> StagedTrials:
    if request.param == "file":
        monkeypatch.setenv("STAGING_URL", f"{tmp_path.as_uri()}/staging/")
        get_settings.cache_clear()
    return StagedTrials()


def test_workers_share_the_counts(trials: StagedTrials) -> None:
    assert trials.count("one") == 0
    trials.record("one", 1)
    trials.record("one", 2)
    assert (StagedTrials().count("one"), trials.count("other")) == (2, 0)


def test_a_count_of_zero_removes_the_counter(trials: StagedTrials) -> None:
    trials.record("one", 1)
    trials.record("one", 0)
    trials.record("never begun", 0)
    assert trials.count("one") == 0
