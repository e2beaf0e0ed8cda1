"""The fetch stage: downloads each source into staging."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from pipeline.errors import PipelineError, without_frames
from pipeline.events import RecheckOutcome
from pipeline.images.content_id import content_id
from pipeline.images.details.facts import is_wrong_type
from pipeline.images.identify import identify
from pipeline.job import Content, Job, Known, Source, Sweep
from pipeline.metrics import UNCHANGED
from pipeline.net.download import Download, download_if_changed
from pipeline.net.download_memory import download_memory
from pipeline.net.host_limits import host_limiter
from pipeline.settings import get_settings
from pipeline.stages import FETCH
from pipeline.storage.publish import Published, find_published
from pipeline.storage.staging import staging
from pipeline.sweeps import sources
from pipeline.sweeps.sources import Check
from pipeline.worker.messages import is_given_up, is_source_retried
from pipeline.worker.stage import advance
from pipeline.worker.stage_actor import stage_actor


@stage_actor(FETCH)
def fetch_image(job: Job) -> Job | None:
    """Download each source. A source that is already published in every size skips resize and upload.

    A re-check of a source that has not changed ends here.
    """
    if job.sweep and job.sweep.is_recheck:
        return recheck(job, job.sweep)
    return advance(job, FETCH, fetch)


def fetch(job: Job, source: Source) -> Source:
    """Download and stage one source, or find that it is already published."""
    known, published = _known(job, source)
    with _downloading(job, source, known) as found:
        if found.image is None and known and published:
            UNCHANGED.labels(job.lane).inc()
            sources.saved(known)
            return replace(source.published(known.content, published.details), has_wrong_type=known.has_wrong_type)
        return _staged(found, job, source)


def recheck(job: Job, sweep: Sweep) -> Job | None:
    """Ask whether a source has changed, and record the answer; returns None unless it has.

    A failure that no further attempt follows is recorded too. It changes no document, so it leaves no dead letter.
    """
    (source,) = job.sources
    ended = partial(Check, source.url, run=sweep.run, group=sweep.cover)
    try:
        with _downloading(job, source, source.known) as found:
            if found.image is None and source.known:
                sources.saved(source.known)
                check = ended(RecheckOutcome.NOT_MODIFIED)
            elif known := _same_bytes(found, source, sweep):
                check = ended(RecheckOutcome.SAME_BYTES, known)
            else:
                return advance(job, FETCH, partial(_staged, found))
    except PipelineError as error:
        if not is_given_up(without_frames(error)):
            raise
        check = ended(RecheckOutcome.FAILED, error=error.code)
    sources.record(check)
    return None


@contextmanager
def _downloading(job: Job, source: Source, known: Known | None) -> Iterator[Download]:
    """Download a source within the limits on hosts and memory.

    The first attempt is hasty, so that hosts that hang or drip hold their threads only briefly.
    """
    patient = not get_settings().fetch_retry_delays or is_source_retried()
    slot = partial(host_limiter().slot, lane=job.lane, folder=job.folder, patient=patient)
    with download_memory().share(job.lane) as share:
        validators = known.validators if known else None
        yield download_if_changed(source.url, slot, share=share, hasty=not patient, validators=validators)


def _known(job: Job, source: Source) -> tuple[Known, Published] | tuple[None, None]:
    """Return what is known of a source, if its renditions are published in the job's folder."""
    record = sources.find(source.url)
    if not (record and record.known and record.known.validators and record.fits(get_settings().recipe)):
        return None, None
    if not record.may_be_asked_by_validators(datetime.now(UTC)):
        return None, None
    published = find_published(job.folder, record.known.content)
    return (record.known, published) if published else (None, None)


def _same_bytes(found: Download, source: Source, sweep: Sweep) -> Known | None:
    """Return what is known now, if the documents have the pictures of these bytes."""
    image = found.image or b""
    recipe = source.known.content.recipe if source.known else get_settings().recipe
    if content_id(image, recipe) != sweep.held:
        return None
    if source.known:
        return replace(source.known, size=len(image), validators=found.validators)
    identified = identify(image, max_pixels=get_settings().max_source_pixels)
    content = Content(sweep.held, identified.extension, recipe)
    return Known(content, len(image), found.validators, is_wrong_type(found.content_type, identified.format))


def _staged(found: Download, job: Job, source: Source) -> Source:
    image, recipe = found.image or b"", get_settings().recipe
    identified = identify(image, max_pixels=get_settings().max_source_pixels)
    content = Content(content_id(image, recipe), identified.extension, recipe)
    if job.sweep:
        source = replace(source, size=len(image), validators=found.validators)
    if job.sweep or get_settings().result_details:
        source = replace(source, has_wrong_type=is_wrong_type(found.content_type, identified.format))
    if published := find_published(job.folder, content):
        UNCHANGED.labels(job.lane).inc()
        return source.published(content, published.details)
    key = staging().put(image, job.staged_key(FETCH, source, content))
    return source.fetched(key, content, giant=identified.is_giant)
