"""Time, and the threads of the queue layer, which only step objects."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from dramatiq.logging import get_logger

logger = get_logger(__name__)

#: Does what is due now. It returns the seconds until something is due again, or None if only `Loop.wake` can make
#: something due.
Step = Callable[[], float | None]

#: Seconds until the next step after an error.
ERROR_WAIT = 1.0


class Clock:
    """The time: `monotonic` never runs backwards, `time` is Unix time, both in seconds. A simulation replaces it."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)


class Loop:
    """A thread that calls `step` when it is due, or when it is woken. No error of a step ends it."""

    def __init__(self, name: str, step: Step, clock: Clock | None = None) -> None:
        self.name = name
        self._step = step
        self._clock = clock or Clock()
        self._woken = threading.Event()
        self._ended = False
        self._due = self._clock.monotonic()  # when the step is due, or when the step in progress began
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.start = self._thread.start

    def wake(self) -> None:
        """Make the step due now."""
        self._due = min(self._due, self._clock.monotonic())
        self._woken.set()

    def end(self) -> None:
        """Stop after the current step, without waiting for it."""
        self._ended = True
        self.wake()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended, for so many seconds at most."""
        self._thread.join(timeout)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def late(self) -> float:
        """Seconds since the current step began, or since it should have begun; 0 while nothing is due."""
        return max(0.0, self._clock.monotonic() - self._due)

    def _run(self) -> None:
        while not self._ended:
            self._woken.clear()
            self._due = self._clock.monotonic()
            wait = self._safe_step()
            self._due = math.inf if wait is None else self._clock.monotonic() + wait
            if wait is None or wait > 0:
                self._woken.wait(wait)

    def _safe_step(self) -> float | None:
        try:
            return self._step()
        except Exception as error:  # a thread that ended here would let every lease run out
            logger.error("%s: unexpected %s. It goes on.", self.name, type(error).__name__)
            return ERROR_WAIT


#: Makes a loop from the name of its thread, its step and the time.
MakeLoop = Callable[[str, Step, Clock], Loop]
