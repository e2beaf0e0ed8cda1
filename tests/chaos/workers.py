"""Loaded by the workers in addition to the actors: a shorter visibility timeout, and harmful sources.

The path of a source determines its effect in resize: `/kills` kills the worker, `/oom` runs out of memory at the first
two attempts, `/robbed` loses its staged objects once. While the file CRASH_LOOP exists, everything kills a worker that
is not in quarantine. Run as a program, this is `image-pipeline ingest` with a shorter
visibility timeout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.staging_log import watch

VISIBILITY = int(os.environ["VISIBILITY"])


def plant() -> None:
    """Replace the actors' functions by harmful ones."""
    import actors.resize
    import actors.upload
    import pipeline.sqs.leases
    from pipeline.actors import broker
    from pipeline.settings import get_settings
    from pipeline.storage import s3 as objects
    from pipeline.storage.staging import staging

    broker.visibility_timeout = VISIBILITY
    pipeline.sqs.leases.LAST_BACKOFF = VISIBILITY / 3  # the product's ratio to 45 s
    resize, upload = actors.resize.resize, actors.upload.upload

    def harmful_resize(job: Any, source: Any) -> Any:
        crashes = Path(os.environ.get("CRASH_LOOP", "/never")).exists() and "quarantine" not in " ".join(sys.argv)
        if "/kills" in source.url or crashes:
            os._exit(9)
        if "/oom" in source.url and (is_first(f"oom-1/{job.id}") or is_first(f"oom-2/{job.id}")):
            raise MemoryError
        return robbed("/robbed-source", source.original, resize)(job, source)

    def harmful_upload(job: Any, source: Any) -> Any:
        return robbed("/robbed-rendering", source.rendered.key, upload)(job, source)

    def robbed(path: str, key: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(job: Any, source: Any) -> Any:
            if path in source.url and is_first(f"robbed/{job.id}"):
                staging().delete([key])
            return step(job, source)

        return run

    def is_first(note: str) -> bool:
        bucket = get_settings().s3_bucket
        if objects.head(bucket, note, doing="look for a note"):
            return False
        objects.put(bucket, note, b"", doing="put a note")
        return True

    actors.resize.resize = harmful_resize
    actors.upload.upload = harmful_upload


if __name__ == "__main__":
    import pipeline.worker.ingest
    from pipeline.cli.app import main

    pipeline.worker.ingest.Ingest.__init__.__kwdefaults__["visibility"] = VISIBILITY  # type: ignore[index]
    sys.argv = ["image-pipeline", "ingest"]
    main()
else:
    plant()
    watch()
