"""A received message, and the outcome of its processing."""

from __future__ import annotations

import time
from typing import Any

import dramatiq

from pipeline.sqs.leases import Lease
from pipeline.sqs.wire import SUSPECT, Reason

#: How often a suspect may run alone without finishing. If every receive killed a worker, the sixth gives it up.
MAX_TRIALS = 2

#: How many copies of a suspect are sent before it is given up although no trial failed, because no worker could finish
#: it. Each copy is received four times, some seconds apart.
MAX_COPIES = 50


class SQSMessage(dramatiq.MessageProxy):
    """A received message. Logs show only its actor and id, because its arguments may be confidential.

    Attributes:
        original: The dramatiq message.
        lease: The lease on the message.
        receives: How often SQS has delivered it.
        sqs_id: The SQS id of the message, or of the original if this is a copy. Producers do not know it.
        began: When a worker thread started the message, or until then when it was received, in monotonic seconds.
        release_after: Seconds until a released message becomes visible again; None unless it was released.
        reason: Why the message becomes a dead letter; None unless it does.
        trials: How many earlier trials did not finish; None unless the message runs alone.
    """

    def __init__(self, message: dramatiq.Message[Any], lease: Lease, *, receives: int, sqs_id: str = "") -> None:
        super().__init__(message)
        self.original = message
        self.lease = lease
        self.receives = receives
        self.sqs_id = sqs_id
        self.began = time.monotonic()
        self.release_after: int | None = None
        self.reason: Reason | None = None
        self.trials: int | None = None

    @property
    def is_given_up(self) -> bool:
        """Whether too many trials failed, or too many copies were sent."""
        return (self.trials or 0) >= MAX_TRIALS or self.copies >= MAX_COPIES

    @property
    def is_suspect(self) -> bool:
        """Whether it was received so often that it may be killing its workers."""
        return SUSPECT in self.options

    @property
    def copies(self) -> int:
        """How many copies of it were sent because it is a suspect."""
        return int(self.options.get(SUSPECT, 0))

    def release(self, after: int = 0) -> None:
        """Make the message visible again, `after` seconds after its processing ends."""
        self.release_after = after

    def fail_with(self, reason: Reason) -> None:
        """Make the message a dead letter with `reason`, once its processing ends."""
        self.reason = reason
        self.fail()

    def __str__(self) -> str:
        return f"{self.actor_name}[{self.message_id}]"

    __repr__ = __str__
