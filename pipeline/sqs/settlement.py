"""A received message, its settlement as data, and the executor of that.

A message without a decision is released, so only a confirmed settlement can delete it. `leases.py` makes the requests
that delete and release messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import dramatiq
from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger
from dramatiq_sqs.exceptions import MessageTooLarge

from pipeline.sqs.leases import Lease, sqs_backoff
from pipeline.sqs.queues import GIVE_UP_AT, MAX_MESSAGE_BYTES
from pipeline.sqs.wire import Reason, describe

logger = get_logger(__name__)

#: Seconds until a message that cannot be settled is received again.
RELEASE_DELAY = 15

#: Errors of a send that a repetition meets again: the message is too large, or its content cannot be encoded.
NEVER_SENT = (MessageTooLarge, ValueError, TypeError, RecursionError)


@dataclass(frozen=True)
class Delete:
    """It is done."""


@dataclass(frozen=True)
class Release:
    """It is neither done nor failed, and is received again after some seconds."""

    after: int = 0


@dataclass(frozen=True)
class Bury:
    """It becomes a dead letter with a reason."""

    reason: Reason


@dataclass(frozen=True)
class Enqueue:
    """Send a message, to be received after `delay` milliseconds."""

    message: dramatiq.Message[Any]
    delay: int = 0


@dataclass(frozen=True)
class Letter:
    """Send a message to the dead-letter queue of its queue, with a reason."""

    message: dramatiq.Message[Any]
    reason: Reason


@dataclass(frozen=True)
class Settlement:
    """The ending of a message, and the messages to send before it, in order."""

    ending: Delete | Release | Bury = Release()
    sends: tuple[Enqueue | Letter, ...] = ()


@dataclass(eq=False, repr=False)
class SQSMessage(dramatiq.MessageProxy):
    """A received message. Logs show only its actor and id, because its arguments may be confidential."""

    original: dramatiq.Message[Any]  #: the dramatiq message; it names the queue to which a retry goes
    lease: Lease
    queue_name: str  #: the queue from which it was received, perhaps a quarantine queue
    body: str = ""
    receives: int = 1  #: how often SQS has delivered it from this queue
    sqs_id: str = ""  #: its id in SQS, before quarantine; producers do not know it
    is_quarantined: bool = False
    is_argument: bool = False  #: whether its actor is called with it, instead of with the arguments in it
    decide: Callable[[], Settlement] | None = field(
        default=None, init=False
    )  #: returns its settlement, once it is decided
    ending: Delete | Release = field(default=Release(), init=False)

    def __post_init__(self) -> None:
        super().__init__(self.original)
        self.began = self.lease.since  #: when a thread started it, until then when it was received; monotonic seconds
        self.began_at = 0.0  #: when a thread started it, in Unix time

    @property
    def args(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The arguments that dramatiq calls the actor with."""
        return (self,) if self.is_argument else self.original.args

    @property
    def kwargs(self) -> dict[str, Any]:  # type: ignore[override]
        """The named arguments that dramatiq calls the actor with."""
        return {} if self.is_argument else self.original.kwargs

    @property
    def is_given_up(self) -> bool:
        """Whether it must not run, because too many workers died while they had it."""
        return self.is_quarantined and self.receives >= GIVE_UP_AT

    def settle(self, settlement: Settlement | Callable[[], Settlement]) -> None:
        """Decide how the message is settled after its processing ends. The first decision stands."""
        if self.decide is None:
            self.decide = (lambda: settlement) if isinstance(settlement, Settlement) else settlement

    def __str__(self) -> str:
        return f"{self.actor_name}[{self.message_id}]"

    __repr__ = __str__


class Settling:
    """The settlement of a received message, which may have to wait for SQS. The broker sends."""

    def __init__(self, message: SQSMessage, broker: Any) -> None:
        self._message, self._broker = message, broker
        self._left: list[Enqueue | Letter | Delete | Release | Bury] = []
        self._backoff = sqs_backoff(broker.rng)
        self.ending: Delete | Release = Release()  #: how the message ends, once everything before that is confirmed

    def step(self) -> float | None:
        """Carry out the unconfirmed parts, and never raise; returns the seconds until the next attempt or None."""
        try:
            if not self._left:
                settlement = (self._message.decide or Settlement)()
                self._left = [*settlement.sends, settlement.ending]
            while self._left:
                try:
                    self._carry_out(self._left[0])
                except NEVER_SENT as failure:
                    self._bury_as_received(failure)
                    return None
                del self._left[0]
        except BrokerConnectionError as failure:
            wait = self._backoff.next()
            logger.warning("%s cannot be settled (%s). Next attempt in %.1f s.", self._message, failure, wait)
            return wait
        except BaseException as failure:  # a time limit of dramatiq's own may strike late
            logger.error("%s cannot be settled: %s", self._message, describe(failure))
            self.ending = Release(RELEASE_DELAY)
        return None

    def _bury_as_received(self, failure: Exception) -> None:
        """Make the message a dead letter by its body, which SQS has accepted before, because a part cannot be sent."""
        message, part, home = self._message, self._left[0], self._message.original.queue_name
        logger.error("%s becomes a dead letter, because it cannot be settled: %s", message, describe(failure))
        if isinstance(part, Bury):
            reason = part.reason
        elif isinstance(failure, MessageTooLarge):
            sentence = f"The message that follows is larger than SQS accepts, {MAX_MESSAGE_BYTES} bytes."
            reason = Reason("message_too_large", sentence, home, message.receives)
        else:
            sentence = f"The message that follows cannot be written as JSON ({describe(failure)})."
            reason = Reason("internal_error", sentence, home, message.receives)
        self._broker.bury(home, message.body, reason)
        self.ending = Delete()

    def _carry_out(self, part: Enqueue | Letter | Delete | Release | Bury) -> None:
        match part:
            case Enqueue(message, delay):
                self._broker.enqueue(message, delay=delay)
            case Letter(message, reason):
                self._broker.give_up(message, reason)
            case Bury(reason):
                self._broker.give_up(self._message.original, reason)
                self.ending = Delete()
            case Delete() | Release():
                self.ending = part
