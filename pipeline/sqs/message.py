"""A received message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dramatiq

from pipeline.sqs.leases import Lease
from pipeline.sqs.settlement import Delete, Plan, Release


class SQSMessage(dramatiq.MessageProxy):
    """A received message. Logs show only its actor and id, because its arguments may be confidential.

    Attributes:
        original: The dramatiq message. It names the queue to which a retry goes.
        lease: The lease on the message.
        queue_name: The queue from which it was received, perhaps a quarantine queue.
        body: Its body in SQS.
        receives: How often SQS has delivered it from this queue.
        sqs_id: The SQS id of the message, or the id that it had before quarantine. Producers do not know it.
        is_quarantined: Whether it was received from a quarantine queue.
        is_given_up: Whether its workers died so often that it must not run.
        began: When a worker thread started the message, or until then when it was received, in monotonic seconds.
        decide: Returns how the message is to be settled, if it was decided.
        ending: How the message ends.
    """

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
        self.original = message
        self.lease = lease
        self.queue_name = queue_name
        self.body = body
        self.receives = receives
        self.sqs_id = sqs_id
        self.is_quarantined = is_quarantined
        self.is_given_up = False
        self.began = lease.since
        self.decide: Callable[[], Plan] | None = None
        self.ending: Delete | Release = Release()

    def settle(self, plan: Plan | Callable[[], Plan]) -> None:
        """Decide how the message is settled after its processing ends. The first decision stands."""
        if self.decide is None:
            self.decide = (lambda: plan) if isinstance(plan, Plan) else plan

    def __str__(self) -> str:
        return f"{self.actor_name}[{self.message_id}]"

    __repr__ = __str__
