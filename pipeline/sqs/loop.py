"""Time, and the threads of the queue layer, which only step objects: each step does what is due now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Clock:
    """The time. A simulation replaces it."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        return time.monotonic()

    def time(self) -> float:
        """Return Unix time in seconds."""
        return time.time()


class Loop:
    """A thread that calls `step` when it is due, or when it is woken.

    Args:
        name: The name of the thread.
        step: Does what is due now, and returns the seconds until something is due again, or None if only `wake` can
            make something due. It must not raise.

    Attributes:
        last_step: When the thread last called `step`, in monotonic seconds.
    """

    def __init__(self, name: str, step: Callable[[], float | None]) -> None:
        self._step = step
        self._woken = threading.Event()
        self._ended = False
        self.last_step = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Call `step` as soon as possible."""
        self._woken.set()

    def end(self, timeout: float = 0.0) -> None:
        """Stop after the current step, and wait up to `timeout` seconds for its end."""
        self._ended = True
        self.wake()
        if self._thread.is_alive() and timeout:
            self._thread.join(timeout)

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._ended:
            self._woken.clear()
            self.last_step = time.monotonic()
            wait = self._step()
            if wait is None or wait > 0:
                self._woken.wait(wait)
