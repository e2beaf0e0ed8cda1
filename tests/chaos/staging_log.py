"""Workers log their staged objects and hand-overs, and the checker reads these lines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.service import Line

_STAGES = "stages {key} for {job}"
_HANDS_OVER = "has handed over {job}"


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


class StagingLog:
    """The staging lines in a run's logs."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines

    def was_cut_off(self, key: str) -> bool:
        """Return whether a worker that stored `key` died before its hand-over, after another had handed the job over.

        Only then no message has the key. After a hand-over or another put, `key` is cleaned up.
        """
        return any(self._was_cut_off(put) for put in self._puts(key))

    def _was_cut_off(self, put: Line) -> bool:
        hands_over = _HANDS_OVER.format(job=_job(put))
        own = [line for line in self._lines if line.process == put.process and line.at >= put.at]
        last = next((line for line in own if line.is_end or hands_over in line.text), None)
        if last is None or not last.is_end:
            return False
        return any(
            hands_over in line.text and line.at <= last.at and line.process != put.process and line.kind == put.kind
            for line in self._lines
        )

    def history(self, key: str) -> list[Line]:
        """Return the log lines of the jobs that `key` was stored for."""
        jobs = {_job(line) for line in self._puts(key)}
        return [line for line in self._lines if any(job in line.text for job in jobs)]

    def _puts(self, key: str) -> list[Line]:
        return [line for line in self._lines if _STAGES.format(key=key, job="") in line.text]


def _job(put: Line) -> str:
    return put.text.rpartition(" ")[2]
