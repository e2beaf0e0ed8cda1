"""A received message, and how its processing is to end."""

from __future__ import annotations

import time
from typing import Any

import dramatiq

from pipeline.sqs.leases import Lease
from pipeline.sqs.wire import SUSPECT, Reason

#: So often is a suspect begun alone before it is given up: at its sixth receive, where each ended a worker.
MAX_TRIALS = 2

#: So often is a suspect sent again as a copy before it is given up, though it ended no worker: nobody could settle it.
#: Each is received four times, at least some seconds apart.
MAX_COPIES = 50


class SQSMessage(dramatiq.MessageProxy):
    """A received message. Shown in logs by actor and id alone: its arguments hold what customers sent."""

    def __init__(self, message: dramatiq.Message[Any], lease: Lease, *, receives: int, sqs_id: str = "") -> None:
        super().__init__(message)
        self.original = message
        self.lease = lease
        self.receives = receives
        self.sqs_id = sqs_id  #: SQS's own id for it: the same each time it or a copy is received; known to nobody else
        self.began = time.monotonic()  #: when a worker thread took it; until then, when it was received
        self.release_after: int | None = None
        self.reason: Reason | None = None
        self.trials: int | None = None  #: how often it had been begun alone in vain, when it was begun so again

    @property
    def is_given_up(self) -> bool:
        """Whether it ended too many workers, when it ran alone, or was received far too often."""
        return (self.trials or 0) >= MAX_TRIALS or self.copies >= MAX_COPIES

    @property
    def is_suspect(self) -> bool:
        """Whether it was received so often that it may be what kills its workers."""
        return SUSPECT in self.options

    @property
    def copies(self) -> int:
        """How often it was sent again as a suspect."""
        return int(self.options.get(SUSPECT, 0))

    def release(self, after: int = 0) -> None:
        """Leave the message, once its processing ends, to whoever receives it `after` so many seconds."""
        self.release_after = after

    def fail_with(self, reason: Reason) -> None:
        """Make the message a dead letter, once its processing ends, for `reason`."""
        self.reason = reason
        self.fail()

    def __str__(self) -> str:
        return f"{self.actor_name}[{self.message_id}]"

    __repr__ = __str__
