"""The fetch stage: downloads each source into staging."""

from __future__ import annotations

from functools import partial

from pipeline.images.content_id import content_id
from pipeline.images.identify import identify
from pipeline.job import Content, Job, Source
from pipeline.metrics import UNCHANGED
from pipeline.net.download import download
from pipeline.net.download_memory import download_memory
from pipeline.net.host_limits import host_limiter
from pipeline.recipe import Recipe
from pipeline.settings import get_settings
from pipeline.stages import FETCH
from pipeline.storage.publish import is_published
from pipeline.storage.staging import staging
from pipeline.worker.messages import is_source_retried
from pipeline.worker.stage import advance
from pipeline.worker.stage_actor import stage_actor


@stage_actor(FETCH)
def fetch_image(job: Job) -> Job:
    """Download each source. A source that is already published in every size skips resize and upload."""
    return advance(job, FETCH, fetch)


def fetch(job: Job, source: Source) -> Source:
    """Download and stage one source, or find that it is already published.

    The first attempt is hasty, so that hosts that hang or drip hold their threads only briefly.
    """
    patient = not get_settings().fetch_retry_delays or is_source_retried()
    slot = partial(host_limiter().slot, lane=job.lane, folder=job.folder, patient=patient)
    with download_memory().share(job.lane) as share:
        return _staged(job, source, download(source.url, slot, share=share, hasty=not patient))


def _staged(job: Job, source: Source, image: bytes) -> Source:
    settings = get_settings()
    recipe = Recipe(settings.renditions, settings.resize_fit)
    identified = identify(image, max_pixels=settings.max_source_pixels)
    content = Content(content_id(image, recipe), identified.extension, recipe)
    if is_published(job.folder, content):
        UNCHANGED.labels(job.lane).inc()
        return source.published(content)
    key = staging().put(image, job.staged_key(FETCH, source, content))
    return source.fetched(key, content, giant=identified.is_giant)
