"""Every metric of the service, as data. docs/monitoring.md says what each means to an operator.

Names and units by Prometheus's conventions: https://prometheus.io/docs/practices/naming/. The registry is our own, so a
producer's program that imports the actors finds none of this among its own metrics. Counting opens nothing: what serves
the numbers is `pipeline.monitoring.http_server`.

Every label's values are bounded: they come from the code, but for HTTP statuses, of which there are 500.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from pipeline.events import Event, Outcome
from pipeline.stages import FETCH, Lane

PREFIX = "image_pipeline"

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

#: Seconds: from a lookup of what is published to the time limit of a stage.
WORK_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

#: Seconds: from no wait at all to a night's backlog.
WAIT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)


def _counter(name: str, says: str, *labels: str) -> Counter:
    return Counter(name, says, labels, namespace=PREFIX, registry=REGISTRY)


def _gauge(name: str, says: str, *labels: str) -> Gauge:
    return Gauge(name, says, labels, namespace=PREFIX, registry=REGISTRY)


def _histogram(name: str, says: str, *labels: str, buckets: Iterable[float]) -> Histogram:
    return Histogram(name, says, labels, namespace=PREFIX, registry=REGISTRY, buckets=tuple(buckets))


# Jobs.
JOBS = _counter("jobs_total", "Turns of jobs in a stage, by how they ended.", "stage", "lane", "outcome")
ERRORS = _counter("errors_total", "Turns of jobs that did not go well, by the error's code.", "stage", "code")
STAGE_SECONDS = _histogram(
    "stage_seconds", "Seconds that a stage worked on a job.", "stage", "lane", buckets=WORK_BUCKETS
)
QUEUE_WAIT_SECONDS = _histogram(
    "queue_wait_seconds",
    "Seconds from handing a job to a stage until a thread first began it.",
    "stage",
    "lane",
    buckets=WAIT_BUCKETS,
)

# Images.
UNCHANGED = _counter("unchanged_sources_total", "Sources whose renditions were all published already.", "lane")
SNOOZED = _counter("put_off_sources_total", "Times that a source's host had no turn for it, by why.", "code")
OPEN_CIRCUITS = _gauge("resting_hosts", "Hosts that are left alone for a while, because they only failed.")
FETCHED_BYTES = _counter("fetched_bytes_total", "Bytes of sources downloaded, those of failed downloads included.")
STORED_BYTES = _counter("stored_bytes_total", "Bytes of renditions put in the bucket.")
STORED_RENDITIONS = _counter("stored_renditions_total", "Renditions put in the bucket.")

# AWS.
REQUESTS = _counter("aws_requests_total", "Requests to AWS, by what came of them.", "service", "operation", "result")

# Queues: asked of SQS by the process `ingest` alone.
QUEUE_MESSAGES = _gauge("queue_messages", "Messages in a queue, as SQS counts them.", "queue", "stage", "lane", "state")
DEAD_LETTERS = _gauge("dead_letters", "Messages in a dead-letter queue, as SQS counts them.", "queue", "stage")

# Processes.
PROCESS = _gauge("process_info", "1; the labels tell what the process is.", "process", "queues", "version")
LIVE = _gauge("live", "1 while the process is well, 0 where only a restart would help.", "process")
READY = _gauge("ready", "1 while the process takes work, 0 while it does not reach SQS, or stops.", "process")
THREADS = _gauge("threads", "Worker threads of the process.", "process")
BUSY_THREADS = _gauge("busy_threads", "Worker threads that have a message in hand.", "process")
HELD_MESSAGES = _gauge("held_messages", "Messages received and not yet done, in this process.", "queue")
OLDEST_HELD_SECONDS = _gauge("oldest_held_seconds", "Seconds since the oldest held message was received.", "queue")

# The clock.
SCHEDULE_SENT = _gauge("schedule_sent_timestamp_seconds", "The time of the schedule that was sent last.", "sweep")
SCHEDULE_OVERDUE = _gauge("schedule_overdue_seconds", "Seconds since a time of the schedule that is not sent.", "sweep")
SWEEP_TAKEN = _gauge("sweep_taken_timestamp_seconds", "When a worker last took a page of a sweep.", "sweep")

_STATUS = re.compile("http_[1-5][0-9]{2}")

#: The statuses of "not there", by the operations for which that is an answer like any other: a rendition that is new, a
#: redirect queue that somebody named. S3 says 403 where the caller may not list, SQS 400.
_MISSING = {"HeadObject": {403, 404}, "GetObject": {403, 404}, "GetQueueUrl": {400}}


def count_event(event: Event) -> None:
    """Count one turn of a job: a listener of `pipeline.events`."""
    lane = event.job.lane if event.job else Lane.LIVE
    JOBS.labels(event.stage, lane, event.outcome).inc()
    if event.outcome is Outcome.SNOOZED:
        SNOOZED.labels(event.code).inc(len(event.worked_on))
        return
    if event.outcome is not Outcome.REJECTED:  # on which nothing was done
        STAGE_SECONDS.labels(event.stage, lane).observe(event.seconds)
    if event.code:
        ERRORS.labels(event.stage, bounded(event.code)).inc()


def count_hand_over() -> None:
    """Count one message that `ingest` handed to the fetch stage."""
    JOBS.labels("ingest", Lane.LIVE, Outcome.DONE).inc()


def bounded(code: str) -> str:
    """`code`, or `http_other` for a status that HTTP does not have: a server may answer any number.

    >>> bounded("http_404"), bounded("http_799"), bounded("too_large")
    ('http_404', 'http_other', 'too_large')
    """
    return "http_other" if code.startswith("http_") and not _STATUS.fullmatch(code) else code


def count_request(service: str, operation: str, status: int | None, requests: int = 1) -> None:
    """Count requests to `service` (`s3`, `sqs`) by their HTTP `status`, None where there was no answer.

    The label `result` is `ok`, `missing` (looked for and not there), `refused` (3xx and 4xx), `failed` (5xx) or
    `no_answer`.
    """
    REQUESTS.labels(service, operation, _result(operation, status)).inc(requests)


def _result(operation: str, status: int | None) -> str:
    if status is None:
        return "no_answer"
    if status in _MISSING.get(operation, ()):
        return "missing"
    if status >= 500:
        return "failed"
    return "refused" if status >= 300 else "ok"


def expect(stages: Iterable[str]) -> None:
    """Show what `stages` count from the start, at zero: else Prometheus does not see the first of anything."""
    for stage in stages:
        for lane in Lane:
            STAGE_SECONDS.labels(stage, lane)
            QUEUE_WAIT_SECONDS.labels(stage, lane)
            for outcome in Outcome:
                JOBS.labels(stage, lane, outcome)
            if stage == FETCH.name:
                UNCHANGED.labels(lane)


def expect_ingest() -> None:
    """The same for what `ingest` counts."""
    for outcome in (Outcome.DONE, Outcome.REJECTED):
        JOBS.labels("ingest", Lane.LIVE, outcome)
