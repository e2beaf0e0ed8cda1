"""What the stages say of each job: one event at each turn, told to whoever listens.

The log, the metrics, the job log and the traces are listeners. None of them can cost a job: what one raises is logged
by its type and ends there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.job import Job

logger = logging.getLogger(__name__)


class Outcome(StrEnum):
    """How a stage's work on a job ended."""

    DONE = "done"
    SNOOZED = "put_off"  #: it was not its turn; nothing was tried
    RETRY = "retry"  #: it failed, and comes again
    GIVEN_UP = "given_up"  #: it failed for good: there is a dead letter
    REJECTED = "rejected"  #: the message asks for nothing that can be done: there is a dead letter


@dataclass(frozen=True)
class Event:
    """One turn of a job. Times are in seconds; `at`, when it ended, is Unix time."""

    stage: str
    job_id: str
    outcome: Outcome
    at: float = field(default_factory=time.time)
    arrived: float = 0.0  #: when the job came to the stage, Unix time; 0: not known
    seconds: float = 0.0  #: how long the stage worked on it
    attempt: int = 1
    code: str = ""  #: of the error, where it did not go well
    message: str = ""  #: its sentence for people
    wait: float = 0.0  #: until it comes again
    job: Job | None = None  #: as it is after this turn; None where the message holds none
    worked_on: tuple[str, ...] = ()  #: the URLs of the sources it was about; in `notify`, the deliveries that failed


Subscriber = Callable[[Event], None]

_subscribers: list[Subscriber] = []


def subscribe(subscriber: Subscriber) -> None:
    """Have `subscriber` told of every event of this process, in the thread that works on the job: it must be quick."""
    if subscriber not in _subscribers:
        _subscribers.append(subscriber)


def unsubscribe(subscriber: Subscriber) -> None:
    """Tell `subscriber` no more."""
    if subscriber in _subscribers:
        _subscribers.remove(subscriber)


def emit(event: Event) -> None:
    """Tell every listener. Never raises."""
    for subscriber in tuple(_subscribers):
        try:
            subscriber(event)
        except Exception as error:
            logger.warning("%s could not take an event (%s).", subscriber, type(error).__name__)
