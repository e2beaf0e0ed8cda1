"""The scheduler: one thread that takes one step at a time, in an order that the seed decides."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from random import Random

from tests.simulation.clock import VirtualClock

_DUE: Callable[[Task], float] = attrgetter("due")


class Task:
    """One thread of a simulated process, or an event of the history.

    Args:
        step: Does what is due now; returns the seconds until something is due again, or None if only `wake` can make
            something due.

    Attributes:
        due: When the next step is due, in seconds of the virtual clock.
    """

    __slots__ = ("_clock", "_step", "due", "name")

    def __init__(self, name: str, step: Callable[[], float | None], clock: VirtualClock, *, after: float = 0.0) -> None:
        self.name = name
        self._step = step
        self._clock = clock
        self.due = clock.now + after

    @property
    def is_idle(self) -> bool:
        """Whether only `wake` can make a step due."""
        return self.due == math.inf

    def wake(self) -> None:
        """Make the next step due now."""
        self.due = min(self.due, self._clock.now)

    def wake_at(self, when: float) -> None:
        """Make the next step due at `when` or earlier."""
        self.due = min(self.due, when)

    def step(self) -> None:
        """Take one step."""
        self.due = math.inf  # a step may wake its own task
        wait = self._step()
        if wait is not None:
            self.wake_at(self._clock.now + wait)


class Scheduler:
    """Steps due tasks in random order. When none is due, it moves the clock to the next task.

    Attributes:
        tasks: All tasks. Steps may add and remove some.
        steps: How many steps were taken.
    """

    def __init__(self, clock: VirtualClock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self.tasks: list[Task] = []
        self.steps = 0

    def add(self, name: str, step: Callable[[], float | None], *, after: float = 0.0) -> Task:
        """Add a task whose first step is due after some seconds."""
        task = Task(name, step, self._clock, after=after)
        self.tasks.append(task)
        return task

    def remove(self, tasks: list[Task]) -> None:
        """Forget tasks, for example those of a process that ended."""
        self.tasks = [task for task in self.tasks if task not in tasks]

    def run(self, until: float, *, is_over: Callable[[], bool] = lambda: False, max_steps: int = 100_000) -> None:
        """Take steps until the clock would pass `until`, or `is_over` returns true before the clock moves."""
        last = self.steps + max_steps
        while True:
            next_due = min(map(_DUE, self.tasks), default=math.inf)
            if next_due > self._clock.now:
                if is_over() or next_due > until:
                    return
                self._clock.advance_to(next_due)
            now = self._clock.now
            due = [task for task in self.tasks if task.due <= now]
            self.steps += 1
            if self.steps > last:
                raise AssertionError(f"Steps without end: {', '.join(task.name for task in due)}.")
            (due[0] if len(due) == 1 else self._random.choice(due)).step()
