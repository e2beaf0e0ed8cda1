"""Downloads of the fetch stage, within the limits on hosts, memory and time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from pipeline.images.content_id import content_id
from pipeline.images.identify import Identified, identify
from pipeline.job import Content, Job, Known, Source
from pipeline.metrics import counting_unsupported_formats
from pipeline.net.download import Download, download_if_changed
from pipeline.net.download_memory import download_memory
from pipeline.net.host_limits import host_limiter
from pipeline.settings import get_settings
from pipeline.worker.messages import is_source_retried
from pipeline.worker.orders import following


@contextmanager
def downloading(job: Job, source: Source, known: Known | None) -> Iterator[Download]:
    """Download a source, unless its host confirms that it is still as it is `known`. The memory is kept until the end.

    The first attempt is hasty, so that hosts that hang or drip hold their threads only briefly.

    Raises:
        Dropped: An operator's filter matches the source.
    """
    following().check(job, source)
    patient = not get_settings().fetch_retry_delays or is_source_retried()
    slot = partial(host_limiter().slot, lane=job.lane, folder=job.folder, patient=patient)
    with download_memory().share(job.lane) as share:
        validators = known.validators if known else None
        yield download_if_changed(source.url, slot, share=share, hasty=not patient, validators=validators)


def examined(image: bytes) -> tuple[Content, Identified]:
    """Return the name of the content under the present recipe, and the format, of downloaded bytes."""
    settings = get_settings()
    with counting_unsupported_formats(image):
        identified = identify(image, max_pixels=settings.max_source_pixels, formats=settings.output_formats)
    return Content(content_id(image, settings.recipe), identified.extension, settings.recipe), identified
