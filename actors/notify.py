"""notify: from a job that has ended to those who asked, or to the documents that a sweep found."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from pipeline.broker import current_message, stage_actor
from pipeline.documents import Outcome
from pipeline.errors import PipelineError, RetryableError
from pipeline.job import Job, Payload, Unfinished, parse_json
from pipeline.middleware import attempt_of
from pipeline.notifications import postback, redirect
from pipeline.publish import image_info
from pipeline.settings import get_settings
from pipeline.stages import NOTIFY
from pipeline.staging import staging
from pipeline.walk import write_back

logger = logging.getLogger(__name__)

#: How a result is delivered, by the name of the payload's field that asks for it.
DELIVERIES: dict[str, Callable[[str, str, Payload], object]] = {
    "redirect_queue": redirect,
    "postback_url": postback,
}

#: The delivery of a sweep's job, its only one.
DOCUMENT = "document"

#: Comes after the deliveries, and is tried again as they are: the bytes of the job in staging are forgotten.
CLEAN_UP = "clean-up"


@stage_actor(NOTIFY)
def notify_result(job: Job) -> None:
    """Deliver the result to each place that was asked, then forget the bytes; what fails is tried again by itself."""
    payload = parse_json(staging().get(job.payload_key)) if job.payload_key else job.payload or {}
    result = job.result(payload, lambda content: image_info(job.folder, content))
    failed: dict[str, PipelineError] = {}
    for name in job.deliveries or [*asked_for(job, payload), CLEAN_UP]:
        try:
            if name == CLEAN_UP:
                forget_bytes(job)
            elif job.sweep:
                write_back(job.sweep, outcome(job, result))
            else:
                DELIVERIES[name](job.report_id, payload[name], result)
        except PipelineError as error:
            failed[name] = error
    if failed:
        raise Unfinished(*((replace(job, deliveries=(name,)), {name: error}) for name, error in failed.items()))


def asked_for(job: Job, payload: Payload) -> list[str]:
    """The deliveries to make. Only a sweep makes one to MongoDB, and what a sweep asks for is nothing else."""
    return [DOCUMENT] if job.sweep else [name for name in DELIVERIES if payload.get(name)]


def outcome(job: Job, result: Payload) -> Outcome:
    """How a sweep's job ended, by image field. What was given up comes first among the errors: it says why to wait."""
    now = datetime.now(UTC)
    failed = sorted((source for source in job.sources if source.error), key=lambda source: not source.given_up)
    return {
        "stored": {
            name: result[f"{name}_info"] for source in job.sources if not source.error for name in source.fields
        },
        "errors": {
            name: {"field": name, **result[f"{name}_error"], "at": now} for source in failed for name in source.fields
        },
        "given_up": any(source.given_up for source in job.sources),
    }


def forget_bytes(job: Job) -> None:
    """Remove what the job has in staging, but keep the bytes of a failed source: it may be sent through again.

    Raises:
        RetryableError: staging is in trouble. The last attempt only logs it: what is left expires, and is worth no dead
            letter.
    """
    try:
        staging().delete([key for source in job.sources if not source.error for key in source.staged_keys])
    except PipelineError as error:
        if isinstance(error, RetryableError) and attempt_of(current_message()) <= len(get_settings().retry_delays):
            raise
        logger.warning("job %s: its bytes stay in staging until they expire: %s", job.id, error)
