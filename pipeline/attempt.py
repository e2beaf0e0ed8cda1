"""An attempt of a stage at a job: what the worker knows of it, made once and handed on."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import PipelineError, Retry, RetryableError, Snoozed
from pipeline.job import Job
from pipeline.stages import Lane


@dataclass(frozen=True)
class Attempt:
    """One attempt, from the start of its work. The actor, the retry policy and the event of the attempt read it."""

    stage: str  #: `ingest`, a stage, or the queue of a sweep
    received: Job | None = None  #: the job as it was received; None if the message contains none
    message_id: str = ""
    lane: Lane = Lane.LIVE
    arrived: float = 0.0  #: Unix time at which the job was sent to the stage; 0: not known
    began: float = 0.0  #: when a thread began it, in monotonic seconds
    deadline: float = math.inf  #: when its work is interrupted, in monotonic seconds
    failures: Mapping[str, int] = field(default_factory=dict)  #: failed attempts before it, by the list they followed
    delays: Mapping[Retry, Sequence[float]] = field(default_factory=dict)  #: the lists, in seconds
    is_repeated: bool = False  #: whether a worker may have begun the same work before
    process: str = ""  #: host and number of its process

    @property
    def job(self) -> Job:
        """The job, for those who get only attempts at one.

        Raises:
            ValueError: The message contains none.
        """
        if self.received is None:
            raise ValueError("the message contains no job")
        return self.received

    @property
    def job_id(self) -> str:
        """The public id of the job; of a message without a job, that of the message."""
        return self.received.id if self.received else self.message_id

    @property
    def number(self) -> int:
        """The number of the attempt, from 1. Snoozes do not count."""
        return sum(self.failures.values()) + 1

    @property
    def seconds_left(self) -> float:
        """Seconds until its work is interrupted."""
        return self.deadline - time.monotonic()

    def left(self, retry: Retry) -> Sequence[float]:
        """Return the delays of a list that no failure has used yet."""
        return self.delays.get(retry, ())[self.failures.get(retry, 0) :]

    def is_last_if(self, error: PipelineError) -> bool:
        """Return whether no further attempt follows if this one ends with `error`."""
        if isinstance(error, Snoozed):
            return False
        return not (isinstance(error, RetryableError) and self.left(error.retry))
