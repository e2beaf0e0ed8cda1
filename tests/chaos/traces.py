"""Which worker put what in staging, and whether it could tell of it: workers log it, the checker reads it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.service import Line

#: What the supervisor says of a process that ended.
RESTARTS = "it starts again"

_STAGES = "stages {key} for {job}"
_HANDS_OVER = "has handed over {job}"


def watch() -> None:
    """Have this worker log what it puts in staging for a job, before it does, and a job that it has handed over."""
    from pipeline.job import Job
    from pipeline.sqs import SQSBroker
    from pipeline.staging import S3Staging

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


class Traces:
    """What the lines of a run say of staging."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines

    def was_cut_off(self, key: str) -> bool:
        """Whether the worker that put `key` last ended before it had handed the job over."""
        puts = self._puts(key)
        if not puts:
            return False
        put = puts[-1]
        ends = (_HANDS_OVER.format(job=_job(put)), RESTARTS)
        after = (line.text for line in self._lines if line.process == put.process and line.at >= put.at)
        return RESTARTS in next((text for text in after if any(end in text for end in ends)), "")

    def story(self, key: str) -> list[Line]:
        """What was said of the jobs that `key` was put for."""
        jobs = {_job(line) for line in self._puts(key)}
        return [line for line in self._lines if any(job in line.text for job in jobs)]

    def _puts(self, key: str) -> list[Line]:
        return [line for line in self._lines if _STAGES.format(key=key, job="") in line.text]


def _job(put: Line) -> str:
    return put.text.rpartition(" ")[2]
