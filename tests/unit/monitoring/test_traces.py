"""Spans that a collector receives: one trace per job, whichever processes made them."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import replace

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from pipeline.events import Event, Outcome
from pipeline.job import Job, Source
from pipeline.monitoring.traces import Traces
from pipeline.settings import Settings
from tests.support.trace_collector import attributes, collecting
from tests.support.waiting import wait_for

NOW = time.time()
ID = "6fa459ea-ee8a-5ca4-894e-db77e160355e"


def job(job_id=ID, **more):
    return Job(
        job_id, "F", (Source("https://example.org/a?token=hush", ("image_url",)),), payload={"k": "hush"}, **more
    )


def attempt(stage, outcome, second, of, **more):
    at = NOW + second
    return Event(stage, of.id, outcome, at=at, arrived=NOW, seconds=0.25, job=of, **more)


@pytest.fixture
def emitted():
    """Emit attempts, each as from a process of its own, and return the collector once all have ended."""
    with collecting() as collector:

        def emit(*events):
            for event in events:
                traces = Traces(f"{collector.endpoint}/v1/traces")
                traces.start()
                traces(event)
                traces.stop(20)
            return collector

        yield emit


def test_a_job_is_one_trace_under_its_own_id(emitted):
    collector = emitted(
        attempt("fetch", Outcome.RETRY, 1, job(), code="timeout", message="It did not answer.", wait=2.0),
        attempt("fetch", Outcome.DONE, 3, job(), attempt=2),
        attempt("resize", Outcome.DONE, 4, job()),
        attempt("notify", Outcome.DONE, 5, job()),
    )
    spans = collector.trace(uuid.UUID(ID).hex)
    assert len(spans) == len(collector.spans) == 5
    assert [span.name for span in spans] == ["job", "fetch", "fetch", "resize", "notify"]
    root, first, *_ = spans
    assert root.parent_span_id == b""
    assert {span.parent_span_id for span in spans[1:]} == {root.span_id}
    assert len({span.span_id for span in spans}) == 5
    assert (root.start_time_unix_nano / 1e9, root.end_time_unix_nano / 1e9) == pytest.approx((NOW, NOW + 1))
    assert (first.start_time_unix_nano / 1e9, first.end_time_unix_nano / 1e9) == pytest.approx((NOW + 0.75, NOW + 1))
    assert first.status.message == "It did not answer."
    assert first.kind == Span.SPAN_KIND_CONSUMER
    found = attributes(first)
    assert found["image_pipeline.outcome"] == "retry"
    assert (found["image_pipeline.attempt"], found["error.type"]) == (1, "timeout")
    assert attributes(spans[2])["image_pipeline.attempt"] == 2
    assert collector.services == {"image-pipeline"}


def test_an_id_that_is_not_a_uuid_makes_a_trace_too(emitted):
    spans = emitted(
        attempt("fetch", Outcome.DONE, 1, job("order 7")), attempt("notify", Outcome.DONE, 2, job("order 7"))
    ).spans
    assert len({span.trace_id for span in spans}) == 1
    assert len(spans) == 3


def test_the_first_span_is_sent_once(emitted):
    # given attempts that were not the job's first, or did nothing
    again = replace(job(), redrives=1)
    restarted = job().with_sources({job().sources[0].url: job().sources[0].back_at_fetch()})
    collector = emitted(
        attempt("fetch", Outcome.SNOOZED, 1, job()),
        attempt("fetch", Outcome.DONE, 2, again),
        attempt("fetch", Outcome.DONE, 3, restarted),
        attempt("upload", Outcome.DONE, 4, job()),
    )
    assert [span.name for span in collector.spans].count("job") == 0


def test_a_rejected_message_is_a_trace(emitted):
    spans = emitted(Event("ingest", ID, Outcome.REJECTED, at=NOW, code="no_image", message="None.")).spans
    assert {span.name for span in spans} == {"job", "ingest"}


def test_payloads_and_queries_are_not_sent(emitted):
    assert "hush" not in str(emitted(attempt("fetch", Outcome.DONE, 1, job())).spans)


def test_an_unreachable_endpoint_costs_nothing_and_is_logged_once(caplog):
    # given an endpoint where nothing listens
    traces = Traces("http://127.0.0.1:1/v1/traces")
    traces.start()
    began = time.monotonic()
    for number in range(3000):
        traces(attempt("fetch", Outcome.DONE, number, job()))
    # when it stops
    traces.stop(0.2)
    # then it did not wait for the endpoint, and nothing keeps trying
    wait_for(lambda: not [thread for thread in threading.enumerate() if "BatchSpan" in thread.name])
    assert time.monotonic() - began < 30
    assert caplog.text.count("does not accept traces") <= 1
    assert "Transient" not in caplog.text


def test_the_endpoint_follows_the_specification():
    def endpoint(**given):
        return Settings(_env_file=None, **given).traces_endpoint

    assert endpoint() is None
    assert endpoint(otel_exporter_otlp_endpoint="http://localhost:4318/") == "http://localhost:4318/v1/traces"
    only = {"otel_exporter_otlp_traces_endpoint": "https://collector/here"}
    assert endpoint(otel_exporter_otlp_endpoint="http://localhost:4318", **only) == "https://collector/here"
