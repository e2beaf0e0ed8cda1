"""Events reach every listener, and no listener can cost a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.events import Event, Listener, Verdict, forget, listen, tell


@contextmanager
def listening(*listeners: Listener) -> Iterator[None]:
    for listener in listeners:
        listen(listener)
    try:
        yield
    finally:
        for listener in listeners:
            forget(listener)


def test_every_listener_is_told() -> None:
    heard: list[Event] = []
    event = Event("fetch", "a-job", Verdict.DONE)
    with listening(heard.append):
        tell(event)
    tell(event)
    assert heard == [event]


def test_a_listener_that_fails_keeps_nobody_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    # given a listener that raises what holds a customer's text
    def failing(event: Event) -> None:
        raise RuntimeError("https://example.org/?token=secret")

    heard: list[Event] = []
    with listening(failing, heard.append):
        # when something is told
        tell(Event("fetch", "a-job", Verdict.DONE))
    # then the others hear it, and the log says by its type what went wrong
    assert len(heard) == 1
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text
