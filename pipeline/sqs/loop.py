"""Time, and the threads of the queue layer, which only step objects."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Does what is due now, and never raises. It returns the seconds until something is due again, or None if only
#: `Loop.wake` can make something due.
Step = Callable[[], float | None]


class Clock:
    """The time: `monotonic` never runs backwards, `time` is Unix time, both in seconds. A simulation replaces it."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)


class Loop:
    """A thread that calls `step` when it is due, or when it is woken."""

    def __init__(self, name: str, step: Step) -> None:
        self._step = step
        self._woken = threading.Event()
        self._ended = False
        self.last_step = time.monotonic()  #: when the thread last called `step`, in monotonic seconds
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.start = self._thread.start
        self.wake = self._woken.set

    def end(self) -> None:
        """Stop after the current step, without waiting for it."""
        self._ended = True
        self.wake()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._ended:
            self._woken.clear()
            self.last_step = time.monotonic()
            wait = self._step()
            if wait is None or wait > 0:
                self._woken.wait(wait)
