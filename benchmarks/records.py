"""Measures the cost of recording attempts: CPU milliseconds per image for the job log, the traces and the log.

    python benchmarks/records.py [--images 2000]

Each image is one job with four attempts. "emitted" is the CPU time of the working thread, "written" that of the thread
of the job log or of the traces. MongoDB, the embedded server in a process of its own, does not count.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.clients import lazy, mongo
from pipeline.events import Event, Outcome
from pipeline.job import Content, Job, Source
from pipeline.local.embedded import EmbeddedStack
from pipeline.monitoring.job_log.writer import JobLogWriter
from pipeline.monitoring.logs import JsonFormatter, log_event
from pipeline.monitoring.traces import Traces
from pipeline.ops.provision import plan
from pipeline.recipe import Recipe
from pipeline.settings import get_settings
from tests.support.trace_collector import collecting

console = Console()


def attempts(number: int) -> list[Event]:
    """Return the four attempts of one image."""
    recipe = Recipe(get_settings().renditions, "cover")
    source = Source(f"https://example.org/covers/{number}.jpg", ("image_url",))
    job = Job(str(uuid.uuid4()), "THE_SHOW", (source,), payload={"postback_url": "https://example.org/hook"})
    content = Content(uuid.uuid4().hex, ".jpeg", recipe)
    fetched = job.with_sources({source.url: source.fetched("a" * 32, content)})
    published = job.with_sources({source.url: source.published(content)})
    resized = fetched.with_sources({source.url: replace(fetched.sources[0], due="upload")})
    stages = zip(("fetch", "resize", "upload", "notify"), (fetched, resized, published, published), strict=True)
    now = time.time()
    return [
        Event(stage, job.id, Outcome.DONE, at=now, arrived=now - 0.2, seconds=0.1, job=of, worked_on=(source.url,))
        for stage, of in stages
    ]


def measured(name: str, images: list[list[Event]], emit: Callable[[Event], None], finish: Callable[[], None]) -> None:
    """Print CPU milliseconds per image: of emitting, and of everything else in this process until it is written."""
    process, thread = time.process_time(), time.thread_time()
    # Each stage is a process of its own, so no batch holds two attempts of a job.
    for stage in zip(*images, strict=True):
        for number, event in enumerate(stage):
            emit(event)
            if number % 4 == 0:
                time.sleep(0.0005)  # The writing thread works at the same time.
    emitted = time.thread_time() - thread
    finish()
    all_of_it = time.process_time() - process
    written = all_of_it - (time.thread_time() - thread)
    each = 1000 / len(images)
    console.print(f"{name:<12} emitted {emitted * each:.3f}   written {written * each:.3f}", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder, EmbeddedStack(Path(folder)) as stack, collecting() as collector:
        os.environ.update(stack.environ | {"JOBS_MONGO_URL": stack.environ["MONGO_URL"]})
        lazy.forget()
        for change in plan(get_settings(), create_bucket=True):
            change.apply()
        images = [attempts(number) for number in range(count)]
        log = JobLogWriter(capacity=4 * count)
        log.start()
        measured("job log", images, log, lambda: log.stop(120))
        taken = mongo.job_database()["image_pipeline_jobs"].count_documents({})
        if taken != count:
            sys.exit(f"only {taken} of {count} jobs were written")
        with open(os.devnull, "w") as nowhere:
            handler = logging.StreamHandler(nowhere)
            logging.getLogger("pipeline").setLevel(logging.INFO)
            logging.getLogger("pipeline").propagate = False
            logging.getLogger("pipeline").addHandler(handler)
            measured("log, text", images, log_event, lambda: None)
            handler.setFormatter(JsonFormatter())
            measured("log, json", images, log_event, lambda: None)
        # Last, because the collector runs in this process too: its CPU time is part of "written".
        traces = Traces(f"{collector.endpoint}/v1/traces")
        traces.start()
        measured("traces", images, traces, lambda: traces.stop(120))
        if len(collector.spans) != 5 * count:
            sys.exit("some spans were lost")


if __name__ == "__main__":
    main()
