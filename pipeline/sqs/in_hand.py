"""What a process has in hand: the state that its consumers, its worker threads and its health checks share."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from heapq import heappop, heappush
from queue import PriorityQueue
from typing import Any, Protocol

from pipeline.sqs.leases import Lease, Leases
from pipeline.sqs.queues import LONG_POLL, Queue


class LaneQueue(PriorityQueue[Any]):
    """The messages that wait for a worker's threads: a bulk message starts only when no live message is waiting.

    dramatiq orders its work queue by the actor's priority and by arrival. Here all bulk messages are at its end, and
    dramatiq's order applies within each lane.

    Args:
        is_bulk: Whether a queue belongs to the bulk lane.
        on_live_empty: Called when a thread takes the last waiting live message.

    Attributes:
        live: The number of waiting live messages.
    """

    def __init__(self, is_bulk: Callable[[str], bool], on_live_empty: Callable[[], None]) -> None:
        super().__init__()
        self._is_bulk = is_bulk
        self._on_live_empty = on_live_empty
        self.live = 0

    def _put(self, item: Any) -> None:
        bulk = self._is_bulk(item.message.queue_name)
        self.live += not bulk
        heappush(self.queue, (bulk, item))

    def _get(self) -> Any:
        bulk, item = heappop(self.queue)
        self.live -= not bulk
        if not (bulk or self.live):
            self._on_live_empty()
        return item


#: Messages a second from which batches wait for company: a wait of 0.1 s then brings three. At lower rates, waiting
#: would cost more time than it saves requests.
BUSY_RATE = 30.0

#: Seconds over which the rate is measured, and for which a receive that came back full counts.
BUSY_WINDOW = 1.0


class Pace:
    """How fast messages arrive. Batches wait for company only while that is free: while there is a backlog anyway.

    There is one while a receive returns as many messages as it asked for. The stages after the busiest one never see
    that, but they see messages arrive at its rate.

    Args:
        clock: Returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._arrived: deque[float] = deque(maxlen=int(BUSY_RATE * BUSY_WINDOW))
        self._full_at = -BUSY_WINDOW

    def received(self, count: int, asked: int) -> None:
        """Count the messages of a receive that asked for so many."""
        now = self._clock()
        self._arrived.extend([now] * count)
        if count >= asked > 1:
            self._full_at = now

    @property
    def is_busy(self) -> bool:
        """Whether batches may wait."""
        since = self._clock() - BUSY_WINDOW
        arrived = self._arrived
        return self._full_at > since or (len(arrived) == arrived.maxlen and arrived[0] > since)


class Solo:
    """The permission to have a quarantined message in hand.

    A process has one message of all its quarantine queues at most, so if it dies, only that message is received once
    more. The queues take turns, in the order in which they asked.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._queues: list[str] = []
        self._asking: deque[str] = deque()
        self._holder: str | None = None
        self._empty_polls = 0  # in a row

    def join(self, queue_name: str) -> None:
        """Take part."""
        with self._lock:
            self._queues.append(queue_name)

    def leave(self, queue_name: str) -> None:
        """Take part no longer."""
        with self._lock:
            self._queues.remove(queue_name)
            if queue_name in self._asking:
                self._asking.remove(queue_name)
        self.give_back(queue_name, found=False)

    def take(self, queue_name: str) -> bool:
        """Return whether it is this queue's turn, which lasts until it gives the permission back."""
        with self._lock:
            if self._holder is None:
                if queue_name not in self._asking:
                    self._asking.append(queue_name)
                if self._asking[0] == queue_name:
                    self._holder = self._asking.popleft()
            elif queue_name not in (self._holder, *self._asking):
                self._asking.append(queue_name)
            return self._holder == queue_name

    def give_back(self, queue_name: str, *, found: bool) -> None:
        """End the turn of a queue, in which a message was found or not."""
        with self._lock:
            if self._holder != queue_name:
                return
            self._holder = None
            self._empty_polls = 0 if found else self._empty_polls + 1
        self._wake()

    @property
    def poll(self) -> int:
        """How long to poll, in seconds: not at all until every queue was found empty, and then each for its share."""
        return 0 if self._empty_polls < len(self._queues) else max(1, LONG_POLL // len(self._queues))


class Consuming(Protocol):
    """What the rest of a process sees of a consumer."""

    queue: Queue
    leases: Leases
    asking_since: float | None  #: start of the request that SQS has not answered, in monotonic seconds

    @property
    def is_broken(self) -> bool: ...

    @property
    def last_lease_check(self) -> float: ...

    def wake(self) -> None: ...

    def give_back(self) -> None: ...

    def requeue(self, messages: Any) -> None: ...


class InHand:
    """What this process has in hand.

    Attributes:
        consumers: The consumers, in the order in which they were made.
        solo: The permission to have a quarantined message in hand.
        work_queue: The messages that wait for a thread, once the worker has booted.
        stopping: Set once the process is told to stop.
        pace: How fast messages arrive.
        paused: The queues from which this process receives nothing for now.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.pace = Pace(clock)
        self.consumers: list[Consuming] = []
        self.solo = Solo(self._wake_quarantine)
        self.work_queue: LaneQueue | None = None
        self.stopping = threading.Event()
        self.paused: frozenset[str] = frozenset()
        self._working: set[Lease] = set()

    def begin(self, lease: Lease) -> None:
        """Note that a thread works on a message."""
        self._working.add(lease)

    def end(self, lease: Lease) -> None:
        """Note that no thread works on a message any more."""
        self._working.discard(lease)

    @property
    def working(self) -> int:
        """How many messages threads are working on. Each may soon lead to another send."""
        return len(self._working)

    @property
    def expected_sends(self) -> int:
        """How many sends a batch should wait for: those of all messages in work, but only while that is free."""
        return self.working if self.pace.is_busy else 0

    @property
    def has_live_waiting(self) -> bool:
        """Whether a live message is waiting for a thread of this process."""
        return self.work_queue is not None and self.work_queue.live > 0

    def stop(self) -> None:
        """Receive and start nothing more, and release at once what no thread has started."""
        self.stopping.set()
        for consumer in list(self.consumers):
            consumer.give_back()

    def pause(self, queues: Collection[str]) -> None:
        """Receive nothing more from these queues, and again from all others. Received messages are processed."""
        if self.paused != frozenset(queues):
            self.paused = frozenset(queues)
            self.wake()

    def wake(self) -> None:
        """Let every consumer check again whether it may receive."""
        for consumer in list(self.consumers):
            consumer.wake()

    def _wake_quarantine(self) -> None:
        for consumer in list(self.consumers):
            if consumer.queue.is_quarantine:
                consumer.wake()
