"""A received message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dramatiq

from pipeline.sqs.leases import Lease
from pipeline.sqs.queues import GIVE_UP_AT
from pipeline.sqs.settlement import Delete, Plan, Release


class SQSMessage(dramatiq.MessageProxy):
    """A received message. Logs show only its actor and id, because its arguments may be confidential."""

    def __init__(
        self,
        message: dramatiq.Message[Any],
        lease: Lease,
        *,
        queue_name: str,
        body: str = "",
        receives: int = 1,
        sqs_id: str = "",
        is_quarantined: bool = False,
    ) -> None:
        super().__init__(message)
        self.original = message  #: the dramatiq message; it names the queue to which a retry goes
        self.lease = lease
        self.queue_name = queue_name  #: the queue from which it was received, perhaps a quarantine queue
        self.body = body
        self.receives = receives  #: how often SQS has delivered it from this queue
        self.sqs_id = sqs_id  #: its id in SQS, before quarantine; producers do not know it
        self.is_quarantined = is_quarantined
        self.began = lease.since  #: when a thread started it, or until then when it was received, in monotonic seconds
        self.decide: Callable[[], Plan] | None = None  #: returns how it is to be settled, if that was decided
        self.ending: Delete | Release = Release()

    @property
    def is_given_up(self) -> bool:
        """Whether its workers died so often that it must not run."""
        return self.is_quarantined and self.receives >= GIVE_UP_AT

    def settle(self, plan: Plan | Callable[[], Plan]) -> None:
        """Decide how the message is settled after its processing ends. The first decision stands."""
        if self.decide is None:
            self.decide = (lambda: plan) if isinstance(plan, Plan) else plan

    def __str__(self) -> str:
        return f"{self.actor_name}[{self.message_id}]"

    __repr__ = __str__
