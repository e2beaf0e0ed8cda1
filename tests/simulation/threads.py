"""Simulated threads: each is a greenlet, and only one runs at a time, until it waits for something.

They wait where the product's threads wait: for a request, a lock, an event, a message, or the end of a pause. The
scheduler then moves the clock to the next thread that is due. Threads that are due at the same time run in an order
that the seed decides. Everything else here replaces parts of `threading`, `queue` and `concurrent.futures`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from queue import Empty
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet

from tests.simulation.clock import VirtualClock

#: Seconds after which a thread has waited for long.
LONG = 60.0


#: The probability that another thread runs just before an event is cleared, and for how many seconds at most.
PREEMPTED, LONGEST_PREEMPTION = 0.02, 0.5


class Killed(BaseException):
    """The process of this thread is dead. No code of the product may catch it."""


class Group:
    """The threads of one simulated process.

    Attributes:
        alive: Whether the process is alive. All its threads raise Killed where they wait next if it is not.
        has_ended: Whether its first thread has ended, and with it the process.
        threads: Its threads, without those that have ended.
        enter: Called before a thread of another group gives way to one of this.
    """

    def __init__(self, enter: Callable[[], None] = lambda: None) -> None:
        self.alive = True
        self.has_ended = False
        self.threads: dict[Thread, None] = {}  # in the order in which they were started
        self.enter = enter


class Timer:
    """Something that happens in no process, such as a fault."""

    turn = 0

    def __init__(self, act: Callable[[], None]) -> None:
        self.resume = act


class Scheduler:
    """Runs the threads and timers that are due, and moves the clock when none is.

    Attributes:
        current: The thread that runs; None while the scheduler itself does, or a timer.
        before: Called before a thread runs that has waited for long.
        after: Called after a thread has run until it waits, if its process has ended, or if there is an alarm.
        is_alarmed: Whether something is wrong.
        errors: Errors that ended a thread.
        is_deployed: Whether all processes have the version that understands newer jobs.
    """

    def __init__(self, clock: VirtualClock, random: Random) -> None:
        self.clock, self.random = clock, random
        self.current: Thread | None = None
        self.before: Callable[[Thread], None] = lambda thread: None
        self.after: Callable[[Thread], None] = lambda thread: None
        self.errors: list[BaseException] = []
        self.is_alarmed = False
        self.steps = 0
        self.is_deployed = False
        self._due: list[tuple[float, float, int, int, Any]] = []
        self._numbers = count()
        self._entered: Group | None = None
        self._main = getcurrent()

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Call a function after some seconds."""
        self._push(self.clock.now + seconds, Timer(act))

    def run(self, until: float, is_over: Callable[[], bool] = lambda: False, max_steps: int = 1_000_000) -> None:
        """Run what is due until the clock would pass `until`, or `is_over` returns true when it is about to move."""
        self._main, due, last = getcurrent(), self._due, self.steps + max_steps
        while due:
            when, _, turn, _, each = due[0]
            if turn != each.turn:
                heappop(due)
                continue
            if when > self.clock.now:
                if when > until or is_over():
                    return
                self.clock.advance_to(when)
            heappop(due)
            self.steps += 1
            if self.steps > last:
                raise AssertionError(f"Steps without end: {each.name}.")
            each.resume()

    def suspend(self, until: float) -> bool:
        """Let the running thread wait until a time, or until it is woken; returns whether it was woken."""
        thread = self.running
        if not thread.group.alive:
            raise Killed
        thread.is_woken, thread.since, thread.is_suspended = False, self.clock.now, True
        if until < math.inf:
            self._push(until, thread)
        self._main.switch()
        thread.is_suspended = False
        if not thread.group.alive:
            raise Killed
        return thread.is_woken

    def sleep(self, seconds: float) -> None:
        self.suspend(self.clock.now + seconds)

    def wake(self, thread: Thread) -> None:
        """Let a suspended thread run now."""
        if thread.is_suspended and not thread.is_woken:
            thread.is_woken = True
            self._push(self.clock.now, thread)

    def wake_at(self, when: float, thread: Thread) -> None:
        """Let a suspended thread run at `when` or earlier."""
        self._push(max(when, self.clock.now), thread)

    def end(self, group: Group) -> None:
        """End all threads of a dead process. Only the scheduler or a timer calls this."""
        ending = list(group.threads)
        for thread in ending:
            self.current = thread
            while not thread.greenlet.dead:
                with suppress(Killed):  # of a thread that has not run yet
                    thread.greenlet.throw(Killed)
        for thread in ending:
            thread.turn = -1  # they may have woken each other
        self.current, self._entered = None, None

    @property
    def running(self) -> Thread:
        if self.current is None:
            raise AssertionError("No thread runs that could wait. Is a lock kept during a request?")
        return self.current

    def _push(self, when: float, each: Thread | Timer) -> None:
        heappush(self._due, (when, self.random.random(), each.turn, next(self._numbers), each))


_scheduler: list[Scheduler] = []


def use(*scheduler: Scheduler) -> None:
    """Let all parts below belong to this scheduler, or to none."""
    _scheduler[:] = scheduler


class Thread:
    """Replaces `threading.Thread`. Threads that one makes belong to the same process."""

    def __init__(
        self,
        group: Group | None = None,
        target: Callable[..., Any] = lambda: None,
        name: str = "",
        args: Iterable[Any] = (),
        daemon: bool = True,
    ) -> None:
        self.scheduler = _scheduler[0]
        self.group = group or self.scheduler.running.group
        self.name = name
        self.turn = 0
        self.since = 0.0  # when it began to wait
        self.is_woken = self.is_suspended = False
        self._target, self._args = target, args
        self._joining: list[Thread] = []
        self._is_started = self._has_ended = False
        self.greenlet = greenlet(self._run)

    def start(self) -> None:
        if not self.group.alive:
            raise Killed
        self._is_started = True
        self.greenlet.parent = self.scheduler._main
        self.group.threads[self] = None
        self.scheduler._push(self.scheduler.clock.now, self)

    def resume(self) -> None:
        """Run until it waits. Only the scheduler calls this."""
        scheduler, group = self.scheduler, self.group
        if scheduler.clock.now - self.since > LONG:
            scheduler.before(self)
        self.turn += 1
        scheduler.current = self
        if group is not scheduler._entered:
            scheduler._entered = group
            group.enter()
        self.greenlet.switch()
        scheduler.current = None
        if scheduler.is_alarmed or group.has_ended or not group.alive:
            scheduler.after(self)

    def join(self, timeout: float | None = None) -> None:
        until = math.inf if timeout is None else self.scheduler.clock.now + timeout
        while not self._has_ended and self.scheduler.clock.now < until:
            self._joining.append(self.scheduler.running)
            self.scheduler.suspend(until)

    def is_alive(self) -> bool:
        return self._is_started and not self._has_ended

    def _run(self) -> None:
        try:
            self._target(*self._args)
        except Killed:
            pass
        except BaseException as error:
            self.scheduler.errors.append(error)
            self.scheduler.is_alarmed = True
        self._has_ended = True
        self.group.threads.pop(self, None)
        for thread in self._joining:
            self.scheduler.wake(thread)


class Lock:
    """Replaces `threading.Lock`."""

    __slots__ = ("_is_taken", "_waiting")

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: deque[Thread] | None = None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        while self._is_taken:
            if not blocking:
                return False
            scheduler = _scheduler[0]
            self._waiting = self._waiting if self._waiting is not None else deque()
            self._waiting.append(scheduler.running)
            scheduler.suspend(math.inf)
        self._is_taken = True
        return True

    __enter__ = acquire

    def release(self) -> None:
        self._is_taken = False
        if self._waiting:
            _scheduler[0].wake(self._waiting.popleft())

    def __exit__(self, *_: object) -> None:
        self.release()

    def locked(self) -> bool:
        return self._is_taken


class Condition:
    """Replaces `threading.Condition`."""

    def __init__(self, lock: Lock | None = None) -> None:
        self._lock = lock or Lock()
        self._waiting: deque[Thread] = deque()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        scheduler = _scheduler[0]
        self._waiting.append(scheduler.running)
        self._lock.release()
        try:
            is_woken = scheduler.suspend(math.inf if timeout is None else scheduler.clock.now + timeout)
        finally:
            self._lock.acquire()
        if not is_woken:
            self._waiting.remove(scheduler.running)
        return is_woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        clock = _scheduler[0].clock
        until = math.inf if timeout is None else clock.now + timeout
        while not (result := predicate()) and clock.now < until:
            self.wait(until - clock.now)
        return result

    def notify(self, n: int = 1) -> None:
        for _ in range(min(n, len(self._waiting))):
            _scheduler[0].wake(self._waiting.popleft())

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class Event:
    """Replaces `threading.Event`."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[Thread] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for thread in self._waiting:
            _scheduler[0].wake(thread)
        self._waiting.clear()

    def clear(self) -> None:
        scheduler = _scheduler[0]
        if scheduler.current and scheduler.random.random() < PREEMPTED:  # as any thread may be, anywhere
            scheduler.sleep(scheduler.random.uniform(0, LONGEST_PREEMPTION))
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._is_set:
            scheduler = _scheduler[0]
            thread = scheduler.running
            self._waiting.append(thread)
            if not scheduler.suspend(math.inf if timeout is None else scheduler.clock.now + timeout):
                self._waiting.remove(thread)
        return self._is_set


class SimpleQueue:
    """Replaces `queue.SimpleQueue`."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._arrived = Condition()

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._arrived.notify()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if block and not self._items:
            with self._arrived:
                self._arrived.wait_for(lambda: self._items, timeout)
        if not self._items:
            raise Empty
        return self._items.popleft()

    def qsize(self) -> int:
        return len(self._items)


class ThreadPoolExecutor:
    """Replaces the executor of `concurrent.futures`, of which `map` alone is used."""

    def __init__(self, max_workers: int, thread_name_prefix: str = "") -> None:
        self._name = thread_name_prefix

    def __enter__(self) -> ThreadPoolExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        """All results were returned before."""

    def map(self, function: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        values = list(values)
        results: list[Any] = [None] * len(values)

        def work(index: int) -> None:
            results[index] = function(values[index])

        threads = [Thread(target=work, args=(index,), name=self._name) for index in range(len(values))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return iter(results)
