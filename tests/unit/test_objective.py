"""The objective for live jobs."""

from __future__ import annotations

from pipeline import metrics
from pipeline.objective import WITHIN


def test_the_objective_is_a_bucket_of_the_histogram() -> None:
    assert WITHIN in metrics.WAIT_BUCKETS
