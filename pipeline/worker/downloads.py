"""Downloads of the fetch stage, within the limits on hosts, memory and time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from pipeline.attempt import Attempt
from pipeline.errors import Retry
from pipeline.images.content_id import content_id
from pipeline.images.details.facts import is_wrong_type
from pipeline.images.identify import identify
from pipeline.job import Content, Known, Source
from pipeline.metrics import RECHECK_SAVED_BYTES, counting_unsupported_formats
from pipeline.net.download import Download, download_if_changed
from pipeline.net.download_memory import download_memory
from pipeline.net.host_limits import host_limiter
from pipeline.settings import get_settings


@contextmanager
def downloading(attempt: Attempt, source: Source, known: Known | None) -> Iterator[Download]:
    """Download a source, unless its host confirms that it is still as it is `known`. The memory is kept until the end.

    The first attempt is hasty, so that hosts that hang or drip hold their threads only briefly.
    """
    job = attempt.job
    patient = not attempt.delays.get(Retry.SOURCE) or bool(attempt.failures.get(Retry.SOURCE))
    slot = partial(host_limiter().slot, lane=job.lane, folder=job.folder, patient=patient)
    with download_memory().share(job.lane) as share:
        validators = known.validators if known else None
        found = download_if_changed(source.url, slot, share=share, hasty=not patient, validators=validators)
        if found.image is None and known:
            RECHECK_SAVED_BYTES.inc(known.size)
        yield found


class Examined(NamedTuple):
    """Facts about downloaded bytes that need no decoding."""

    content: Content
    is_giant: bool
    has_wrong_type: bool  #: whether the host sent another Content-Type than that of the bytes


def examined(found: Download) -> Examined:
    """Name the content of a download under the present recipe.

    Raises:
        PermanentError: The bytes are not an image that is accepted.
    """
    settings, image = get_settings(), found.image or b""
    with counting_unsupported_formats(image):
        identified = identify(image, max_pixels=settings.max_source_pixels, formats=settings.output_formats)
    content = Content(content_id(image, settings.recipe), identified.extension, settings.recipe)
    return Examined(content, identified.is_giant, is_wrong_type(found.content_type, identified.format))
