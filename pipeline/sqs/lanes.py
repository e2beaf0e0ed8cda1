"""Two lanes in one worker: a bulk message starts only when no live message is waiting.

dramatiq keeps the messages of all queues in one work queue, ordered by the actor's priority and by arrival. Here all
bulk messages are at its end, and dramatiq's order applies within each lane. A live message may still wait until a
thread finishes its current message.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from queue import PriorityQueue
from typing import Any

import dramatiq
from dramatiq.middleware import SkipMessage
from dramatiq.worker import Worker


class LaneQueue(PriorityQueue[Any]):
    """The messages that wait for a worker's threads.

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


class Lanes(dramatiq.Middleware):
    """Gives a worker its `LaneQueue`, and skips messages whose lease was lost while they waited in it."""

    def before_worker_boot(self, broker: Any, worker: Worker) -> None:
        """Replace dramatiq's work queue before the threads start."""
        broker.work_queue = worker.work_queue = LaneQueue(broker.is_bulk, broker.wake)

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Skip a message that another worker has received meanwhile."""
        if message.lease.is_lost:
            raise SkipMessage
