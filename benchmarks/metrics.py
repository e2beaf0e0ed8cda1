"""Measures the cost of metrics: CPU time per image, and per scrape.

python benchmarks/metrics.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import generate_latest

from pipeline import metrics
from pipeline.events import Event, Outcome
from pipeline.job import Job, Source
from pipeline.stages import STAGES

#: What one cover with three renditions adds to one attempt per stage: its chunks, its renditions, and its
#: requests if no batch is shared.
CHUNKS, RENDITIONS, REQUESTS = 8, 3, 20

ROUNDS = 20_000

JOB = Job(id="1", folder="F", sources=(Source("https://example.org/a.png", ("image_url",)),))


def attempts() -> None:
    for stage in STAGES:
        metrics.count_event(Event(stage.name, "1", Outcome.DONE, seconds=0.1, job=JOB))


def waits() -> None:
    for stage in STAGES:
        metrics.QUEUE_WAIT_SECONDS.labels(stage.name, JOB.lane).observe(0.1)


def volumes() -> None:
    for _ in range(CHUNKS):
        metrics.FETCHED_BYTES.inc(65536)
    for _ in range(RENDITIONS):
        metrics.STORED_BYTES.inc(10_000)
        metrics.STORED_RENDITIONS.inc()


def requests() -> None:
    for _ in range(REQUESTS):
        metrics.count_request("s3", "PutObject", 200)


def cpu(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the CPU microseconds of one call."""
    began = time.process_time()
    for _ in range(rounds):
        work()
    return (time.process_time() - began) / rounds * 1e6


def main() -> None:
    total = 0.0
    for what, work in {"attempts": attempts, "waits": waits, "volumes": volumes, "requests": requests}.items():
        took = cpu(work)
        total += took
        print(f"{what:<10} {took:7.1f} µs per image")  # noqa: T201
    print(f"{'together':<10} {total:7.1f} µs per image, {total / len(STAGES):.1f} µs per stage")  # noqa: T201
    metrics.expect(stage.name for stage in STAGES)
    print(f"{'a scrape':<10} {cpu(lambda: generate_latest(metrics.REGISTRY), 200) / 1000:7.2f} ms")  # noqa: T201


if __name__ == "__main__":
    main()
