"""Whether a process is well, for those who restart it (liveness), and whether it takes work (readiness).

Liveness is about this process alone: what only a restart can help. SQS being away is none of that: it makes a process
not ready, for as long as it lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from dramatiq.worker import Worker

from pipeline.sqs.leases import MAX_LEASE

if TYPE_CHECKING:
    from pipeline.sqs.broker import SQSBroker

#: Seconds that SQS may owe an answer until a process is not ready: three of the longest polls.
ANSWER_WITHIN = 60.0

#: Seconds without a look at what is held after which the thread that keeps it hangs. Each of its requests may take 35 s
#: while SQS is in trouble, and it makes a few in a row.
LOOK_WITHIN = 300.0

#: Seconds that a thread may have a message in hand: longer than any time limit, and then others have the message.
WORK_WITHIN = MAX_LEASE

#: Seconds by which the scheduler may look later than it said; between two looks it may have to wait for SQS.
TURN_WITHIN = 300.0


class Receiver(Protocol):
    """What `ingest` is doing, as far as its health is concerned."""

    asking_since: float | None  #: since when SQS owes an answer, in monotonic seconds; None: it owes none

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""


class Scheduled(Protocol):
    """A periodic task, as far as its health is concerned."""

    next_check: datetime | None  #: when the scheduler looks at it next; None before its first look

    @property
    def overdue(self) -> float:
        """Seconds since a run was due that could not be sent."""


class Health(Protocol):
    """What a process knows of itself. Both give the sentences that say what is wrong: none where all is well."""

    def not_live(self) -> Iterable[str]:
        """Why only a restart would help."""

    def not_ready(self) -> Iterable[str]:
        """Why it takes no work now."""


def _owes(what: str, since: float | None) -> Iterator[str]:
    if since is not None and time.monotonic() - since > ANSWER_WITHIN:
        yield f"{what}: no answer from SQS for more than {ANSWER_WITHIN:g} s"


class WorkerHealth:
    """That of a dramatiq worker.

    Parameters:
        broker, worker: what runs in the process.
        in_hand: when each thread began the message that it has in hand, in monotonic seconds.
    """

    def __init__(self, broker: SQSBroker, worker: Worker, in_hand: Callable[[], Iterable[float]]) -> None:
        self._broker = broker
        self._worker = worker
        self._in_hand = in_hand

    def not_live(self) -> Iterator[str]:
        """A thread that it cannot do without has ended, or hangs. A worker that stops is live until it has ended."""
        if self._broker.stopping.is_set():
            return
        threads = [*self._worker.workers, *self._worker.consumers.values()]
        if ended := sum(not thread.is_alive() for thread in threads):
            yield f"{ended} of {len(threads)} threads of the worker have ended"
        now = time.monotonic()
        for consumer in list(self._broker.consumers):
            if consumer.is_broken:
                yield f"{consumer.queue_name}: a thread of its consumer has ended"
            elif now - consumer.leases.last_pass > LOOK_WITHIN:
                yield f"{consumer.queue_name}: what is held has not been looked at for {LOOK_WITHIN:g} s"
        hanging = sum(now - began > WORK_WITHIN for began in self._in_hand())
        if hanging >= len(self._worker.workers) > 0:
            yield f"every thread has had its message in hand for more than {WORK_WITHIN:g} s"

    def not_ready(self) -> Iterator[str]:
        """It stops, has not found a queue yet, or SQS does not answer."""
        if self._broker.stopping.is_set():
            yield "it stops"
            return
        receiving = {consumer.queue_name: consumer for consumer in list(self._broker.consumers)}
        for name in self._worker.consumers:
            if name not in receiving or not self._broker.knows_url(name):
                yield f"{name}: the queue is not reached yet"
            else:
                yield from _owes(name, receiving[name].asking_since)


class IngestHealth:
    """That of `ingest`. Where it has no input queue it has nothing to do, and that is well.

    Parameters:
        taking: what it does, and `runs` whether its thread runs; None for nothing.
    """

    def __init__(self, taking: Receiver | None, runs: Callable[[], bool] = lambda: True) -> None:
        self._taking = taking
        self._runs = runs

    def not_live(self) -> Iterator[str]:
        """Its thread has ended, though nobody told it to stop."""
        if self._taking and not (self._taking.is_stopping or self._runs()):
            yield "the thread that takes messages has ended"

    def not_ready(self) -> Iterator[str]:
        """It stops, or SQS does not answer."""
        if self._taking and self._taking.is_stopping:
            yield "it stops"
        elif self._taking:
            yield from _owes("the input queue", self._taking.asking_since)


class SchedulerHealth:
    """That of the scheduler.

    Parameters:
        periodics: what it sends by the clock, by the names of the actors.
        clock: the time.
    """

    def __init__(
        self, periodics: Mapping[str, Scheduled], clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._periodics = periodics
        self._clock = clock

    def not_live(self) -> Iterator[str]:
        """Its loop should have turned again, and has not."""
        looks = [periodic.next_check.timestamp() for periodic in self._periodics.values() if periodic.next_check]
        if looks and self._clock().timestamp() > min(looks) + TURN_WITHIN:
            at = datetime.fromtimestamp(min(looks), UTC)
            yield f"it should have looked at the schedules at {at:%Y-%m-%d %H:%M:%S} UTC, and has not"

    def not_ready(self) -> Iterator[str]:
        """Something is due that could not be sent."""
        for name, periodic in self._periodics.items():
            if periodic.overdue > ANSWER_WITHIN:
                yield f"{name}: due for {periodic.overdue:.0f} s, and not sent"
