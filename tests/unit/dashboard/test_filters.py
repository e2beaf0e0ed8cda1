"""Filters of templates: times and text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.dashboard.views import filters

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "just now"),
        (1, "just now"),
        (12, "12 s ago"),
        (180, "3 min ago"),
        (7200, "2 h ago"),
        (5 * 86400, "5 days ago"),
    ],
)
def test_how_long_ago(seconds: float, expected: str) -> None:
    assert filters.ago(NOW - timedelta(seconds=seconds), NOW) == expected


def test_back_ticks_become_code_and_the_rest_stays_text() -> None:
    assert filters.code("Run `image-pipeline check <b>` `` now") == (
        "Run <code>image-pipeline check &lt;b&gt;</code> `` now"
    )


def test_a_future_time_is_counted_down() -> None:
    assert [filters.until(NOW + timedelta(seconds=each), NOW) for each in (-5, 0.5, 58, 7200)] == [
        "now", "now", "in 58 s", "in 2 h",
    ]  # fmt: skip
