"""Events reach every listener, and no listener can cost a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.events import Event, Outcome, Subscriber, emit, subscribe, unsubscribe


@contextmanager
def listening(*listeners: Subscriber) -> Iterator[None]:
    for subscriber in listeners:
        subscribe(subscriber)
    try:
        yield
    finally:
        for subscriber in listeners:
            unsubscribe(subscriber)


def test_every_listener_is_told() -> None:
    heard: list[Event] = []
    event = Event("fetch", "a-job", Outcome.DONE)
    with listening(heard.append):
        emit(event)
    emit(event)
    assert heard == [event]


def test_a_listener_that_fails_keeps_nobody_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    # given a listener that raises what holds a customer's text
    def failing(event: Event) -> None:
        raise RuntimeError("https://example.org/?token=secret")

    heard: list[Event] = []
    with listening(failing, heard.append):
        # when something is told
        emit(Event("fetch", "a-job", Outcome.DONE))
    # then the others hear it, and the log says by its type what went wrong
    assert len(heard) == 1
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text
