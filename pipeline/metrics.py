"""All metrics of the service, as data. docs/monitoring.md explains each to operators.

Names and units follow https://prometheus.io/docs/practices/naming/. The registry is separate from the default one, so a
program that imports the actors does not find these metrics among its own. `pipeline.monitoring.http_server` serves
them.

The values of every label are bounded: they are constants of the code, or one of 500 HTTP statuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from pipeline.errors import PermanentError
from pipeline.events import Event, Outcome, RecheckOutcome
from pipeline.images.signatures import KNOWN_FORMATS, format_of
from pipeline.job import Job
from pipeline.objective import WITHIN, Side, side_of
from pipeline.stages import FETCH, NOTIFY, RESIZE, Lane

PREFIX = "image_pipeline"

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

#: Seconds: from a check for published renditions to the time limit of a stage.
WORK_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

#: Seconds: from no wait to the backlog of a night.
WAIT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)


def _counter(name: str, help_text: str, *labels: str) -> Counter:
    return Counter(name, help_text, labels, namespace=PREFIX, registry=REGISTRY)


def _gauge(name: str, help_text: str, *labels: str) -> Gauge:
    return Gauge(name, help_text, labels, namespace=PREFIX, registry=REGISTRY)


def _histogram(name: str, help_text: str, *labels: str, buckets: Iterable[float]) -> Histogram:
    return Histogram(name, help_text, labels, namespace=PREFIX, registry=REGISTRY, buckets=tuple(buckets))


# Jobs.
JOBS = _counter("jobs_total", "Attempts at jobs in a stage, by outcome.", "stage", "lane", "outcome")
ERRORS = _counter("errors_total", "Failed attempts at jobs, by error code.", "stage", "code")
STAGE_SECONDS = _histogram(
    "stage_seconds", "Seconds that a stage worked on a job.", "stage", "lane", buckets=WORK_BUCKETS
)
QUEUE_WAIT_SECONDS = _histogram(
    "queue_wait_seconds",
    "Seconds from sending a job to a stage until its first attempt.",
    "stage",
    "lane",
    buckets=WAIT_BUCKETS,
)
JOB_SECONDS = _histogram(
    "job_seconds",
    "Seconds from the acceptance of a job to its last delivery, retries included.",
    "lane",
    "outcome",
    buckets=WAIT_BUCKETS,
)
LATE_JOBS = _counter(
    "late_jobs_total", "Jobs that were not done within 30 s, by the side that caused it.", "lane", "cause"
)

# Images.
UNCHANGED = _counter("unchanged_sources_total", "Sources whose renditions were all published before.", "lane")
UNSUPPORTED_FORMATS = _counter(
    "unsupported_formats_total", "Sources refused as `unsupported_format`, by the format of their bytes.", "format"
)
RECHECKS = _counter("recheck_total", "Sources that a re-check asked for, by outcome.", "outcome")
RECHECK_SAVED_BYTES = _counter(
    "recheck_saved_bytes_total", "Bytes of sources not downloaded because their hosts confirmed that nothing changed."
)
SNOOZED = _counter("put_off_sources_total", "Times that a source waited for a slot at its host, by error code.", "code")
OPEN_RECEIVER_CIRCUITS = _gauge(
    "resting_receivers", "Receivers with an open circuit, by URL: they get no postbacks because they only failed."
)
HOST_REQUESTS = _gauge("host_requests", "Requests in progress, by the speed of their hosts.", "speed")
OPEN_CIRCUITS = _gauge("resting_hosts", "Hosts with an open circuit: they get no requests because they only failed.")
FETCHED_BYTES = _counter("fetched_bytes_total", "Bytes of sources downloaded, including failed downloads.")
STORED_BYTES = _counter("stored_bytes_total", "Bytes of renditions put in the bucket.")
STORED_RENDITIONS = _counter("stored_renditions_total", "Renditions put in the bucket.")

# AWS.
REQUESTS = _counter("aws_requests_total", "Requests to AWS, by result.", "service", "operation", "result")

# Queues. Only the process `ingest` sets these.
QUEUE_MESSAGES = _gauge("queue_messages", "Messages in a queue, as SQS counts them.", "queue", "stage", "lane", "state")
DEAD_LETTERS = _gauge("dead_letters", "Messages in a dead-letter queue, as SQS counts them.", "queue", "stage")

# Processes.
PROCESS = _gauge("process_info", "Always 1; the labels describe the process.", "process", "queues", "version")
LIVE = _gauge("live", "1 while the process works, 0 if only a restart would help.", "process")
READY = _gauge("ready", "1 while the process accepts work, 0 while it cannot reach SQS or is stopping.", "process")
THREADS = _gauge("threads", "Worker threads of the process.", "process")
BUSY_THREADS = _gauge("busy_threads", "Worker threads that are processing a message.", "process")
HELD_MESSAGES = _gauge("held_messages", "Messages that the process has received and not finished.", "queue")
OLDEST_HELD_SECONDS = _gauge("oldest_held_seconds", "Seconds since the oldest held message was received.", "queue")

# Schedules.
SCHEDULE_SENT = _gauge("schedule_sent_timestamp_seconds", "The latest scheduled time that was sent.", "sweep")
SCHEDULE_OVERDUE = _gauge("schedule_overdue_seconds", "Seconds since a scheduled time that was not sent.", "sweep")
SWEEP_TAKEN = _gauge("sweep_taken_timestamp_seconds", "Time at which a worker last started a page of a sweep.", "sweep")

_STATUS = re.compile("http_[1-5][0-9]{2}")

#: Statuses that mean "not found", for operations where that is normal: a new rendition, or a redirect queue from a
#: message. S3 returns 403 if the caller may not list the bucket, SQS returns 400.
_MISSING = {"HeadObject": {403, 404}, "GetObject": {403, 404}, "GetQueueUrl": {400}}


def count_event(event: Event) -> None:
    """Count one attempt at a job; a subscriber of `pipeline.events`."""
    lane = event.job.lane if event.job else Lane.LIVE
    JOBS.labels(event.stage, lane, event.outcome).inc()
    if event.made_late_by:
        LATE_JOBS.labels(lane, event.made_late_by).inc()
    if event.job and event.took is not None:
        _count_end(event, event.job, event.took)
    if event.outcome is Outcome.SNOOZED:
        SNOOZED.labels(event.code).inc(len(event.worked_on))
        return
    if event.outcome is not Outcome.REJECTED:  # no work was done
        STAGE_SECONDS.labels(event.stage, lane).observe(event.seconds)
    if event.code:
        ERRORS.labels(event.stage, bounded(event.code)).inc()


@contextmanager
def counting_unsupported_formats(source: bytes) -> Iterator[None]:
    """Count the format of a source if the context refuses it as `unsupported_format`."""
    try:
        yield
    except PermanentError as error:
        if error.code == "unsupported_format":
            UNSUPPORTED_FORMATS.labels(_format_label(str(format_of(source)))).inc()
        raise


def _format_label(name: str) -> str:
    return name.lower().replace(" ", "_")


def _count_end(event: Event, job: Job, took: float) -> None:
    """Count the end of a job. One that the service gave up is late however soon it ended."""
    failed = [(event.stage, event.code)] if event.code else []
    failed += [(source.error["stage"], source.error["code"]) for source in job.sources if source.error]
    sides = {side_of(stage, [code]) for stage, code in failed}
    outcome = next((side for side in Side if side in sides), Outcome.DONE)
    JOB_SECONDS.labels(job.lane, outcome).observe(took)
    if not job.is_late and (took > WITHIN or outcome is Side.SERVICE):
        cause = outcome if isinstance(outcome, Side) else job.delayed_by or Side.SERVICE
        LATE_JOBS.labels(job.lane, cause).inc()


def count_hand_over() -> None:
    """Count one message that `ingest` sent to the fetch stage."""
    JOBS.labels("ingest", Lane.LIVE, Outcome.DONE).inc()


def bounded(code: str) -> str:
    """Return `code`, or `http_other` for a status outside 100 to 599, because a server may return any number.

    >>> bounded("http_404"), bounded("http_799"), bounded("too_large")
    ('http_404', 'http_other', 'too_large')
    """
    return "http_other" if code.startswith("http_") and not _STATUS.fullmatch(code) else code


def count_request(service: str, operation: str, status: int | None, requests: int = 1) -> None:
    """Count requests to AWS.

    The label `result` is `ok`, `missing` (not found), `refused` (other 3xx and 4xx), `failed` (5xx) or `no_answer`.

    Args:
        service: `s3` or `sqs`.
        operation: its name in AWS's API, such as `GetObject`.
        status: the HTTP status, or None if there was no answer.
        requests: the number of requests.
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
    """Export the counters of `stages` at zero, because Prometheus cannot see an increase from nothing to one."""
    for stage in stages:
        for lane in Lane:
            STAGE_SECONDS.labels(stage, lane)
            QUEUE_WAIT_SECONDS.labels(stage, lane)
            for side in Side:
                LATE_JOBS.labels(lane, side)
            for ended in (Outcome.DONE, *Side) if stage == NOTIFY.name else ():
                JOB_SECONDS.labels(lane, ended)
            for outcome in Outcome:
                JOBS.labels(stage, lane, outcome)
            if stage == FETCH.name:
                UNCHANGED.labels(lane)
        for known in KNOWN_FORMATS if stage in {FETCH.name, RESIZE.name} else ():
            UNSUPPORTED_FORMATS.labels(_format_label(known))
        for ended in RecheckOutcome if stage in {FETCH.name, NOTIFY.name} else ():
            RECHECKS.labels(ended)


def expect_ingest() -> None:
    """Export the counters of `ingest` at zero."""
    for outcome in (Outcome.DONE, Outcome.REJECTED):
        JOBS.labels("ingest", Lane.LIVE, outcome)
