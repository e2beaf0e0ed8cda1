"""The work of one stage on a job: all sources that are due, in parallel."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

from dramatiq.errors import BrokerConnectionError
from dramatiq.middleware import TimeLimitExceeded

from pipeline.attempt import Attempt
from pipeline.errors import PipelineError, RetryableError, StagedMissing, without_frames
from pipeline.job import Job, Rendered, Source, Unfinished
from pipeline.stages import FETCH, NOTIFY, RESIZE, Stage
from pipeline.storage.publish import find_published
from pipeline.worker.time_limit import TimeLimit

logger = logging.getLogger(__name__)

#: The part of a job's remaining time that each of two sources may take. The thread of the job, which cannot be
#: interrupted while it waits for them, then keeps the result of one if the other takes too long.
SHARE = 0.98

StageFunction = Callable[[Job, Source], Source]


def advance(attempt: Attempt, stage: Stage, work: StageFunction) -> Job:
    """Run `work` in parallel on every source of the job that is due in `stage`; returns the job with the results.

    Raises:
        Unfinished: At least one source failed. It contains the job with the finished sources, and the errors.
    """
    job = attempt.job
    due = [source for source in job.sources if source.due == stage.name]
    done: dict[str, Source] = {}
    errors: dict[str, PipelineError] = {}

    def take(source: Source, limit: AbstractContextManager[None]) -> None:
        try:
            with limit:
                after = _run(work, job, source)
                after = _with_all_keys(job, after) if attempt.is_repeated else after
            done[source.url] = after
        except (Exception, TimeLimitExceeded) as error:  # one image must not cost the other
            if not isinstance(error, PipelineError):
                log_traceback(stage, error)
            errors[source.url] = without_frames(as_pipeline_error(error))

    if len(due) > 1:
        limit = TimeLimit(SHARE * attempt.seconds_left)
        with ThreadPoolExecutor(max_workers=len(due)) as pool:
            list(pool.map(partial(take, limit=limit), due))
    else:
        for source in due:
            take(source, nullcontext())
    job = job.with_sources(done)
    if errors:
        raise Unfinished((job, errors))
    return job


def _run(work: StageFunction, job: Job, source: Source) -> Source:
    """Work on one source.

    If its staged bytes are gone, its published renditions are used. Without those it starts again at fetch, once.
    """
    try:
        return work(job, source)
    except StagedMissing:
        if source.content and (found := find_published(job.folder, source.content)):
            return source.published(source.content, found.details)
        if source.restarted:
            raise
        return source.back_at_fetch()


def _with_all_keys(job: Job, source: Source) -> Source:
    """Add the staging keys of earlier attempts to a finished source, so that `notify` deletes those objects too."""
    if source.due != NOTIFY.name:
        return source
    original, rendered = (job.staged_key(stage, source, source.known_content) for stage in (FETCH, RESIZE))
    return replace(
        source,
        original=source.original or original,
        rendered=source.rendered if source.rendered.key else Rendered(rendered),
    )


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


def log_traceback(stage: Stage, error: BaseException) -> None:
    """Log where an unexpected error happened, without its text, which may quote a customer's message."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s: unexpected %s at\n%s", stage.name, type(error).__name__, frames)
