"""Makes a function the dramatiq actor of a stage, and sends jobs from one stage to the next."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import dramatiq
from dramatiq.errors import BrokerConnectionError

from pipeline.attempt import Attempt
from pipeline.errors import PipelineError
from pipeline.events import Event, Outcome, emit
from pipeline.job import Job, Unfinished, UnknownVersion
from pipeline.sqs.settlement import Delete, Enqueue, Settlement, SQSMessage
from pipeline.sqs.wire import GROUP
from pipeline.stages import Stage, stage_of_queue
from pipeline.worker.failures import Unsettled
from pipeline.worker.messages import attempt_at, job_kwargs, job_of
from pipeline.worker.registry import our_broker
from pipeline.worker.stage import log_traceback
from pipeline.worker.time_limit import TimeLimit

#: Errors of a stage that need no traceback in the log.
EXPECTED = (PipelineError, BrokerConnectionError, Unfinished, UnknownVersion)


class StageActor(dramatiq.Actor[..., None]):
    """The actor of a stage. `send(payload)` starts a new job, and `message_of` continues a job from another stage."""

    takes_message = True

    def __init__(self, fn: Callable[..., None], **declared: Any) -> None:
        super().__init__(fn, **declared)
        self.logger = logging.getLogger("dramatiq.actor")  # our own loggers would show arguments at LEVEL=DEBUG

    def message_of(self, job: Job) -> dramatiq.Message[None]:
        """Return the message that hands `job` to this stage, in the job's lane."""
        stage = stage_of_queue(self.queue_name)
        queue = stage.queue(job.lane, giant=job.has_giant) if stage else self.queue_name
        return dramatiq.Message(queue, self.actor_name, (), job_kwargs(job), {GROUP: job.folder})


def stage_actor(stage: Stage) -> Callable[[Callable[[Attempt], Job | None]], StageActor]:
    """Make a function the actor of `stage`.

    The function takes an attempt and returns its job as it is after this stage, or None if it is finished. The returned
    job is sent to its next stage. `pipeline.worker.failures.Failures` handles the errors that the function raises.
    """

    def declare(fn: Callable[[Attempt], Job | None]) -> StageActor:
        @wraps(fn)
        def run(message: SQSMessage) -> None:
            attempt = attempt_at(message)
            try:
                with TimeLimit(attempt.seconds_left):
                    attempt = replace(attempt, received=job_of(message))
                    advanced = fn(attempt)
            except Exception as error:
                if not isinstance(error, EXPECTED):
                    log_traceback(stage, error)
                # The frames of the error may hold an image until SQS answers.
                raise Unsettled(attempt) from error.with_traceback(None)
            job = attempt.job
            emit(
                Event(
                    stage.name,
                    job.id,
                    Outcome.DONE,
                    arrived=attempt.arrived,
                    seconds=time.monotonic() - attempt.began,
                    attempt=attempt.number,
                    job=advanced or job,
                    worked_on=job.urls_due(stage),
                )
            )
            if advanced:  # the hand-over is retried by itself, because the work is done
                message.settle(lambda: Settlement(Delete(), (Enqueue(message_of(advanced)),)))

        broker = our_broker()
        for queue in stage.queues:
            broker.declare_queue(queue)
        return StageActor(
            run,
            broker=broker,
            actor_name=stage.actor,
            queue_name=stage.name,
            priority=0,
            options={},
        )

    return declare


def message_of(job: Job) -> dramatiq.Message[None]:
    """Return the message that hands a job to the stage in which it is due."""
    actor = our_broker().get_actor(job.due.actor)
    assert isinstance(actor, StageActor)  # noqa: S101 - every stage's actor is one
    return actor.message_of(job)
