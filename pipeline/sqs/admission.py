"""Admission: what happens to a message that was just received, as a pure function."""

from __future__ import annotations

from enum import Enum, auto

from pipeline.sqs.queues import MAX_RECEIVES, Queue

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


def admit(queue: Queue, receives: int, *, is_due: bool, has_quarantine: bool) -> Admission:
    """Decide what happens to a message that was received from `queue` so often."""
    if not is_due:
        return Admission.HOP
    if queue.is_quarantine:
        return Admission.GIVE_UP if receives >= GIVE_UP_AT else Admission.RUN
    if has_quarantine:
        return Admission.QUARANTINE if receives >= QUARANTINE_AT else Admission.RUN
    return Admission.BURY if receives >= MAX_RECEIVES else Admission.RUN
