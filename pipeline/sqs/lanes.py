"""Two lanes in one worker: a message of a bulk queue is begun only where no other one waits.

dramatiq puts what it receives from all queues into one line, by the priority of the actor and by the time of arrival.
Here bulk messages are at its end, whenever they came; among those of a lane the order is dramatiq's. So a live message
waits for a thread to end what it has in hand, which in resize may wait for its turn.
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
    """The line of messages that wait for a worker's threads.

    Parameters:
        is_bulk: whether a queue is of the bulk lane, by its name.
        relieved: called when the last waiting message that is not bulk was taken.
    """

    def __init__(self, is_bulk: Callable[[str], bool], relieved: Callable[[], None]) -> None:
        super().__init__()
        self._is_bulk = is_bulk
        self._relieved = relieved
        self.live = 0  #: messages that wait and are not bulk

    def _put(self, item: Any) -> None:
        bulk = self._is_bulk(item.message.queue_name)
        self.live += not bulk
        heappush(self.queue, (bulk, item))

    def _get(self) -> Any:
        bulk, item = heappop(self.queue)
        self.live -= not bulk
        if not (bulk or self.live):
            self._relieved()
        return item


class Lanes(dramatiq.Middleware):
    """Gives a worker its `LaneQueue` before its threads start, and begins nothing that waited in it for too long."""

    def before_worker_boot(self, broker: Any, worker: Worker) -> None:
        """Take the place of dramatiq's line."""
        broker.line = worker.work_queue = LaneQueue(broker.is_bulk, broker.wake)

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Leave what was let go meanwhile to whoever has it now."""
        if message.lease.lost:
            raise SkipMessage
