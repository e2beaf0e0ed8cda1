"""The resize stage: renders each staged source to all sizes, also in staging."""

from __future__ import annotations

from dataclasses import replace

from pipeline.attempt import Attempt
from pipeline.errors import StagedMissing
from pipeline.images.content_id import content_id
from pipeline.images.sandbox import render, render_with_facts
from pipeline.job import Details, Job, Rendered, Source
from pipeline.metrics import counting_unsupported_formats
from pipeline.settings import get_settings
from pipeline.stages import RESIZE
from pipeline.storage.staging import staging
from pipeline.worker.stage import advance
from pipeline.worker.stage_actor import stage_actor


@stage_actor(RESIZE)
def resize_image(attempt: Attempt) -> Job:
    """Render every size of each source. The renditions of a source are staged as one object."""
    return advance(attempt, RESIZE, resize)


def resize(job: Job, source: Source) -> Source:
    """Render one source.

    Raises:
        StagedMissing: the staged bytes are gone, or others than fetch has staged. After a restart at fetch they count
            as they are, because another version of this program may derive other ids from the same bytes.
    """
    settings = get_settings()
    image, told = staging().get(source.original), source.known_content
    # The key of the renditions follows from the bytes that they are made of, whoever wrote those.
    content = replace(told, id=content_id(image, told.recipe))
    if content.id != told.id and not source.restarted:  # such as a file cut short by a crash of the host
        raise StagedMissing(source.original)
    limits = {"max_pixels": settings.max_source_pixels, "max_decoded_pixels": settings.max_decoded_pixels}
    details = None
    with counting_unsupported_formats(image):
        if settings.result_details:
            renditions, facts = render_with_facts(image, content.recipe, **limits)
            details = Details(facts, {name: len(data) for name, data in renditions.items()})
        else:
            renditions = render(image, content.recipe, **limits)
    blob = b"".join(renditions.values())
    key = staging().put(blob, job.staged_key(RESIZE, source, content))
    return replace(source, content=content).resized(Rendered.of(key, renditions, blob), details)
