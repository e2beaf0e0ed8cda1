"""Settlement: how a received message ends, as data, and the executor that carries it out.

A message that nothing was decided about is released, so only a confirmed settlement can delete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dramatiq
from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger

from pipeline.errors import RetryableError
from pipeline.sqs.leases import sqs_backoff
from pipeline.sqs.wire import Reason, describe

logger = get_logger(__name__)

#: Seconds until a message that cannot be settled is received again.
RELEASE_DELAY = 15


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
class Plan:
    """How a message ends, and what is sent before that, in order."""

    ending: Delete | Release | Bury = Release()
    sends: tuple[Enqueue | Letter, ...] = ()


class Settling:
    """The settlement of a received message, an `SQSMessage`, which may have to wait for SQS. The broker sends."""

    def __init__(self, message: Any, broker: Any) -> None:
        self._message = message
        self._broker = broker
        self._left: list[Enqueue | Letter | Delete | Release | Bury] = []
        self._backoff = sqs_backoff(broker.rng)
        self.ending: Delete | Release = Release()  #: how the message ends, once everything before that is confirmed

    def step(self) -> float | None:
        """Carry out what is not confirmed yet, and never raise; returns the seconds until the next attempt or None."""
        try:
            if not self._left:
                plan = self._message.decide()
                self._left = [*plan.sends, plan.ending]
            while self._left:
                self._carry_out(self._left[0])
                del self._left[0]
        except (BrokerConnectionError, RetryableError) as failure:
            wait = self._backoff.next()
            logger.warning("%s cannot be settled (%s). Next attempt in %.1f s.", self._message, failure, wait)
            return wait
        except BaseException as failure:  # a time limit of dramatiq's own may strike late
            logger.error("%s cannot be settled: %s", self._message, describe(failure))
            self.ending = Release(RELEASE_DELAY)
        return None

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
