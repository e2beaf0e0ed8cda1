"""Puts the running parts together: the broker that all actors share, and what makes a function a stage of the pipeline.

Importing this module reads the settings and sets dramatiq's broker; it opens nothing.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import wraps
from typing import Any

import dramatiq
from dramatiq.encoder import JSONEncoder
from dramatiq.errors import BrokerConnectionError
from dramatiq.middleware import AgeLimit, CurrentMessage, ShutdownNotifications, TimeLimit
from periodiq import PeriodiqMiddleware

from pipeline.clients import aws
from pipeline.errors import PipelineError, Rejected, StagedMissing, without_frames
from pipeline.events import Event, Verdict, listen, tell
from pipeline.job import MAX_PAYLOAD_BYTES, Job, Rendered, Source, Unfinished, UnknownVersion, to_json
from pipeline.metrics import count_event
from pipeline.monitoring.logs import log_event, set_up
from pipeline.monitoring.recorders import Recording
from pipeline.settings import Settings, get_settings, settings_or_exit
from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.consumer import SQSMessage
from pipeline.sqs.lanes import Lanes
from pipeline.sqs.queues import RETENTION
from pipeline.sqs.wire import GROUP
from pipeline.stages import BULK_QUEUES, FETCH, NOTIFY, RESIZE, Lane, Stage, stage_of_queue
from pipeline.storage.publish import is_published
from pipeline.storage.staging import staging
from pipeline.worker.crash_counter import StagedTrials
from pipeline.worker.instrumentation import Operations
from pipeline.worker.middleware import (
    AtWork,
    KeptMemory,
    Notices,
    Outcomes,
    Shutdowns,
    Suspects,
    Unsettled,
    as_pipeline_error,
    attempt_of,
)

logger = logging.getLogger(__name__)


class Encoder(JSONEncoder):
    """dramatiq's JSON, compact, and with `bson.ObjectId` as its 24 hex digits."""

    def encode(self, data: dict[str, Any]) -> bytes:
        return to_json(data).encode()


class StageActor(dramatiq.Actor[..., None]):
    """An actor of a stage: takes `send(payload)` as any actor does, and jobs from other stages by `message_of`."""

    def __init__(self, fn: Callable[..., None], **declared: Any) -> None:
        super().__init__(fn, **declared)
        self.logger = logging.getLogger("dramatiq.actor")  # a logger of ours would show arguments at LEVEL=DEBUG

    def message_with_options(
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> dramatiq.Message[None]:
        """The message of `send(payload)`; a payload too long for a message is put into staging first."""
        message = super().message_with_options(args=args, kwargs=kwargs, **options)
        payload = _payload(message)
        if payload is None or len(to_json(payload).encode()) <= MAX_PAYLOAD_BYTES:
            return message
        try:
            job = Job.accept(payload, job_id=message.message_id, stage_payload=staging().put)
        except Rejected:
            return message  # the worker makes it a dead letter, as it does with short ones
        return message.copy(args=(), kwargs={"job": job.encode()})

    def message_of(self, job: Job) -> dramatiq.Message[None]:
        """The message that hands `job` to this stage, in the job's lane."""
        stage = stage_of_queue(self.queue_name)
        message = super().message_with_options(kwargs={"job": job.encode()})
        return message.copy(queue_name=stage.queue(job.lane) if stage else self.queue_name, options={GROUP: job.folder})


def stage_actor(stage: Stage) -> Callable[[Callable[[Job], Job | None]], StageActor]:
    """Makes a function the actor of `stage`.

    The function gets a job and returns it one step further: it is then sent to the stage that is due next. One that
    returns None ends the job's way. What it raises is settled by `pipeline.worker.middleware.Outcomes`.
    """

    def declare(fn: Callable[[Job], Job | None]) -> StageActor:
        @wraps(fn)
        def run(*_: Any, **__: Any) -> None:
            began = time.monotonic()
            message = current_message()
            try:
                job = job_of(message)
                further = fn(job)
            except (PipelineError, BrokerConnectionError, Unfinished, UnknownVersion) as error:
                raise Unsettled from error
            except Exception as error:
                log_places(stage, error)
                raise Unsettled from error
            tell(
                Event(
                    stage.name,
                    job.id,
                    Verdict.DONE,
                    arrived=message.message_timestamp / 1000,
                    seconds=time.monotonic() - began,
                    attempt=attempt_of(message),
                    job=further or job,
                    worked_on=job.urls_due(stage),
                )
            )
            if further:
                try:
                    pass_on(further)
                except BrokerConnectionError:  # the work is done, and only the hand-over is tried again
                    raise Unsettled from Unfinished((further, {}))
                except Exception as error:
                    log_places(stage, error)
                    raise Unsettled from error

        for queue in stage.queues:
            broker.declare_queue(queue)
        return StageActor(
            run,
            broker=broker,
            actor_name=stage.actor,
            queue_name=stage.name,
            priority=0,
            options={"time_limit": stage.time_limit * 1000},
        )

    return declare


Step = Callable[[Job, Source], Source]


def advance(job: Job, stage: Stage, step: Step) -> Job:
    """The job with every source that is due in `stage` taken one step further, side by side.

    Raises:
        Unfinished: some step raised; it holds the job as far as it came, and the errors.
    """
    message = current_message()
    due = [source for source in job.sources if source.due == stage.name]
    is_repeated = message.receives > 1 or message.is_suspect or attempt_of(message) > 1
    further: dict[str, Source] = {}
    errors: dict[str, PipelineError] = {}

    def take(source: Source) -> None:
        try:
            after = _step_or_restart(job, source, step)
            further[source.url] = _with_all_keys(job, after) if is_repeated else after
        except Exception as error:  # one image never costs the other
            if not isinstance(error, PipelineError):
                log_places(stage, error)
            errors[source.url] = without_frames(as_pipeline_error(error))

    if len(due) > 1:
        with ThreadPoolExecutor(max_workers=len(due)) as pool:
            list(pool.map(take, due))
    else:
        for source in due:
            take(source)
    job = job.with_sources(further)
    if errors:
        raise Unfinished((job, errors))
    return job


def _step_or_restart(job: Job, source: Source, step: Step) -> Source:
    """One step; where its bytes are gone, go on if it is published already, else start again at fetch, once."""
    try:
        return step(job, source)
    except StagedMissing:
        if source.content and is_published(job.folder, source.content):
            return source.published(source.content)
        if source.restarted:
            raise
        return source.afresh()


def _with_all_keys(job: Job, source: Source) -> Source:
    """A source that is done, naming also what earlier attempts may have staged of the same content and this one does
    not know of: `notify` deletes it."""
    if source.due != NOTIFY.name:
        return source
    original, rendered = (job.staged_key(stage, source, source.known) for stage in (FETCH, RESIZE))
    return replace(
        source,
        original=source.original or original,
        rendered=source.rendered if source.rendered.key else Rendered(rendered),
    )


def pass_on(job: Job) -> None:
    """Send a job to the stage that it is due in; returns once SQS has it."""
    actor = broker.get_actor(job.due.actor)
    assert isinstance(actor, StageActor)  # noqa: S101 - every stage's actor is one
    broker.enqueue(actor.message_of(job))


def job_of(message: dramatiq.Message[Any] | SQSMessage, stage_payload: Callable[[bytes], str] | None = None) -> Job:
    """The job in a message of a stage, or the new one that its payload asks for; a received one has its ticket.

    `stage_payload` puts a payload that is too long for a message into staging; by default it is put there.

    Raises:
        Rejected, UnknownVersion: as `Job.accept` and `Job.decode` do.
    """
    if set(message.kwargs) == {"job"} and not message.args:
        job = Job.decode(message.kwargs["job"])
    elif len(message.args) + len(message.kwargs) != 1 or not message.kwargs.keys() <= {"payload"}:
        raise Rejected("bad_job", "The message holds neither a payload nor a job.")
    else:
        job = Job.accept(_payload(message), job_id=message.message_id, stage_payload=stage_payload or staging().put)
    return replace(job, ticket=message.sqs_id) if isinstance(message, SQSMessage) and not job.ticket else job


def current_message() -> SQSMessage:
    """The message that this thread works on."""
    message = CurrentMessage.get_current_message()
    if not isinstance(message, SQSMessage):
        raise RuntimeError("a stage's actor runs in a worker only: use send()")
    return message


def _payload(message: dramatiq.Message[Any] | SQSMessage) -> Any:
    return message.args[0] if message.args else message.kwargs.get("payload")


def log_places(stage: Stage, error: Exception) -> None:
    """Log where something unforeseen happened, but not its text, which may hold what a customer sent."""
    places = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s met an unexpected %s at\n%s", stage.name, type(error).__name__, places)


def make_broker(settings: Settings) -> SQSBroker:
    """A broker by the settings."""
    return SQSBroker(
        namespace=settings.queue_namespace,
        dead_letter_queue=lambda queue: f"{queue.removesuffix(f'_{Lane.BULK.value}')}_dlq",
        client=aws.sqs,
        trials=StagedTrials(),
        put_away=lambda body: staging().put(body),
        is_bulk=BULK_QUEUES.__contains__,
        middleware=[
            Outcomes(settings, job_of, pass_on),
            Operations(settings),
            Notices(settings),
            Recording(settings),
            Suspects(),
            Lanes(),
            Shutdowns(),
            KeptMemory(),
            AgeLimit(),
            TimeLimit(),
            ShutdownNotifications(),
            CurrentMessage(),
            PeriodiqMiddleware(skip_delay=RETENTION),  # a run picked up late is better than one missed
            AtWork(),
        ],
    )


set_up(settings_or_exit())
listen(log_event)
listen(count_event)
dramatiq.set_encoder(Encoder())
broker = make_broker(get_settings())
dramatiq.set_broker(broker)
