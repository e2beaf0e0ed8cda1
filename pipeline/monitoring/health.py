"""Liveness and readiness of a process.

A process is not live when only a restart would help. It is not ready while it cannot take work, for example during an
outage of SQS, which a restart would not end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from dramatiq.worker import Worker

from pipeline.sqs.leases import MAX_LEASE
from pipeline.sqs.loop import Loop

if TYPE_CHECKING:
    from pipeline.sqs.broker import SQSBroker

#: Seconds without an answer from SQS after which a process is not ready: three of the longest polls.
ANSWER_WITHIN = 60.0

#: Seconds after which a thread of the queue layer counts as hung if it has not done what was due. Each request may take
#: 35 s while SQS fails, and a step makes a few in a row. A thread for which nothing is due is not late.
STEP_WITHIN = 300.0

#: Seconds that a thread may process one message: longer than any time limit. Then SQS gives it to another worker.
WORK_WITHIN = MAX_LEASE

#: Seconds by which the scheduler may be late, because it may have to wait for SQS between two checks.
SCHEDULE_WITHIN = 300.0


class Receiver(Protocol):
    """The state of `ingest` that its health depends on."""

    @property
    def loops(self) -> Iterable[Loop]:
        """Its threads."""

    @property
    def unanswered_since(self) -> float | None:
        """When SQS began to leave requests unanswered, in monotonic seconds; None if it answers."""

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop."""


class Scheduled(Protocol):
    """The state of a periodic task that the scheduler's health depends on."""

    next_check: datetime | None  #: when the scheduler checks it next; None before the first check

    @property
    def overdue(self) -> float:
        """Seconds that a due run has been waiting to be sent; 0: none is."""


class Health(Protocol):
    """The health of a process. Both methods return one sentence per problem."""

    def not_live(self) -> Iterable[str]:
        """Describe the problems that only a restart would solve."""

    def not_ready(self) -> Iterable[str]:
        """Describe why the process takes no work now."""


def _hung(loops: Iterable[Loop]) -> Iterator[str]:
    for loop in loops:
        if not loop.is_alive:
            yield f"{loop.name}: its thread has ended"
        elif loop.late > STEP_WITHIN:
            yield f"{loop.name}: its thread has not done what was due {loop.late:.0f} s ago"


def _unanswered(what: str, since: float | None) -> Iterator[str]:
    if since is not None and time.monotonic() - since > ANSWER_WITHIN:
        yield f"{what}: no answer from SQS for more than {ANSWER_WITHIN:g} s"


class WorkerHealth:
    """Health of a dramatiq worker.

    Args:
        broker: the broker of the process.
        worker: the worker of the process.
    """

    def __init__(self, broker: SQSBroker, worker: Worker) -> None:
        self._broker = broker
        self._worker = worker

    def not_live(self) -> Iterator[str]:
        if self._broker.in_hand.stopping.is_set():  # its threads are ending
            return
        threads = [*self._worker.workers, *self._worker.consumers.values()]
        if ended := sum(not thread.is_alive() for thread in threads):
            yield f"{ended} of {len(threads)} threads of the worker have ended"
        now = time.monotonic()
        for consumer in list(self._broker.in_hand.consumers):
            yield from _hung(consumer.receiver.loops)
        if hanging := sum(now - message.began > WORK_WITHIN for message in self._broker.in_hand.running):
            threads_of = f"{hanging} of {len(self._worker.workers)} threads"
            yield f"{threads_of} have been processing their message for more than {WORK_WITHIN:g} s"

    def not_ready(self) -> Iterator[str]:
        if self._broker.in_hand.stopping.is_set():
            yield "it is stopping"
            return
        receiving = {consumer.queue.name: consumer for consumer in list(self._broker.in_hand.consumers)}
        paused = self._broker.in_hand.paused
        for name in self._worker.consumers:
            if name in paused:
                if paused[name]:
                    yield f"{name}: paused, because {paused[name]}"
            elif name not in receiving or not self._broker.queues.knows_url(name):
                yield f"{name}: the queue has not been reached yet"
            else:
                yield from _unanswered(name, receiving[name].receiver.unanswered_since)


class IngestHealth:
    """Health of `ingest`. Without an input queue it is healthy and idle.

    Args:
        receiver: receives from the input queue; None without an input queue.
    """

    def __init__(self, receiver: Receiver | None) -> None:
        self._receiver = receiver

    def not_live(self) -> Iterator[str]:
        if self._receiver and not self._receiver.is_stopping:
            yield from _hung(self._receiver.loops)

    def not_ready(self) -> Iterator[str]:
        if self._receiver and self._receiver.is_stopping:
            yield "it is stopping"
        elif self._receiver:
            yield from _unanswered("the input queue", self._receiver.unanswered_since)


class SchedulerHealth:
    """Health of the scheduler.

    Args:
        periodics: periodic tasks by the names of their actors.
        clock: returns the current time.
    """

    def __init__(
        self, periodics: Mapping[str, Scheduled], clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._periodics = periodics
        self._clock = clock

    def not_live(self) -> Iterator[str]:
        checks = [periodic.next_check.timestamp() for periodic in self._periodics.values() if periodic.next_check]
        if checks and self._clock().timestamp() > min(checks) + SCHEDULE_WITHIN:
            at = datetime.fromtimestamp(min(checks), UTC)
            yield f"the schedules have not been checked since they were due at {at:%Y-%m-%d %H:%M:%S} UTC"

    def not_ready(self) -> Iterator[str]:
        for name, periodic in self._periodics.items():
            if periodic.overdue > ANSWER_WITHIN:
                yield f"{name}: due for {periodic.overdue:.0f} s and not sent"
