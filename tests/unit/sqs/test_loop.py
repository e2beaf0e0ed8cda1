"""The threads of the queue layer: when they are late, and what no error of a step does to them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pipeline.sqs import loop as loops
from pipeline.sqs.loop import Loop
from tests.support.moved_clock import MovedClock
from tests.support.waiting import wait_for

DAY = 86_400.0


class Stepped:
    """A loop on a clock that the test moves, whose step does what the test wants."""

    def __init__(self, clock: MovedClock) -> None:
        self.steps = 0
        self.do: Callable[[], float | None] = lambda: None
        self.loop = Loop("stepped", self._step, clock)  # type: ignore[arg-type]

    def _step(self) -> float | None:
        self.steps += 1
        return self.do()


@pytest.fixture
def stepped(clock: MovedClock):
    stepped = Stepped(clock)
    yield stepped
    stepped.loop.end()
    stepped.loop.join(10)
    assert not stepped.loop.is_alive


def test_a_thread_for_which_nothing_is_due_is_not_late_however_long_it_waits(stepped, clock) -> None:
    stepped.loop.start()
    wait_for(lambda: stepped.loop._due == float("inf"))
    clock.now += DAY
    assert stepped.loop.late == 0


def test_a_thread_is_late_from_the_time_that_its_step_was_due(stepped, clock) -> None:
    # Given a thread whose next step is due in ten minutes
    stepped.do = lambda: 600.0
    stepped.loop.start()
    wait_for(lambda: stepped.loop._due == clock.now + 600)
    # When more time passes without a step, as in a frozen process
    clock.now += 599
    assert stepped.loop.late == 0
    clock.now += 301
    # Then it is late by the rest.
    assert stepped.loop.late == 300


def test_a_thread_whose_step_hangs_is_late_although_it_was_not_due_again(stepped, clock) -> None:
    # Given a step that hangs
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        assert go_on.wait(10)

    stepped.do = hang
    stepped.loop.start()
    assert begun.wait(10)
    clock.now += DAY
    # Then it is late since it began, also if it is woken later, and who waits for its end waits no longer than asked.
    stepped.loop.wake()
    assert stepped.loop.late == DAY
    stepped.loop.join(0.01)
    assert stepped.loop.is_alive
    go_on.set()
    wait_for(lambda: stepped.loop.late == 0)


def test_a_thread_has_the_name_of_its_loop_and_keeps_no_process_alive(stepped) -> None:
    threads: list[threading.Thread] = []
    stepped.do = lambda: threads.append(threading.current_thread())
    stepped.loop.start()
    wait_for(lambda: threads)
    assert (threads[0].name, threads[0].daemon) == ("stepped", True)


def test_an_error_in_a_step_does_not_end_the_thread(stepped, monkeypatch, caplog) -> None:
    # Given a step that fails, with an error that quotes a secret
    monkeypatch.setattr(loops, "ERROR_WAIT", 0.0)

    def fail_twice() -> None:
        if stepped.steps <= 2:
            raise KeyError("secret")

    stepped.do = fail_twice
    stepped.loop.start()
    # When it is stepped again, then the thread is there, and the log has no word of the error's text.
    wait_for(lambda: stepped.steps == 3)
    assert stepped.loop.is_alive
    assert "secret" not in caplog.text
