"""upload: from staged renditions to public objects."""

from __future__ import annotations

from pipeline.attempt import Attempt
from pipeline.job import Job, Source
from pipeline.stages import UPLOAD
from pipeline.storage.publish import publish
from pipeline.storage.staging import staging
from pipeline.worker.stage import advance
from pipeline.worker.stage_actor import stage_actor


@stage_actor(UPLOAD)
def upload_image(attempt: Attempt) -> Job:
    """Put every rendition of each source under its final key."""
    return advance(attempt, UPLOAD, upload)


def upload(job: Job, source: Source) -> Source:
    """Publish one source."""
    renditions = source.rendered.split(staging().get(source.rendered.key))
    publish(job.folder, source.known_content, renditions, source.details.facts if source.details else None)
    return source.published(source.known_content)
