"""Settlement of a message whose stage failed: retry, give up, reject or release. Only this module gives a job up."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.errors import BrokerConnectionError
from dramatiq.errors import Retry as DramatiqRetry
from dramatiq.middleware import MiddlewareError, Shutdown, TimeLimitExceeded

from pipeline.backoff import Backoff
from pipeline.errors import PermanentError, PipelineError, Rejected, Retry, RetryableError, Snoozed
from pipeline.events import Event, Outcome, emit
from pipeline.job import CLEAN_UP, Job, Unfinished, UnknownVersion
from pipeline.settings import Settings
from pipeline.sqs.leases import FIRST_BACKOFF, LAST_BACKOFF
from pipeline.sqs.message import SQSMessage
from pipeline.sqs.queues import RETENTION
from pipeline.sqs.wire import ATTEMPTS, Reason, describe, encode
from pipeline.stages import Stage, stage_of_queue
from pipeline.worker.messages import attempt_of, attempts_of, job_kwargs

if TYPE_CHECKING:
    from pipeline.sqs.broker import SQSBroker

logger = logging.getLogger(__name__)

Part = tuple[Job, dict[str, PipelineError]]
Action = Callable[[], object]

#: Seconds until a job of an unknown version is received again, perhaps by a newer worker.
UNKNOWN_VERSION_DELAY = 30

#: Seconds until a message that could not be settled is received again.
RELEASE_DELAY = 15

#: Each wait is multiplied by a random factor from this range, so that jobs that failed together are retried apart.
JITTER = (0.8, 1.2)


class Unsettled(MiddlewareError, DramatiqRetry):
    """Carries the error of a stage, its cause, to `Settlement`.

    It is a dramatiq Retry, because dramatiq logs the text of all other errors, which may quote a customer's message.
    """


class Settlement(dramatiq.Middleware):
    """Retries, gives up, rejects or releases a message whose actor raised an error.

    It replaces dramatiq's Retries, which loses a message if its retry cannot be sent. It comes first in the list of
    middleware: after-hooks run in reverse order, so the time limit is off before settlement begins.

    Args:
        settings: The delays of retries.
        job_of: Returns the job in a message.
        pass_on: Sends a job to the stage in which it is due.
    """

    def __init__(
        self,
        settings: Settings,
        job_of: Callable[[SQSMessage], Job],
        pass_on: Callable[[Job], None],
    ) -> None:
        self._delays = {
            Retry.SOURCE: settings.fetch_retry_delays,
            Retry.SERVICE: settings.retry_delays,
            Retry.POSTBACK: settings.postback_retry_delays,
        }
        self._job_of = job_of
        self._pass_on = pass_on

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Refuse a message that has killed too many workers."""
        message.began = time.monotonic()
        if message.is_given_up:
            # The sentence contains no count, because a repeated result must have the same body.
            raise Unsettled from PermanentError(
                "worker_crashed", "The job was received again and again, and no worker survived it."
            )

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Settle an error. While SQS fails, the message stays leased and settlement is retried."""
        if exception is None:
            return
        error = exception.__cause__ or exception
        actions: Iterator[Action] | None = None
        action: Action | None = None
        backoff = Backoff(FIRST_BACKOFF, LAST_BACKOFF)
        while True:
            try:
                actions = actions or iter(self._actions(broker, message, error))
                while action := action or next(actions, None):
                    action()
                    action = None
                return
            except (BrokerConnectionError, RetryableError) as failure:
                wait = backoff.next()
                logger.warning("%s cannot be settled (%s). Next attempt in %.1f s.", message, failure, wait)
                if broker.stopping.wait(wait):
                    message.release()
                    return
            except Exception as failure:
                logger.error("%s cannot be settled: %s", message, describe(failure))
                message.release(after=RELEASE_DELAY)
                return

    def _actions(self, broker: SQSBroker, message: SQSMessage, error: BaseException) -> list[Action]:
        """Return the actions that settle a message whose actor raised `error`, each to be done once and in order."""
        stage = stage_of_queue(message.queue_name)
        if isinstance(error, Shutdown):
            return [message.release]
        if stage is None and message.is_given_up:
            reason = as_pipeline_error(error)
            return [partial(message.fail_with, Reason(reason.code, reason.message, stage=message.queue_name))]
        if stage is None:  # not a job: the same message is received again
            return [partial(message.release, RELEASE_DELAY)]
        if isinstance(error, UnknownVersion) and abs(time.time() - message.message_timestamp / 1000) < RETENTION:
            logger.warning("%s has %s. It is left to another worker.", message, error)
            return [partial(broker.enqueue, message.original, delay=UNKNOWN_VERSION_DELAY * 1000)]
        try:
            parts = self._parts(message, stage, error)
        except Rejected as rejected:
            _emit(message, stage, message.message_id, Outcome.REJECTED, rejected)
            return [partial(message.fail_with, _reason(message, stage, rejected))]
        return [action for job, errors in parts for action in self._actions_for(broker, message, stage, job, errors)]

    def _parts(self, message: SQSMessage, stage: Stage, error: BaseException) -> Sequence[Part]:
        """Return the parts of a job to settle separately, each with its errors.

        Raises:
            Rejected: The message does not contain a job.
        """
        if isinstance(error, Rejected):
            raise error
        if isinstance(error, UnknownVersion):
            raise Rejected("unknown_version", f"No worker understood the job for {RETENTION // 86400} days: {error}.")
        if isinstance(error, Unfinished):
            return error.parts
        job = self._job_of(message)
        return [(job, dict.fromkeys(job.urls_due(stage) or job.deliveries or [""], as_pipeline_error(error)))]

    def _actions_for(
        self, broker: SQSBroker, message: SQSMessage, stage: Stage, job: Job, errors: dict[str, PipelineError]
    ) -> Iterator[Action]:
        """Bury what failed permanently, then retry the rest after a wait or send the job to its next stage."""
        waits = {name: wait for name, error in errors.items() if (wait := self._wait(message, error)) is not None}
        given_up = {name: error for name, error in errors.items() if name not in waits}
        if left := given_up.pop(CLEAN_UP, None):  # it expires by itself, so it needs no dead letter
            logger.warning("job %s: its bytes stay in staging until they expire: %s", job.id, left)
        if given_up:
            reason = _reason(message, stage, *given_up.values())
            failed = job.with_errors(stage, given_up)
            _emit(message, stage, job.id, Outcome.GIVEN_UP, *given_up.values(), job=failed, worked_on=tuple(given_up))
            # Each redriven dead letter of a job reports its result under an id of its own.
            redriven = replace(job, redrives=job.redrives + job.letters + 1, letters=0)
            letter = _with_job(message, redriven, **{ATTEMPTS: {}})
            yield partial(broker.bury, message.queue_name, encode(letter), reason)
            job = replace(failed, letters=job.letters + 1)
        if waits:
            again = {name: errors[name] for name in waits}
            wait = max(waits.values())
            outcome = Outcome.SNOOZED if all(isinstance(error, Snoozed) for error in again.values()) else Outcome.RETRY
            _emit(message, stage, job.id, outcome, *again.values(), wait=wait, job=job, worked_on=tuple(again))
            attempts = {ATTEMPTS: _count(message, again)}
            yield partial(broker.enqueue, _with_job(message, job, **attempts), delay=int(wait * 1000))
        elif not errors or job.due is not stage:
            yield partial(self._pass_on, job)

    def _wait(self, message: SQSMessage, error: PipelineError) -> float | None:
        """Return the seconds until the next attempt, or None if the error is final."""
        if isinstance(error, Snoozed):
            return error.wait
        if not isinstance(error, RetryableError):
            return None
        delays, attempt = self._delays[error.retry], attempts_of(message).get(error.retry, 0)
        if attempt >= len(delays):
            return None
        jittered = delays[attempt] * random.uniform(*JITTER)  # noqa: S311 - no secret is drawn
        if error.retry_after is None:
            return jittered
        # A source sets the time of the next request; a postback's receiver may only delay it (contract, section 4).
        return error.retry_after if error.retry is Retry.SOURCE else max(jittered, error.retry_after)


def as_pipeline_error(error: BaseException) -> PipelineError:
    """Return an error with a code. Unexpected errors are retried, because another machine may succeed."""
    match error:
        case PipelineError():
            return error
        case TimeLimitExceeded():
            return RetryableError("time_limit", "The stage took longer than its time limit.")
        case MemoryError():
            return RetryableError("out_of_memory", "The stage ran out of memory.")
        case BrokerConnectionError():
            return RetryableError("sqs_error", "A message to the next stage could not be sent.")
    return RetryableError("internal_error", f"The stage failed with an unexpected {type(error).__name__}.")


def _count(message: SQSMessage, errors: dict[str, PipelineError]) -> dict[str, int]:
    """Return the message's failed attempts, with one more for each kind of retry in `errors`."""
    attempts = attempts_of(message)
    made = [error for error in errors.values() if isinstance(error, RetryableError) and not isinstance(error, Snoozed)]
    for retry in {error.retry for error in made}:
        attempts[retry] = attempts.get(retry, 0) + 1
    return attempts


def _with_job(message: SQSMessage, job: Job, **options: Any) -> dramatiq.Message[Any]:
    """Return the message with its job replaced."""
    changed: dramatiq.Message[Any] = message.copy(args=(), kwargs=job_kwargs(job), options=options)
    return changed


def _reason(message: SQSMessage, stage: Stage, *errors: PipelineError) -> Reason:
    return Reason(
        code=errors[0].code,
        message=_sentences(errors),
        stage=stage.name,
        attempts=attempt_of(message),
        first=message.message_timestamp / 1000,
        last=time.time(),
    )


def _emit(
    message: SQSMessage, stage: Stage, job_id: str, outcome: Outcome, *errors: PipelineError, **more: Any
) -> None:
    """Emit the event of a failed attempt."""
    emit(
        Event(
            stage.name,
            job_id,
            outcome,
            arrived=message.message_timestamp / 1000,
            seconds=time.monotonic() - message.began,
            attempt=attempt_of(message),
            code=errors[0].code,
            message=_sentences(errors),
            **more,
        )
    )


def _sentences(errors: Sequence[PipelineError]) -> str:
    """Return the sentences of the errors, each once."""
    return " ".join(dict.fromkeys(error.message for error in errors))
