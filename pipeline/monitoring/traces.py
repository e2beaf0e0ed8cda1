"""One OpenTelemetry trace for each job, where an endpoint is set: a span for each turn, made from its event.

Nothing of it rides in messages. The id of the trace is that of the job, a UUID's 128 bits, so a trace is found by the
id that a producer knows; every span but the first has as parent the span `job`, whose id follows from the job's too.

The span `job` lasts from the job's arrival to the end of its first attempt. So it is there while the job is under way,
be that for days, and what follows are its children that outlive it, as usual where work goes on by messages.
A worker that dies within the first attempt makes the next one send that span again.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Sequence
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace import set_span_in_context as within
from opentelemetry.util.types import Attributes

from pipeline.events import Event, Outcome
from pipeline.stages import FETCH

logger = logging.getLogger(__name__)

#: The service that the spans are of, where OTEL_SERVICE_NAME names no other.
SERVICE = "image-pipeline"

#: Seconds between two complaints that an endpoint takes no spans.
COMPLAIN_EVERY = 600.0

#: What is no failure of the turn.
GOOD = frozenset({Outcome.DONE, Outcome.SNOOZED})


class Traces:
    """A listener of `pipeline.events` that sends spans from `start` to `stop`.

    Parameters:
        endpoint: where OTLP over HTTP is taken, the path `/v1/traces` or the like included.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._ids = _Ids()

    def start(self) -> None:
        """Begin. The thread that sends is the SDK's own."""
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it complains at every attempt
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._exporter = _Exporter(self._endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("pipeline")

    def stop(self, timeout: float) -> None:
        """Send what is left, if that takes no longer than `timeout` seconds."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces end", daemon=True)
        ending.start()
        ending.join(timeout)
        if ending.is_alive():
            self._exporter.shutdown()  # or it would go on trying

    def __call__(self, event: Event) -> None:
        """Make the span of one turn, and before the first one that of the job."""
        if _is_first(event):
            self._ids.next = _trace_id(event.job_id), _job_span_id(event.job_id)
            began = event.arrived or event.at - event.seconds
            span = self._tracer.start_span("job", attributes=_of_job(event), start_time=_nanoseconds(began))
            span.end(_nanoseconds(event.at))
        parent = SpanContext(_trace_id(event.job_id), _job_span_id(event.job_id), True, TraceFlags(TraceFlags.SAMPLED))
        span = self._tracer.start_span(
            event.stage,
            context=within(NonRecordingSpan(parent)),
            kind=SpanKind.CONSUMER,
            attributes=_of_turn(event),
            start_time=_nanoseconds(event.at - event.seconds),
        )
        if event.verdict not in GOOD:
            span.set_status(Status(StatusCode.ERROR, event.message))
        span.end(_nanoseconds(event.at))


def _is_first(event: Event) -> bool:
    """Whether this is the turn that the span `job` comes with: a later process cannot know that there was one."""
    job = event.job
    if job is None:
        return event.verdict is Outcome.REJECTED
    afresh = any(source.restarted for source in job.sources) or job.redrives
    tried = event.attempt == 1 and event.verdict is not Outcome.SNOOZED
    return event.stage == FETCH.name and tried and not afresh


def _of_job(event: Event) -> Attributes:
    job = event.job
    found = {"image_pipeline.job": event.job_id}
    if job:
        found |= {"image_pipeline.folder": job.folder, "image_pipeline.lane": job.lane.value}
        if job.sweep:
            found["image_pipeline.run"] = job.sweep.run
    return found


def _of_turn(event: Event) -> Attributes:
    found: dict[str, str | int | float] = {
        "image_pipeline.job": event.job_id,
        "image_pipeline.stage": event.stage,
        "image_pipeline.outcome": event.verdict.value,
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
        number = uuid.UUID(job_id).int
    except ValueError:  # an id that is not ours
        number = _hash(job_id, 16)
    return number or _hash(job_id, 16)  # 0 is no id


def _job_span_id(job_id: str) -> int:
    return _hash(f"the span of job {job_id}", 8)


def _hash(text: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:size])


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


class _Ids(IdGenerator):
    """Random ids, but for the one span of this thread that `next` was set for: its trace's and its own."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._next = threading.local()

    @property
    def next(self) -> tuple[int, int] | None:
        """The ids of the next span that has no parent."""
        return getattr(self._next, "ids", None)

    @next.setter
    def next(self, ids: tuple[int, int]) -> None:
        self._next.ids = ids

    def generate_trace_id(self) -> int:
        return self.next[0] if self.next else self._random.generate_trace_id()

    def generate_span_id(self) -> int:
        ids, self._next.ids = self.next, None
        return ids[1] if ids else self._random.generate_span_id()


class _Exporter(SpanExporter):
    """The exporter of the SDK, that complains once in a while where an endpoint takes nothing."""

    def __init__(self, endpoint: str) -> None:
        self._exporter = OTLPSpanExporter(endpoint)
        self._where = urlsplit(endpoint).netloc
        self._silent_until = 0.0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.FAILURE and time.monotonic() > self._silent_until:
            self._silent_until = time.monotonic() + COMPLAIN_EVERY
            logger.warning("%s does not take traces: some are lost. The jobs go on.", self._where)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)
