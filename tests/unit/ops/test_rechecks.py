"""The progress of a re-check, for people."""

from __future__ import annotations

import pytest

from pipeline.ops.rechecks import progress_of
from pipeline.sweeps.run_state import Run


@pytest.mark.parametrize(
    ("counts", "ended", "text"),
    [
        ({}, 0, "nothing was asked for"),
        ({"not_modified": 1200, "failed": 1}, 1201, "1,200 not modified, 1 failed"),
        ({"changed": 2, "documents": 7, "unknown": 5}, 2, "2 changed; 7 documents have new pictures"),
    ],
)
def test_outcomes_are_counted_and_documents_are_no_outcome(counts: dict[str, int], ended: int, text: str) -> None:
    progress = progress_of(Run("run-1", "recheck", counts=counts), over=True)
    assert (progress.ended, progress.text) == (ended, text)
