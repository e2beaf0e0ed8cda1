"""The time limit interrupts its context, and nothing after it."""

from __future__ import annotations

import threading
import time

import pytest
from dramatiq.middleware import TimeLimitExceeded

from pipeline.worker import time_limit
from pipeline.worker.time_limit import TimeLimit, _Watch


@pytest.fixture(autouse=True)
def watch(monkeypatch: pytest.MonkeyPatch) -> _Watch:
    monkeypatch.setattr(time_limit, "INTERVAL", 0.005)
    monkeypatch.setattr(time_limit, "_watch", watch := _Watch())
    return watch


def spin() -> None:
    while True:
        time.sleep(0.001)


def work_until(end: float) -> None:
    # A function as in the stages: CPython 3.13 passes over the handlers around a bare loop in which it interrupts.
    while time.monotonic() < end:
        pass


def test_work_that_takes_too_long_is_interrupted_once() -> None:
    with pytest.raises(TimeLimitExceeded), TimeLimit(0.01):
        spin()
    with TimeLimit(60):
        time.sleep(0.05)


def test_work_within_its_limit_is_not_interrupted(watch: _Watch) -> None:
    with TimeLimit(60):
        pass
    assert watch._deadlines == {}
    time.sleep(0.05)


@pytest.mark.parametrize("number", range(20))
def test_a_limit_that_strikes_at_the_end_of_the_work_never_strikes_after_it(number: int) -> None:
    # Given work that ends at about the moment of its limit
    ended: list[str] = []

    def work() -> None:
        try:
            with TimeLimit(0.01):
                work_until(time.monotonic() + 0.008 + number * 0.0005)
        except TimeLimitExceeded:
            ended.append("limit")
        # When much more is done after it
        for _ in range(50):
            time.sleep(0.0005)
        ended.append("after")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    # Then that is never interrupted.
    assert ended[-1:] == ["after"]


def test_an_exception_that_was_raised_but_has_not_arrived_is_absorbed(watch: _Watch) -> None:
    # Given work whose exception is raised just as it ends
    from dramatiq.threading import raise_thread_exception

    with TimeLimit(60):
        me = threading.get_ident()
        limit = TimeLimit(60)
        del watch._deadlines[me]
        threading.Timer(0.02, raise_thread_exception, [me, TimeLimitExceeded]).start()
        limit.__exit__(None, None, None)
        watch.add(me, time.monotonic() + 60)


def test_work_that_turns_the_interruption_into_another_error_is_not_interrupted_again() -> None:
    def convert() -> None:
        try:
            spin()
        except TimeLimitExceeded as error:
            raise ZeroDivisionError from error

    with pytest.raises(ZeroDivisionError), TimeLimit(0.01):
        convert()
    time.sleep(0.05)
