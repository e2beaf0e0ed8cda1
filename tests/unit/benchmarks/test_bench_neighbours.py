"""The verdict of bench-neighbours, and its servers that hang and drip."""

from __future__ import annotations

import sys
from math import inf
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS / "end_to_end"), str(BENCHMARKS / "images")]

from neighbours import FETCH_BYTES, NEIGHBOURS, Row, Series  # noqa: E402


def row(name: str, p95: float, *, ended: int = 0, fetch_bytes: int = 0) -> Row:
    """Return a row with so many seconds beside the neighbour, and 0.2 s alone."""
    return Row(NEIGHBOURS[name], Series([0.2] * 20), Series([p95] * 20, fetch_bytes), ended)


@pytest.mark.parametrize(
    ("given", "is_good"),
    [
        (row("hang", 0.7), True),
        (row("hang", 0.71), False),
        (row("hang", inf), False),
        (row("hang", 0.2, fetch_bytes=FETCH_BYTES + 1), False),
        (row("giants", 1.7, ended=30), True),
        (row("giants", 1.7, ended=29), False),
        (row("giants", 1.71, ended=30), False),
        (row("large", 9.0), True),
    ],
)
def test_a_row_is_good_if_it_keeps_its_promise(given: Row, is_good: bool) -> None:
    assert given.is_good is is_good


def test_a_job_without_postback_counts_as_endless() -> None:
    assert Row(NEIGHBOURS["hang"], Series([0.2] * 20), Series([0.2] * 10 + [inf] * 10), 0).cells()[2] == "0.20 s → none"
