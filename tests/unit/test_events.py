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


def test_every_listener_is_called() -> None:
    heard: list[Event] = []
    event = Event("fetch", "a-job", Outcome.DONE)
    with listening(heard.append):
        emit(event)
    emit(event)
    assert heard == [event]


def test_a_failing_listener_does_not_block_the_others(caplog: pytest.LogCaptureFixture) -> None:
    # given a listener whose error contains a customer's text
    def failing(event: Event) -> None:
        raise RuntimeError("https://example.org/?token=secret")

    heard: list[Event] = []
    with listening(failing, heard.append):
        # when an event is emitted
        emit(Event("fetch", "a-job", Outcome.DONE))
    # then the other listeners get it, and the log names only the error's type
    assert len(heard) == 1
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text
