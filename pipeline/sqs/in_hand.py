"""The state of a process that its consumers, its worker threads and its health checks share."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection
from heapq import heappop, heappush
from math import inf
from queue import Empty, PriorityQueue
from typing import Any

from pipeline.sqs.leases import Lease
from pipeline.sqs.loop import Clock
from pipeline.sqs.wire import MAX_BATCH

#: Messages within how many seconds make batches wait for others: 0.1 s then brings three. At lower rates, waiting would
#: cost more time than it saves requests. In a shorter window, chance alone makes 20 a second look like 30.
BUSY_COUNT, BUSY_WINDOW = 60, 2.0

#: Seconds after which a thread without work looks again whether to end: usually, and once the process has to stop.
IDLE_STEP, STOP_STEP = 10.0, 0.05


class LaneQueue(PriorityQueue[Any]):
    """The messages that wait for a worker's threads: a bulk message starts only when no live message is waiting.

    dramatiq orders its work queue by the actor's priority and by arrival. Here that order applies within each lane.
    `let_start` holds a lane back. While live messages wait, no bulk message starts, even if those are held back.

    Args:
        is_bulk: Returns whether a queue is bulk.
        on_room: Called when more messages of a lane may be received than before.
        stopping: Set once the process has to stop; `wake` is called after that.
    """

    def __init__(self, is_bulk: Callable[[str], bool], on_room: Callable[[], None], stopping: threading.Event) -> None:
        super().__init__()
        self._is_bulk = is_bulk
        self._on_room = on_room
        self._stopping = stopping
        self.live = 0  #: the number of waiting live messages
        self._starts = [inf, inf]  # how many messages may still start, of the live lane and of the bulk lane

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return a message; if `block`, wait until one may start, or until the process has to stop.

        dramatiq's timeout is not used, because it would wake every idle thread once a second. Without `block`, a
        lane that is held back counts too: dramatiq empties the queue in this way when a worker stops.

        Raises:
            Empty: There is none.
        """
        if not block:
            return super().get(block=False)
        with self.not_empty:
            self.not_empty.wait_for(lambda: self._can_start or self._stopping.is_set(), IDLE_STEP)
            if not self.not_empty.wait_for(lambda: self._can_start, STOP_STEP):
                raise Empty
            item = self._get()
            if self._can_start:  # perhaps the thread that was woken for it came while the lane was held back
                self.not_empty.notify()
            return item

    def may_receive(self, *, bulk: bool) -> bool:
        """Return whether more messages of a lane should be received.

        A bulk message would wait for the live ones, time out before it starts, and be counted as received. A lane that
        is held back needs no more than a batch. Other messages wait better in SQS, whose fair queues keep the flood of
        one folder from delaying other folders.
        """
        has_enough = self._starts[bulk] < inf and self._waiting(bulk=bulk) >= MAX_BATCH
        return not (has_enough or (bulk and self.live))

    def let_start(self, count: float, *, bulk: bool) -> None:
        """Let so many messages of a lane start, and no more until the next call; `math.inf` for any number."""
        with self.not_empty:
            self._starts[bulk] = count
            if self._can_start:
                self.not_empty.notify()
            if count == inf:
                self._on_room()

    def wake(self) -> None:
        """Let waiting threads see that the process has to stop."""
        with self.not_empty:
            self.not_empty.notify_all()

    @property
    def _can_start(self) -> bool:
        return bool(self.queue) and self._starts[self.queue[0][0]] > 0

    def _put(self, item: Any) -> None:
        bulk = self._is_bulk(item.message.queue_name)
        self.live += not bulk
        heappush(self.queue, (bulk, item))

    def _get(self) -> Any:
        bulk, item = heappop(self.queue)
        self._starts[bulk] -= 1
        self.live -= not bulk
        needs_more = self._starts[bulk] < inf and self._waiting(bulk=bulk) == MAX_BATCH - 1
        if needs_more or not (bulk or self.live):
            self._on_room()
        return item

    def _waiting(self, *, bulk: bool) -> int:
        return len(self.queue) - self.live if bulk else self.live


class InHand:
    """The consumers of this process, and the messages that it has received."""

    def __init__(self, clock: Clock) -> None:
        self.consumers: list[Any] = []  #: each an `SQSConsumer`, in the order in which they were made
        self.work_queue: LaneQueue | None = None  #: the messages that wait for a thread, once the worker has booted
        self.working: dict[Lease, bool] = {}  #: whether the message is bulk, by the leases that threads work on
        self.stopping = threading.Event()  #: set once the process has to stop
        self.paused: frozenset[str] = frozenset()  #: the queues from which this process receives nothing for now
        self.alone = threading.Lock()  #: held to receive a quarantined message, of which a process has only one
        self._clock = clock
        self._arrived = [deque[float](maxlen=BUSY_COUNT) for _lane in ("live", "bulk")]

    def may_receive(self, *, bulk: bool) -> bool:
        """Return whether more messages of a lane should be received, as far as the waiting ones decide it."""
        return self.work_queue is None or self.work_queue.may_receive(bulk=bulk)

    @property
    def has_quarantined(self) -> bool:
        """Whether a crash would count against a quarantined message: it is in hand, or its delete is not confirmed."""
        return any(consumer.queue.is_quarantine and not consumer.leases.is_idle for consumer in list(self.consumers))

    def received(self, count: int, asked: int, *, bulk: bool) -> None:
        """Count the messages of a receive that asked for so many. If it came back full, there is a backlog."""
        self._arrived[bulk].extend([self._clock.monotonic()] * (BUSY_COUNT if count >= asked > 1 else count))

    def is_busy(self, *, bulk: bool) -> bool:
        """Whether there is a backlog in this lane somewhere, so that waiting for full batches costs no time.

        Stages after the busiest one never receive full batches, but their messages arrive at its rate.
        """
        arrived = self._arrived[bulk]
        return len(arrived) == BUSY_COUNT and arrived[0] > self._clock.monotonic() - BUSY_WINDOW

    def in_progress(self, *, bulk: bool) -> int:
        """Return how many messages of a lane threads work on."""
        return list(self.working.values()).count(bulk)

    def expected_sends(self, *, bulk: bool) -> int:
        return self.in_progress(bulk=bulk) if self.is_busy(bulk=bulk) else 0

    def stop(self) -> None:
        """Receive and start nothing more, and release at once the messages that no thread has started."""
        self.stopping.set()
        if self.work_queue:
            self.work_queue.wake()
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
            consumer.receiver.wake()
