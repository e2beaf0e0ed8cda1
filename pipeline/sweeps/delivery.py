"""The delivery of a sweep's job: its result goes to the documents that the job was made for."""

from __future__ import annotations

from datetime import UTC, datetime

from pipeline.job import Job, Sweep
from pipeline.payload import Payload
from pipeline.sweeps import recheck, sources
from pipeline.sweeps.documents import WriteBack
from pipeline.sweeps.sources import SourceCheck, known_of
from pipeline.sweeps.sweep import write_back


def write_to_documents(job: Job, sweep: Sweep, result: Payload) -> None:
    """Write the result of a sweep's job to its documents, and what is known of the sources now."""
    stored = to_write_back(job, result)
    if sweep.is_recheck:
        recheck.write_back(sweep, job.sources[0], stored)
        return

    for source in job.sources:
        if source.size and not source.error:
            sources.record(SourceCheck(source.url, None, known_of(source)))
    write_back(sweep, stored)


def to_write_back(job: Job, result: Payload) -> WriteBack:
    """Return what a sweep's job writes to its documents, by image field.

    Errors that were given up come first, because the document shows only the first error.
    """
    now = datetime.now(UTC)
    failed = sorted((source for source in job.sources if source.error), key=lambda source: not source.given_up)
    return {
        "stored": {
            name: result[f"{name}_info"] for source in job.sources if not source.error for name in source.fields
        },
        "errors": {
            name: {"field": name, **result[f"{name}_error"], "at": now} for source in failed for name in source.fields
        },
        "given_up": any(source.given_up for source in job.sources),
    }
