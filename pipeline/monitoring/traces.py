"""OpenTelemetry traces: one trace per job, with one span per attempt, if an endpoint is set.

Messages carry no trace context. The trace id is the job's id, the 128 bits of a UUID, so that producers can find the
trace of a job. All spans are children of the span `job`, whose id is derived from the job's id too.

The span `job` lasts from the job's arrival to the end of its first attempt. A job may take days, and its trace should
be visible before. Later spans outlive this parent, as is usual with messaging. If a worker dies during the first
attempt, the next attempt sends the span `job` again.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes

from pipeline.events import Event, Outcome
from pipeline.stages import FETCH

logger = logging.getLogger(__name__)

#: Service name of the spans, unless OTEL_SERVICE_NAME is set.
SERVICE = "image-pipeline"

#: Seconds between two warnings that the endpoint refuses spans.
WARN_EVERY = 600.0

#: Outcomes that do not mark a span as an error.
NOT_FAILED = frozenset({Outcome.DONE, Outcome.SNOOZED})

SCOPE, SAMPLED = InstrumentationScope("pipeline"), TraceFlags(TraceFlags.SAMPLED)


class Traces:
    """Subscribes to `pipeline.events` and sends spans between `start` and `stop`.

    Args:
        endpoint: URL for OTLP over HTTP, including the path (usually `/v1/traces`).
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def start(self) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it logs every failed export
        self._resource = Resource.create()
        if str(self._resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            self._resource = self._resource.merge(Resource({SERVICE_NAME: SERVICE}))
        self._exporter = _Exporter(self._endpoint)
        self._processor = BatchSpanProcessor(self._exporter)

    def stop(self, timeout: float) -> None:
        """Send the remaining spans, for at most `timeout` seconds."""
        ending = threading.Thread(target=self._processor.shutdown, name="traces end", daemon=True)
        ending.start()
        ending.join(timeout)
        if ending.is_alive():
            self._exporter.shutdown()  # ends its retries

    def __call__(self, event: Event) -> None:
        """Send the span of an attempt, and before the first attempt the span of the job."""
        trace = _trace_id(event.job_id)
        job = SpanContext(trace, _job_span_id(event.job_id), True, SAMPLED)
        if _is_first(event):
            began = event.arrived or event.at - event.seconds
            self._send("job", job, None, began, event.at, attributes=_job_attributes(event))
        self._send(
            event.stage,
            SpanContext(trace, random.getrandbits(64) or 1, False, SAMPLED),
            job,
            event.at - event.seconds,
            event.at,
            kind=SpanKind.CONSUMER,
            attributes=_attempt_attributes(event),
            status=Status() if event.outcome in NOT_FAILED else Status(StatusCode.ERROR, event.message),
        )

    def _send(
        self, name: str, context: SpanContext, parent: SpanContext | None, began: float, ended: float, **more: Any
    ) -> None:
        """Queue a finished span. The SDK's tracer is not used, because it chooses the ids of spans itself."""
        more |= {"start_time": _nanoseconds(began), "end_time": _nanoseconds(ended)}
        self._processor.on_end(ReadableSpan(name, context, parent, self._resource, instrumentation_scope=SCOPE, **more))


def _is_first(event: Event) -> bool:
    """Return whether this is the job's first attempt, which sends the span `job`."""
    job = event.job
    if job is None:
        return event.outcome is Outcome.REJECTED
    restarted = any(source.restarted for source in job.sources) or job.redrives
    tried = event.attempt == 1 and event.outcome is not Outcome.SNOOZED
    return event.stage == FETCH.name and tried and not restarted


def _job_attributes(event: Event) -> Attributes:
    job = event.job
    found = {"image_pipeline.job": event.job_id}
    if job:
        found |= {"image_pipeline.folder": job.folder, "image_pipeline.lane": job.lane.value}
        if job.sweep:
            found["image_pipeline.run"] = job.sweep.run
    return found


def _attempt_attributes(event: Event) -> Attributes:
    found: dict[str, str | int | float] = {
        "image_pipeline.job": event.job_id,
        "image_pipeline.stage": event.stage,
        "image_pipeline.outcome": event.outcome.value,
        "image_pipeline.attempt": event.attempt,
    }
    if event.job and event.job.redrives:
        found["image_pipeline.redrive"] = event.job.redrives
    if event.wait:
        found["image_pipeline.next_in_seconds"] = event.wait
    if event.code:
        found["error.type"] = event.code
    return found


def _trace_id(job_id: str) -> int:
    try:
        return uuid.UUID(job_id).int
    except ValueError:  # the id was not made by this service
        return _hash(job_id, 16)


def _job_span_id(job_id: str) -> int:
    return _hash(f"the span of job {job_id}", 8)


def _hash(text: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:size])


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


class _Exporter(SpanExporter):
    """Wraps the SDK's exporter and warns now and then if the endpoint refuses spans."""

    def __init__(self, endpoint: str) -> None:
        self._exporter = OTLPSpanExporter(endpoint)
        self._host = urlsplit(endpoint).netloc
        self._silent_until = 0.0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.FAILURE and time.monotonic() > self._silent_until:
            self._silent_until = time.monotonic() + WARN_EVERY
            logger.warning("%s does not accept traces. Some are lost; jobs go on.", self._host)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
