"""Which worker put what in staging, and whether it could tell of it: workers log it, the checker reads it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.service import Line

_STAGES = "stages {key} for {job}"
_HANDS_OVER = "has handed over {job}"


def watch() -> None:
    """Have this worker log what it puts in staging for a job, before it does, and a job that it has handed over."""
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
    """What the lines of a run say of staging."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines

    def was_cut_off(self, key: str) -> bool:
        """Whether a worker that put `key` ended before it had handed the job over, and another had done so by then.

        Only then does nobody know of what it put: after a put that is told of, or done again, `key` is cleaned up.
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
        """What was said of the jobs that `key` was put for."""
        jobs = {_job(line) for line in self._puts(key)}
        return [line for line in self._lines if any(job in line.text for job in jobs)]

    def _puts(self, key: str) -> list[Line]:
        return [line for line in self._lines if _STAGES.format(key=key, job="") in line.text]


def _job(put: Line) -> str:
    return put.text.rpartition(" ")[2]
