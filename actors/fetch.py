"""The fetch stage: downloads each source into staging."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from pipeline.attempt import Attempt
from pipeline.errors import PipelineError, without_frames
from pipeline.job import Job, Source, Sweep
from pipeline.metrics import UNCHANGED
from pipeline.net.download import Download
from pipeline.settings import get_settings
from pipeline.stages import FETCH
from pipeline.storage.publish import find_published
from pipeline.storage.staging import staging
from pipeline.sweeps import recheck, sources
from pipeline.worker.downloads import downloading, examined
from pipeline.worker.orders import following
from pipeline.worker.stage import advance
from pipeline.worker.stage_actor import stage_actor


@stage_actor(FETCH)
def fetch_image(attempt: Attempt) -> Job | None:
    """Download each source. A source that is already published in every size skips resize and upload.

    A re-check of a source that has not changed ends here.
    """
    sweep = attempt.job.sweep
    if sweep and sweep.is_recheck:
        return fetch_again(attempt, sweep)
    began = time.monotonic()
    return advance(attempt, FETCH, partial(fetch, attempt)).fetched_in(time.monotonic() - began)


def fetch(attempt: Attempt, job: Job, source: Source) -> Source:
    """Download and stage one source, or find that it is already published."""
    following().check(attempt, source)
    known = sources.find_current(source.url)
    published = find_published(job.folder, known.content) if known else None
    with downloading(attempt, source, known if published else None) as found:
        if found.image is None and known and published:
            UNCHANGED.labels(job.lane).inc()
            return replace(source.published(known.content, published.details), has_wrong_type=known.has_wrong_type)
        return _staged(found, job, source)


def fetch_again(attempt: Attempt, sweep: Sweep) -> Job | None:
    """Ask whether a source has changed, and record the answer; returns None unless it has.

    A failure that no further attempt follows is recorded too. It changes no document, so it leaves no dead letter.
    """
    (source,) = attempt.job.sources
    try:
        following().check(attempt, source)
        with downloading(attempt, source, source.known) as found:
            check = recheck.check_of(source, sweep, found)
            if check is None:
                return advance(attempt, FETCH, partial(_staged, found))
    except PipelineError as error:
        if not attempt.is_last_if(without_frames(error)):
            raise
        check = recheck.failed(source, sweep, error)
    sources.record(check)
    return None


def _staged(found: Download, job: Job, source: Source) -> Source:
    image = found.image or b""
    content, is_giant, has_wrong_type = examined(found)
    if job.sweep:
        source = replace(source, size=len(image), validators=found.validators)
    if job.sweep or get_settings().result_details:
        source = replace(source, has_wrong_type=has_wrong_type)
    if published := find_published(job.folder, content):
        UNCHANGED.labels(job.lane).inc()
        return source.published(content, published.details)
    key = staging().put(image, job.staged_key(FETCH, source, content))
    return source.fetched(key, content, giant=is_giant)
