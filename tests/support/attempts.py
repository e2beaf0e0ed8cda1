"""Attempts at jobs, as a worker begins them."""

from __future__ import annotations

import time
from typing import Any

import dramatiq

from pipeline.attempt import Attempt
from pipeline.job import Job
from pipeline.settings import get_settings
from pipeline.sqs.leases import Lease
from pipeline.sqs.settlement import SQSMessage
from pipeline.stages import FETCH, Stage
from pipeline.worker.messages import job_kwargs
from pipeline.worker.retry import delays_of


def received(job: Job, stage: Stage = FETCH) -> SQSMessage:
    """Return the message of a job in a stage, as a thread has begun it."""
    message = dramatiq.Message[None](stage.name, stage.actor, (), job_kwargs(job), {})
    found = SQSMessage(message, Lease("id", "handle", 0.0), stage.name, is_argument=True)
    found.began = time.monotonic()
    return found


def attempt_at(job: Job | None, stage: str = "fetch", **facts: Any) -> Attempt:
    """Return an attempt at a job, without a time limit unless `deadline` is given."""
    return Attempt(stage, job, **{"delays": delays_of(get_settings()), **facts})
