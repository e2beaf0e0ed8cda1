"""Admission: what happens to a message that was just received. Everything here is pure."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import dramatiq

from pipeline.sqs.queues import MAX_RECEIVES, Queue
from pipeline.sqs.wire import DUE

#: The receive at which a message moves to quarantine. One receive is normal, and each worker that dies while it leases
#: the message adds one.
QUARANTINE_AT = 4

#: The receive in quarantine at which a message is given up. It was alone in the hands of each worker that died there.
GIVE_UP_AT = 3


class Admission(Enum):
    """What happens to a received message."""

    RUN = auto()
    HOP = auto()  #: it is not due yet, and is sent again with the rest of its delay
    QUARANTINE = auto()  #: it is sent unchanged to the quarantine queue
    GIVE_UP = auto()  #: it is handed on as given up, so that the job gets a result
    BURY = auto()  #: it becomes a dead letter


def admit(queue: Queue, message: dramatiq.Message[Any], receives: int, now: float) -> Admission:
    """Decide what happens to a message that was received from `queue` at Unix time `now`."""
    if message.options.get(DUE, 0) > now * 1000:
        return Admission.HOP
    if queue.is_quarantine:
        return Admission.GIVE_UP if receives >= GIVE_UP_AT else Admission.RUN
    if queue.quarantine:
        return Admission.QUARANTINE if receives >= QUARANTINE_AT else Admission.RUN
    return Admission.BURY if receives >= MAX_RECEIVES else Admission.RUN
