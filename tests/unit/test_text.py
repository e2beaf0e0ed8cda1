"""Ages and durations as people write them."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest

from pipeline.text import format_duration, parse_age, plural, printable, shorten, signal_name


def test_ages_are_parsed():
    ages = ["90s", "30m", "12h", "7d", "2w"]
    assert [parse_age(age) / timedelta(seconds=1) for age in ages] == [90, 1800, 43200, 604800, 1209600]


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-7d", "1.5h", "7y", "99999999w"])
def test_invalid_ages_are_refused(text):
    with pytest.raises(ValueError, match="is not an age"):
        parse_age(text)


@pytest.mark.parametrize(
    ("seconds", "precise", "whole"),
    [
        (-1, "0 ms", "0 s"),
        (0.023, "23 ms", "0 s"),
        (0.42, "0.42 s", "0 s"),
        (4.12, "4.1 s", "4 s"),
        (42.4, "42 s", "42 s"),
        (89, "89 s", "89 s"),
        (90, "2 min", "2 min"),
        (89 * 60, "89 min", "89 min"),
        (9000, "2.5 h", "2 h"),
        (36 * 3600, "2 days", "2 days"),
    ],
)
def test_durations_are_shown_in_a_few_characters(seconds, precise, whole):
    assert (format_duration(seconds), format_duration(seconds, whole=True)) == (precise, whole)


def test_counts_agree_with_their_nouns():
    assert [plural(count, "job") for count in (0, 1, 1234)] == ["0 jobs", "1 job", "1,234 jobs"]


def test_a_signal_is_named_even_if_it_has_no_name():
    assert [signal_name(number) for number in (signal.SIGKILL, 60, 0)] == ["SIGKILL", "signal 60", "signal 0"]


def test_a_text_that_was_cut_ends_in_an_ellipsis():
    assert (shorten("example", 7), shorten("example", 6)) == ("example", "examp…")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u200db", "a?b"),
        ("\U0001f469\u200d\U0001f4bb\u202e", "\U0001f469\u200d\U0001f4bb?"),
        ("\u2764\ufe0f\u200d\U0001f525", "\u2764\ufe0f\u200d\U0001f525"),
        ("\u200d\U0001f469", "?\U0001f469"),
    ],
)
def test_only_emoji_are_joined(text, shown):
    assert printable(text) == shown
