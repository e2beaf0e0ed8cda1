"""The search on the page of jobs."""

from __future__ import annotations

import pytest

from pipeline.dashboard.views.finding import MAX_TEXT, Search
from pipeline.stages import Lane


@pytest.mark.parametrize(
    ("query", "lane", "narrow"),
    [
        ({}, Lane.LIVE, False),
        ({"q": "a.example"}, None, True),
        ({"outcome": "failed"}, None, True),
        ({"q": "a.example", "lane": "sweep"}, Lane.BULK, True),
        ({"lane": "nowhere", "stage": "nowhere", "outcome": "nothing"}, Lane.LIVE, False),
    ],
)
def test_live_jobs_are_listed_unless_something_is_searched(
    query: dict[str, str], lane: Lane | None, narrow: bool
) -> None:
    search = Search.of(query)
    assert (search.filter.lane, search.is_narrow) == (lane, narrow)


def test_a_link_repeats_the_search_at_its_beginning() -> None:
    # Given the second page of a search
    search = Search.of({"q": "x&y=1", "stage": "fetch", "after": "7"})
    # Then a link leads to its beginning, and its text stays one field.
    assert search.link() == "/jobs?q=x%26y%3D1&lane=all&stage=fetch"
    assert search.link(after="9").endswith("&after=9")


def test_long_fields_are_cut() -> None:
    assert len(Search.of({"q": "x" * 10_000}).text) == MAX_TEXT
