"""Workers log their staged objects and hand-overs, and the checker reads these lines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.service import Line

_STAGES = "stages {key} for {job}"
_HANDS_OVER = "has handed over {job}"
_LOST = "leases. Other workers may now receive the messages."


def watch() -> None:
    """Make this worker log each staged object before it is stored, and each job after its hand-over."""
    from pipeline.job import Job
    from pipeline.sqs.broker import SQSBroker
    from pipeline.storage.staging import S3Staging

    logger = logging.getLogger("pipeline.chaos")
    staged_key, put, enqueue = Job.staged_key, S3Staging.put, SQSBroker.enqueue
    owners: dict[str, str] = {}

    def noting_key(job: Job, *args: Any) -> str:
        key = staged_key(job, *args)
        owners[key] = job.id
        return key

    def logging_put(staging: S3Staging, data: bytes, key: str = "") -> str:
        if key in owners:
            logger.info(_STAGES.format(key=key, job=owners[key]))
        return put(staging, data, key)

    def logging_enqueue(broker: SQSBroker, message: Any, **options: Any) -> Any:
        sent = enqueue(broker, message, **options)
        if job := message.kwargs.get("job"):
            logger.info(_HANDS_OVER.format(job=job["id"]))
        return sent

    Job.staged_key, S3Staging.put, SQSBroker.enqueue = noting_key, logging_put, logging_enqueue  # type: ignore[method-assign]


@dataclass(frozen=True)
class Delivery:
    """A message that a worker received, and whether the proxy had made a copy of it."""

    at: float
    message: str
    body: str
    is_copy: bool = False


class StagingLog:
    """The staging lines in a run's logs, and the messages that SQS delivered in it.

    `visibility` is how long a message is hidden after each, in seconds.
    """

    def __init__(self, lines: list[Line], delivered: Sequence[Delivery], visibility: float) -> None:
        self._lines, self._delivered, self._visibility = lines, delivered, visibility

    def was_cut_off(self, key: str) -> bool:
        """Return whether a worker that stored `key` did not hand over, after another had handed the job over.

        It died, or lost its lease because the other had deleted the message. Only then no message has the key. After a
        hand-over or another put, `key` is cleaned up. Both workers had the job at a time, so SQS must have delivered it
        twice: by a copy, by two messages, or because a lease had run out.
        """
        return any(self._was_cut_off(put) for put in self._puts(key))

    def _was_cut_off(self, put: Line) -> bool:
        hands_over = _HANDS_OVER.format(job=_job(put))
        own = [line for line in self._lines if line.process == put.process and line.at >= put.at]
        last = next((line for line in own if line.is_end or hands_over in line.text), None)
        if last is None and self._has_lost_leases(put.process):
            last = self._lines[-1]
        elif last is None or not last.is_end:
            return False
        handed_over_elsewhere = any(
            hands_over in line.text and line.at <= last.at and line.process != put.process and line.kind == put.kind
            for line in self._lines
        )
        return handed_over_elsewhere and self._was_delivered_twice(_job(put), put.kind, until=last.at)

    def _was_delivered_twice(self, job: str, stage: str, until: float) -> bool:
        to_stage = f'"queue_name":"{stage}'
        seen = [each for each in self._delivered if each.at <= until and job in each.body and to_stage in each.body]
        return any(
            again.is_copy or again.message != first.message or again.at - first.at >= self._visibility
            for first, again in pairwise(sorted(seen, key=attrgetter("at")))
        )

    def _has_lost_leases(self, process: str) -> bool:
        return any(_LOST in line.text for line in self._lines if line.process == process)

    def history(self, key: str) -> list[Line]:
        """Return the log lines of the jobs that `key` was stored for."""
        jobs = self.jobs(key)
        return [line for line in self._lines if any(job in line.text for job in jobs)]

    def jobs(self, key: str) -> set[str]:
        """Return the ids of the jobs that `key` was stored for."""
        return {_job(line) for line in self._puts(key)}

    def _puts(self, key: str) -> list[Line]:
        return [line for line in self._lines if _STAGES.format(key=key, job="") in line.text]


def _job(put: Line) -> str:
    return put.text.rpartition(" ")[2]
