"""Events: one for each attempt of a stage at a job.

The log, the metrics, the job log and the traces subscribe to them. An error in a subscriber is logged and does not
affect the job.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.job import CLEAN_UP, Job
from pipeline.objective import Side
from pipeline.stages import NOTIFY

logger = logging.getLogger(__name__)


class Outcome(StrEnum):
    """The result of a stage's attempt at a job."""

    DONE = "done"
    SNOOZED = "put_off"  #: nothing was attempted: the job waits for a slot
    RETRY = "retry"  #: it failed, and will be retried
    DROPPED = "dropped"  #: an operator dropped it
    GIVEN_UP = "given_up"  #: it failed permanently: there is a dead letter
    REJECTED = "rejected"  #: the message is unusable: there is a dead letter


class RecheckOutcome(StrEnum):
    """The outcome of one re-check."""

    NOT_MODIFIED = "not_modified"  #: the host answered 304
    SAME_BYTES = "same_bytes"  #: it sent the same bytes
    CHANGED = "changed"  #: it sent other bytes, and documents have their pictures now
    RENEWED = "renewed"  #: documents that lagged behind have the pictures of the known bytes now
    FAILED = "failed"


@dataclass(frozen=True)
class Event:
    """One attempt at a job. Times are in seconds."""

    stage: str
    job_id: str
    outcome: Outcome
    at: float = field(default_factory=time.time)  #: Unix time of its end
    arrived: float = 0.0  #: Unix time at which the job was sent to the stage; 0: not known
    seconds: float = 0.0  #: duration of the stage's work
    attempt: int = 1
    attempts: int = 0  #: number of the last attempt if every further attempt fails in the same way; 0: there is none
    code: str = ""  #: code of the error, if there was one
    message: str = ""  #: message of the error
    wait: float = 0.0  #: until the retry
    job: Job | None = None  #: after this attempt; None if the message contains none
    worked_on: tuple[str, ...] = ()  #: the URLs of the sources; in `notify`, the deliveries that failed
    made_late_by: Side | None = None  #: the side because of which the next attempt is too late for the objective

    @property
    def took(self) -> float | None:
        """Seconds from the acceptance of the job to its last delivery, if this attempt made it or gave it up."""
        is_end = self.stage == NOTIFY.name and self.outcome in {Outcome.DONE, Outcome.GIVEN_UP}
        if not is_end or not self.job or not self.job.accepted or self.job.deliveries == (CLEAN_UP,):
            return None
        return max(0.0, self.at - self.job.accepted)


Subscriber = Callable[[Event], None]

_subscribers: list[Subscriber] = []


def subscribe(subscriber: Subscriber) -> None:
    """Call `subscriber` with every event of this process. It runs in the thread of the job, so it must be quick."""
    if subscriber not in _subscribers:
        _subscribers.append(subscriber)


def unsubscribe(subscriber: Subscriber) -> None:
    """Stop calling `subscriber`."""
    if subscriber in _subscribers:
        _subscribers.remove(subscriber)


def emit(event: Event) -> None:
    """Call every subscriber. Never raises."""
    for subscriber in tuple(_subscribers):
        try:
            subscriber(event)
        except Exception as error:
            logger.warning("The subscriber %s failed on an event (%s).", subscriber, type(error).__name__)
