"""Sessions of the dashboard, and the limit on wrong tokens, with a clock that the tests move."""

from __future__ import annotations

import pytest

from pipeline.dashboard import sessions
from pipeline.dashboard.sessions import MAX_WRONG_TOKENS, SESSION, WINDOW, Sessions, Throttle
from tests.support.moved_clock import MovedClock


def test_a_session_ends_after_its_lifetime_or_when_its_visitor_logs_out() -> None:
    clock = MovedClock()
    site = Sessions(clock)
    first, second = site.begin(), site.begin()
    site.end(first)
    assert [site.is_valid(cookie) for cookie in (first, second, "", "forged")] == [False, True, False, False]
    clock.now += SESSION
    assert not site.is_valid(second)


def test_the_oldest_session_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    site = Sessions(MovedClock())
    cookies = [site.begin() for _ in range(3)]
    assert [site.is_valid(cookie) for cookie in cookies] == [False, True, True]


def test_an_address_with_many_wrong_tokens_waits_and_others_do_not() -> None:
    # Given an address that has guessed as often as it may
    clock = MovedClock()
    throttle = Throttle(clock)
    for _ in range(MAX_WRONG_TOKENS):
        assert throttle.wait_for("192.0.2.1") == 0
        throttle.failed("192.0.2.1")
    # Then it waits for the rest of its window, and others do not
    clock.now += 10
    assert throttle.wait_for("192.0.2.1") == WINDOW - 10
    assert throttle.wait_for("198.51.100.1") == 0
    # and after that it may try again.
    clock.now += WINDOW - 10
    assert throttle.wait_for("192.0.2.1") == 0


def test_beyond_the_addresses_that_are_remembered_no_further_one_may_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_ADDRESSES", 1)
    clock = MovedClock()
    throttle = Throttle(clock)
    throttle.failed("192.0.2.1")
    assert throttle.wait_for("198.51.100.1") == WINDOW
    # When the window of the first is over, then its place is free.
    clock.now += WINDOW
    assert throttle.wait_for("198.51.100.1") == 0
