"""The values that the dashboard polls, and how old they may be."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.dashboard.polling import DepthHistory, PolledValue, Poller, Unchanged
from pipeline.errors import RetryableError, SettingsError
from tests.support.waiting import wait_for

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


def test_a_polled_value_keeps_its_last_value_after_an_error() -> None:
    answers: list[Any] = [
        [1],
        RetryableError("sqs_error", "SQS said no."),
        SettingsError("X is not set."),
        ValueError("hush"),
        [2],
    ]

    def read() -> list[int]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    polled: PolledValue[list[int]] = PolledValue("the thing", read, [], 1)
    observed = []
    for _ in range(5):
        polled.poll()
        observed.append((polled.snapshot.value, polled.snapshot.error))
    assert observed == [
        ([1], ""),
        ([1], "SQS said no."),
        ([1], "X is not set."),
        ([1], "Could not read the thing: ValueError."),
        ([2], ""),
    ]


def test_a_refresh_polls_at_once() -> None:
    count = 0

    def read() -> int:
        nonlocal count
        count += 1
        return count

    polled: PolledValue[Any] = PolledValue("the thing", read, 0, 3600)
    poller = Poller([polled])
    with poller.running():
        wait_for(lambda: count == 1)
        poller.activate()
        poller.refresh()
        wait_for(lambda: count == 2)


def test_without_requests_only_values_with_a_history_are_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given two polled values, and no request for a page
    monkeypatch.setattr("pipeline.dashboard.polling.ACTIVE", -1)
    monkeypatch.setattr("pipeline.dashboard.polling.IDLE_INTERVAL", 0.01)
    counts = {"always": 0, "seldom": 0}

    def counting(name: str) -> Any:
        def read() -> int:
            counts[name] += 1
            return counts[name]

        return read

    values: list[Any] = [PolledValue(name, counting(name), 0, 0.01, always=name == "always") for name in counts]
    poller = Poller(values)
    with poller.running():
        # Then one is polled repeatedly, the other once
        wait_for(lambda: counts["always"] > 5)
        assert counts["seldom"] == 1
        # until a page is requested
        poller.activate()
        wait_for(lambda: counts["seldom"] > 1)


def test_the_first_page_after_a_while_waits_for_fresh_values(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a value that is read slowly, and a page that nobody has opened for a while
    monkeypatch.setattr("pipeline.dashboard.polling.PAGE_TIMEOUT", 30)
    count, go_on = 0, threading.Event()

    def read() -> int:
        nonlocal count
        count += 1
        if count > 1:
            go_on.wait(30)
        return count

    polled: PolledValue[Any] = PolledValue("the thing", read, 0, 3600)
    poller = Poller([polled])
    with poller.running():
        poller.activate()
        assert polled.snapshot.value == 1
        monkeypatch.setattr("pipeline.dashboard.polling.ACTIVE", -1)
        # When it is opened, then it waits for the value
        page = threading.Thread(target=poller.activate, daemon=True)
        page.start()
        wait_for(lambda: count == 2)
        assert page.is_alive()
        go_on.set()
        page.join(30)
        assert polled.snapshot.value == 2
        # but it does not wait for a source that fails
        polled.snapshot = replace(polled.snapshot, error="down")
        go_on.clear()
        poller.activate()


def test_old_values_show_their_age_and_unchanged_ones_keep_it() -> None:
    polled: PolledValue[int] = PolledValue("the thing", lambda: 1, 0, 1, fresh_for=30)
    assert not polled.snapshot.is_old(NOW)
    polled.poll()
    at = polled.snapshot.at
    assert at is not None
    assert not polled.snapshot.is_old(at + timedelta(seconds=29))
    assert polled.snapshot.is_old(at + timedelta(seconds=31))

    def unchanged() -> int:
        raise Unchanged

    polled._read = unchanged
    polled.poll()
    assert (polled.snapshot.at, polled.snapshot.error) == (at, "")


def test_the_history_knows_since_when_messages_wait() -> None:
    history = DepthHistory()
    history.add({"fetch": 1, "resize": 0})
    since = history.waiting_since["fetch"]
    history.add({"fetch": 3, "resize": 1})
    assert history.waiting_since["fetch"] == since
    assert "resize" in history.waiting_since
    history.add({"fetch": 0})
    assert history.waiting_since == {}
