"""Ages as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipeline.cli.durations import parse_age, shown_age


def test_ages_are_read():
    ages = ["90s", "30m", "12h", "7d", "2w"]
    assert [parse_age(age) / timedelta(seconds=1) for age in ages] == [90, 1800, 43200, 604800, 1209600]


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-7d", "1.5h", "7y", "99999999w"])
def test_what_is_no_age_is_refused(text):
    with pytest.raises(ValueError, match="is no age"):
        parse_age(text)


def test_ages_are_shown_in_the_largest_unit_of_which_they_have_two():
    seconds = [-5, 0, 119, 120, 7199, 7200, 2 * 86400 - 1, 2 * 86400, 14 * 86400]
    assert [shown_age(timedelta(seconds=each)) for each in seconds] == [
        "0s", "0s", "119s", "2m", "119m", "2h", "47h", "2d", "14d",
    ]  # fmt: skip
