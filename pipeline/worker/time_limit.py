"""The time limit of a stage's function.

dramatiq's own time limit may strike after the actor has ended, in the middle of settlement. This one is over when its
context ends: nothing can be raised in the thread after that.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import TracebackType

from dramatiq.middleware import TimeLimitExceeded
from dramatiq.threading import raise_thread_exception

#: Seconds between two looks at the deadlines.
INTERVAL = 1.0

#: Seconds within which an exception arrives that was raised in a running thread.
ARRIVAL = 0.1


class _Watch:
    """The deadlines of all threads, and the thread that watches them."""

    def __init__(self) -> None:
        # A plain lock, because an exception may strike anywhere: entering it is a single step of the interpreter.
        self._lock = threading.Lock()
        self._deadlines: dict[int, float] = {}
        self._thread: threading.Thread | None = None

    def add(self, thread: int, deadline: float) -> None:
        with self._lock:
            self._deadlines[thread] = deadline
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="time-limits", daemon=True)
                self._thread.start()

    def remove(self, thread: int) -> bool:
        """Take the deadline of a thread away; returns whether it has passed, and the exception was raised."""
        with self._lock:
            return self._deadlines.pop(thread, None) is None

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL)
            with self._lock:  # held while raising, so that no thread leaves its context in between
                now = time.monotonic()
                for thread in [thread for thread, deadline in self._deadlines.items() if now >= deadline]:
                    del self._deadlines[thread]
                    raise_thread_exception(thread, TimeLimitExceeded)


_watch = _Watch()


class TimeLimit:
    """A context in which this thread may work for `seconds`; then TimeLimitExceeded is raised in it, once.

    It reaches no other thread. Threads that work for this one enter limits of their own, within its time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        _watch.add(threading.get_ident(), time.monotonic() + self._seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if _watch.remove(threading.get_ident()) and kind is not TimeLimitExceeded:
            with suppress(TimeLimitExceeded):  # it may still be on its way, although the work is done
                time.sleep(ARRIVAL)
