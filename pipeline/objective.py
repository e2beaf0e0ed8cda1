"""The objective for live jobs: to be done within 30 s, if their source and receiver answer.

docs/monitoring.md explains it to operators.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from pipeline.errors import Fault, facts_of
from pipeline.stages import NOTIFY

#: Seconds from the acceptance of a job to its last delivery; one of the buckets of `job_seconds`.
WITHIN = 30

#: Seconds after which a download was slow, so that its source did not answer in the sense of the objective.
SLOW_DOWNLOAD = WITHIN / 2


class Side(StrEnum):
    """The side that keeps a job waiting, or makes it fail."""

    SOURCE = "source"
    RECEIVER = "receiver"
    SERVICE = "service"


#: Snoozes because this process has no room. The others are waits for one host.
_NO_ROOM = frozenset({"too_many_slow", "memory_busy"})


def side_of(stage: str, codes: Iterable[str]) -> Side:
    """Return the side behind the errors of one attempt: the service only if all of them are its own."""
    if all(facts_of(code).fault in {Fault.SERVICE, Fault.WORKER} or code in _NO_ROOM for code in codes):
        return Side.SERVICE
    return Side.RECEIVER if stage == NOTIFY.name else Side.SOURCE
