"""Decides how the message of a failed stage is settled: retry, give up, reject or release.

Only this module gives a job up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dramatiq
from dramatiq.errors import Retry as DramatiqRetry
from dramatiq.middleware import MiddlewareError

from pipeline.attempt import Attempt
from pipeline.errors import Dropped, PermanentError, PipelineError, Rejected, Snoozed
from pipeline.events import Event, Outcome, emit
from pipeline.job import CLEAN_UP, Job, Unfinished, UnknownVersion
from pipeline.objective import side_of
from pipeline.sqs.queues import RETENTION
from pipeline.sqs.settlement import Bury, Delete, Enqueue, Letter, Settlement, SQSMessage
from pipeline.sqs.wire import ATTEMPTS, CODE, Reason
from pipeline.stages import Stage, stage_of_queue
from pipeline.worker.long_bodies import asked_again
from pipeline.worker.messages import attempt_at, job_kwargs
from pipeline.worker.retry import RetryDecision, RetryPolicy
from pipeline.worker.stage import as_pipeline_error

logger = logging.getLogger(__name__)

Part = tuple[Job, dict[str, PipelineError]]

#: Seconds until a job of an unknown version is received again, perhaps by a newer worker.
UNKNOWN_VERSION_DELAY = 30


class Unsettled(MiddlewareError, DramatiqRetry):
    """Carries an attempt and its error, the cause, from a stage to `Failures`.

    It is a dramatiq Retry, because dramatiq logs the text of all other errors, which may quote a customer's message.
    """

    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self.attempt = attempt


@dataclass(frozen=True)
class Decision:
    """The settlement of a failed message, and the events that report its attempt."""

    settlement: Settlement
    events: Sequence[Event] = ()


class Failures(dramatiq.Middleware):
    """Retries, gives up, rejects or releases a message whose actor raised an error.

    It replaces dramatiq's Retries, which loses a message if its retry cannot be sent. `job_of` returns the job in a
    message, and `message_of` the message that hands a job to the stage in which it is due.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        job_of: Callable[[SQSMessage], Job],
        message_of: Callable[[Job], dramatiq.Message[Any]],
    ) -> None:
        self._policy = policy
        self._job_of, self._message_of = job_of, message_of

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Refuse a message that has killed too many workers."""
        if message.is_given_up:
            # The sentence contains no count, because a repeated result must have the same body.
            sentence = "The job was received again and again, and no worker survived it."
            raise Unsettled(attempt_at(message)) from PermanentError("worker_crashed", sentence)

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Decide how an error is settled. The queue layer asks again while the decision itself fails, in staging."""
        if exception is not None:
            error = exception.__cause__ or exception
            attempt = exception.attempt if isinstance(exception, Unsettled) else attempt_at(message)
            failed = Failed(message, attempt, error, time.time(), time.monotonic() - attempt.began)
            message.settle(partial(self._decide_and_report, failed))

    def _decide_and_report(self, failed: Failed) -> Settlement:
        with asked_again():
            decision = self.decide(failed)
        for event in decision.events:
            emit(event)
        return decision.settlement

    def decide(self, failed: Failed) -> Decision:
        """Return how the message of a failed attempt is settled."""
        stage = stage_of_queue(failed.message.queue_name)
        if stage is None:
            return Decision(self._settle_without_job(failed, as_pipeline_error(failed.error)))
        try:
            parts = self._parts(failed, stage)
        except UnknownVersion as unknown:
            return self._leave(failed, unknown)
        except Rejected as rejected:
            return self._reject(failed, rejected)
        steps = [step for job, errors in parts for step in self._settle_part(failed, stage, job, errors)]
        sends = tuple(step for step in steps if not isinstance(step, Event))
        return Decision(Settlement(Delete(), sends), [step for step in steps if isinstance(step, Event)])

    def _leave(self, failed: Failed, unknown: UnknownVersion) -> Decision:
        """Leave a message to a worker that knows its version. It is sent again, so that its receives do not add up."""
        message = failed.message
        if abs(failed.now - message.message_timestamp / 1000) < RETENTION:
            logger.warning("%s has %s. It is left to another worker.", message, unknown)
            return Decision(Settlement(Delete(), (Enqueue(message.original, UNKNOWN_VERSION_DELAY * 1000),)))
        sentence = f"No worker understood the job for {RETENTION // 86400} days: {unknown}."
        return self._reject(failed, Rejected("unknown_version", sentence))

    def _reject(self, failed: Failed, error: Rejected) -> Decision:
        event = failed.event(failed.message.message_id, Outcome.REJECTED, error)
        return Decision(Settlement(Bury(failed.reason(error))), [event])

    def _settle_without_job(self, failed: Failed, error: PipelineError) -> Settlement:
        """Settle a message that contains no job: a page of a sweep."""
        decision = self._policy.decide(error, failed.attempt)
        if decision.wait is None:
            return Settlement(Bury(failed.reason(error)))
        again = failed.message.original.copy(options={ATTEMPTS: _count(failed.attempt, [decision])})
        return Settlement(Delete(), (Enqueue(again, int(decision.wait * 1000)),))

    def _parts(self, failed: Failed, stage: Stage) -> Sequence[Part]:
        """Return the parts of a job to settle separately, each with its errors.

        Raises:
            Rejected: The message contains no job.
            UnknownVersion: Another version of this software wrote the job, whatever its error is.
        """
        error = failed.error
        if isinstance(error, Rejected | UnknownVersion):
            raise error
        if isinstance(error, Unfinished):
            return error.parts
        job = failed.attempt.received or self._job_of(failed.message)
        return [(job, dict.fromkeys(job.urls_due(stage) or job.deliveries or [""], as_pipeline_error(error)))]

    def _settle_part(
        self, failed: Failed, stage: Stage, job: Job, errors: dict[str, PipelineError]
    ) -> Iterator[Enqueue | Letter | Event]:
        """Bury what failed permanently, then retry the rest after a wait or send the job to its next stage."""
        message, attempt = failed.message, failed.attempt
        decided = {name: self._policy.decide(error, attempt) for name, error in errors.items()}
        waits = {name: decision.wait for name, decision in decided.items() if decision.wait is not None}
        given_up = {name: error for name, error in errors.items() if name not in waits}
        if dropped := {name: error for name, error in given_up.items() if isinstance(error, Dropped)}:
            given_up = {name: error for name, error in given_up.items() if name not in dropped}
            job = job.with_errors(stage, dropped)
            if all(error.silent for error in dropped.values()) and job.is_dropped and not job.sweep:
                job = replace(job, deliveries=())
            yield failed.event(job.id, Outcome.DROPPED, *dropped.values(), job=job, worked_on=tuple(dropped))
        if left := given_up.pop(CLEAN_UP, None):  # it expires by itself, so it needs no dead letter
            logger.warning("job %s: its bytes stay in staging until they expire: %s", job.id, left)
        if given_up:
            after, why = job.with_errors(stage, given_up), given_up.values()
            yield failed.event(job.id, Outcome.GIVEN_UP, *why, job=after, worked_on=tuple(given_up))
            # Each redriven dead letter of a job reports its result under an id of its own.
            redriven = job.redriven(job.redrives + job.letters + 1)
            yield Letter(_with_job(message, redriven, **{ATTEMPTS: {}}), failed.reason(*why))
            job = replace(after, letters=job.letters + 1)
        if waits:
            wait, again = max(waits.values()), [errors[name] for name in waits]
            outcome = Outcome.SNOOZED if all(isinstance(error, Snoozed) for error in again) else Outcome.RETRY
            decisions = [decided[name] for name in waits]
            more: dict[str, Any] = {"wait": wait, "attempts": max(decision.of for decision in decisions)}
            if job.accepted and waits.keys() != {CLEAN_UP}:
                by, was_late = side_of(attempt.stage, (error.code for error in again)), job.is_late
                job = job.delayed(by, failed.now + wait)
                more["made_late_by"] = by if job.is_late and not was_late else None
            yield failed.event(job.id, outcome, *again, **more, job=job, worked_on=tuple(waits))
            options = {ATTEMPTS: _count(attempt, decisions), CODE: again[0].code}
            yield Enqueue(_with_job(message, job, **options), int(wait * 1000))
        elif job.deliveries != () and (not errors or job.due is not stage):
            yield Enqueue(self._message_of(job))


def _count(attempt: Attempt, decisions: Iterable[RetryDecision]) -> dict[str, int]:
    """Return the failed attempts by list of delays, with one more for each list that a decision used."""
    used = dict.fromkeys(decision.counted for decision in decisions if decision.counted)
    return {**attempt.failures} | {retry: attempt.failures.get(retry, 0) + 1 for retry in used}


def _with_job(message: SQSMessage, job: Job, **options: Any) -> dramatiq.Message[Any]:
    return message.original.copy(args=(), kwargs=job_kwargs(job), options=options)


@dataclass(frozen=True)
class Failed:
    """An attempt that ended with an error, at Unix time `now` after some seconds."""

    message: SQSMessage
    attempt: Attempt
    error: BaseException
    now: float
    seconds: float

    def reason(self, *errors: PipelineError) -> Reason:
        """Return why the message becomes a dead letter."""
        attempt = self.attempt
        return Reason(errors[0].code, _sentences(errors), attempt.stage, attempt.number, attempt.arrived, last=self.now)

    def event(self, job_id: str, outcome: Outcome, *errors: PipelineError, **more: Any) -> Event:
        attempt = self.attempt
        made = partial(Event, attempt.stage, job_id, outcome, arrived=attempt.arrived, seconds=self.seconds)
        return made(attempt=attempt.number, code=errors[0].code, message=_sentences(errors), **more)


def _sentences(errors: Sequence[PipelineError]) -> str:
    return " ".join(dict.fromkeys(error.message for error in errors))
