"""The state of a process that its consumers, its worker threads and its health checks share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from heapq import heappop, heappush
from queue import Empty, PriorityQueue
from typing import TYPE_CHECKING, Any

from pipeline.sqs.leases import Lease
from pipeline.sqs.loop import Clock
from pipeline.sqs.wire import BACKLOG

if TYPE_CHECKING:
    from pipeline.sqs.settlement import SQSMessage

#: Seconds after which a thread without work looks again whether to end: usually, and once the process has to stop.
IDLE_STEP, STOP_STEP = 10.0, 0.05


class LaneQueue(PriorityQueue[Any]):
    """The messages that wait for a worker's threads: a bulk message starts only when no live message is waiting.

    dramatiq orders its work queue by the actor's priority and by arrival. Here that order applies within each lane.

    Args:
        is_bulk: Returns whether a queue is bulk.
        on_room: Called when bulk messages may be received again.
        stopping: Set once the process has to stop; `wake` is called after that.
    """

    def __init__(self, is_bulk: Callable[[str], bool], on_room: Callable[[], None], stopping: threading.Event) -> None:
        super().__init__()
        self._is_bulk = is_bulk
        self._on_room = on_room
        self._stopping = stopping
        self.live = 0  #: the number of waiting live messages

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return a message; if `block`, wait until there is one, or until the process has to stop.

        dramatiq's timeout is not used, because it would wake every idle thread once a second.

        Raises:
            Empty: There is none.
        """
        if not block:
            return super().get(block=False)
        with self.not_empty:
            self.not_empty.wait_for(lambda: self.queue or self._stopping.is_set(), IDLE_STEP)
            if not self.not_empty.wait_for(lambda: self.queue, STOP_STEP):
                raise Empty
            return self._get()

    def drain(self) -> list[Any]:
        """Take all waiting messages."""
        with self.mutex:
            return [self._get().message for _ in range(len(self.queue))]

    def wake(self) -> None:
        """Let waiting threads see that the process has to stop."""
        with self.not_empty:
            self.not_empty.notify_all()

    def _put(self, item: Any) -> None:
        bulk = self._is_bulk(item.message.queue_name)
        self.live += not bulk
        heappush(self.queue, (bulk, item))

    def _get(self) -> Any:
        bulk, item = heappop(self.queue)
        self.live -= not bulk
        if not (bulk or self.live):
            self._on_room()
        return item


class InHand:
    """The register of a process: its consumers, the messages that they have received, and the attempts in progress.

    Everything that counts these reads it: lanes, metrics, health checks, heartbeats and pauses.

    Args:
        clock: The time.
        is_bulk: Returns whether a queue is bulk.
    """

    def __init__(self, clock: Clock, is_bulk: Callable[[str], bool]) -> None:
        self.consumers: list[Any] = []  #: each an `SQSConsumer`, in the order in which they were made
        self.work_queue: LaneQueue | None = None  #: the messages that wait for a thread, once the worker has booted
        self.working: dict[Lease, SQSMessage] = {}  #: the messages that threads work on, until they are settled
        self.started: dict[str, float] = {}  #: when a thread last started a message, by queue; Unix time
        self.stopping = threading.Event()  #: set once the process has to stop
        self.stopped_at: float | None = None  #: when that was, in monotonic seconds
        self._close_by: float | None = None
        self.alone = threading.Lock()  #: held to receive a quarantined message, of which a process has only one
        self._pauses: dict[str, tuple[frozenset[str], str]] = {}
        self._clock = clock
        self._is_bulk = is_bulk

    def may_receive(self, *, bulk: bool) -> bool:
        """Return whether more messages of a lane should be received.

        A bulk message would wait for the live ones, time out before it starts, and be counted as received.
        """
        return not (bulk and self.work_queue and self.work_queue.live)

    @property
    def waiting_or_working(self) -> int:
        """The number of messages that occupy a thread or will occupy one."""
        return sum(consumer.admitted for consumer in list(self.consumers))

    @property
    def has_quarantined(self) -> bool:
        """Whether a crash would count against a quarantined message: it is in hand, or its delete is not confirmed."""
        return any(consumer.queue.is_quarantine and not consumer.leases.is_idle for consumer in list(self.consumers))

    def is_crowded(self, *, bulk: bool) -> bool:
        """Return whether a backlog takes the threads from other queues of a lane. Bulk messages wait for live ones."""
        return any(each.has_backlog for each in list(self.consumers) if each.queue.bulk or not bulk)

    def has_backlog(self, *, bulk: bool) -> bool:
        """Return whether more messages of a lane wait in SQS, here or where a message in progress comes from.

        Stages after the busiest one never receive full batches, so messages carry the fact along.
        """
        return any(each.has_backlog for each in list(self.consumers) if each.queue.bulk == bulk) or any(
            message.options.get(BACKLOG) for message in self._working(bulk=bulk)
        )

    def expected_sends(self, *, bulk: bool) -> int:
        """Return how many threads may soon send messages of a lane, if there is a backlog; without one, 0.

        In a backlog, waiting for full batches costs no time.
        """
        return len(self._working(bulk=bulk)) if self.has_backlog(bulk=bulk) else 0

    @property
    def running(self) -> list[SQSMessage]:
        """The messages whose actors run. A thread that waits for SQS to settle its message is not counted."""
        return [message for message in list(self.working.values()) if message.lease.began is not None]

    def start(self, message: SQSMessage) -> None:
        """Record that this thread starts a message."""
        message.began = message.lease.began = self._clock.monotonic()
        message.began_at = self.started[message.queue_name] = self._clock.time()
        self.working[message.lease] = message

    def _working(self, *, bulk: bool) -> list[SQSMessage]:
        return [message for message in list(self.working.values()) if self._is_bulk(message.queue_name) == bulk]

    def stop(self) -> None:
        """Receive and start nothing more, and release at once the messages that no thread has started."""
        self.stopped_at = self._clock.monotonic()
        self.stopping.set()
        if self.work_queue:
            self.work_queue.wake()
        for consumer in list(self.consumers):
            consumer.give_back()

    def close_by(self, latest: float) -> float:
        """Return when all consumers have to be closed: as the first consumer asked at a stop, or `latest`."""
        if not self.stopping.is_set():
            return latest
        self._close_by = self._close_by or latest
        return self._close_by

    def begin(self) -> None:
        """Begin to receive, perhaps after a stop."""
        self.stopped_at = self._close_by = None
        self.stopping.clear()

    @property
    def paused(self) -> dict[str, str]:
        """The queues from which this process receives nothing for now, and why; empty if an operator wants it."""
        return {queue: why for queues, why in list(self._pauses.values()) for queue in queues}

    def pause(self, queues: Collection[str], *, by: str = "operator", why: str = "") -> None:
        """Receive nothing more from these queues, and end the earlier pause by the same side.

        Received messages are processed. A side other than the operator names its reason; without one, its pause ends.
        """
        paused = frozenset(queues) if why or by == "operator" else frozenset[str]()
        if self._pauses.get(by, (frozenset(), "")) != (paused, why):
            self._pauses[by] = paused, why
            self.wake()

    def wake(self) -> None:
        """Let every consumer check again whether it may receive."""
        for consumer in list(self.consumers):
            consumer.receiver.wake()
