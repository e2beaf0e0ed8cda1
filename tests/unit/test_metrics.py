"""Metrics of attempts and of requests to AWS."""

from __future__ import annotations

import doctest
from dataclasses import replace
from typing import Any

import pytest

from pipeline import metrics
from pipeline.errors import PermanentError, StagedMissing
from pipeline.events import Event, Outcome
from pipeline.job import CLEAN_UP, Job, Source
from pipeline.monitoring import processes
from pipeline.objective import Side
from pipeline.stages import FETCH, RESIZE, Lane

GONE, LOST = PermanentError("http_404", "Gone."), StagedMissing("key")
JOB = Job(id="1", folder="F", sources=(Source("https://example.org/a.png", ("image_url",)),))


def value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"{metrics.PREFIX}_{name}", labels) or 0.0


class Growth:
    """Measures how much a series has grown since it was created."""

    def __init__(self, name: str, **labels: str) -> None:
        self.name, self.labels = name, labels
        self.before = value(name, **labels)

    def __call__(self) -> float:
        return value(self.name, **self.labels) - self.before


def test_an_attempt_is_counted_by_stage_lane_and_outcome_with_its_seconds() -> None:
    attempts = Growth("jobs_total", stage="upload", lane="bulk", outcome="done")
    within = Growth("stage_seconds_bucket", stage="upload", lane="bulk", le="0.5")
    not_within = Growth("stage_seconds_bucket", stage="upload", lane="bulk", le="0.25")
    job = Job(id="1", folder="F", sources=JOB.sources, lane=Lane.BULK)
    metrics.count_event(Event("upload", "1", Outcome.DONE, seconds=0.3, job=job))
    assert (attempts(), within(), not_within()) == (1, 1, 0)


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.GIVEN_UP])
def test_an_error_is_counted_by_its_code(outcome: Outcome) -> None:
    errors = Growth("errors_total", stage="fetch", code="http_503")
    attempts = Growth("jobs_total", stage="fetch", lane="live", outcome=outcome.value)
    metrics.count_event(Event("fetch", "1", outcome, seconds=1, code="http_503", job=JOB))
    assert (errors(), attempts()) == (1, 1)


@pytest.mark.parametrize(
    ("source", "format_name"),
    [(b"<svg/>", "svg"), (b"\0\0\0\x18ftypheic", "heic"), (b"\xff\x0a", "jpeg_xl"), (b"II*\0", "tiff")],
)
def test_an_unsupported_format_is_counted_by_its_name(source: bytes, format_name: str) -> None:
    seen = Growth("unsupported_formats_total", format=format_name)
    with pytest.raises(PermanentError), metrics.counting_unsupported_formats(source):
        raise PermanentError("unsupported_format", "It is not supported.")
    assert seen() == 1
    # But not other errors
    with pytest.raises(PermanentError), metrics.counting_unsupported_formats(source):
        raise PermanentError("broken_image", "It is broken.")
    assert seen() == 1


def test_a_snooze_is_not_an_error_and_takes_no_time() -> None:
    put_off = Growth("put_off_sources_total", code="host_busy")
    errors = Growth("errors_total", stage="fetch", code="host_busy")
    took = Growth("stage_seconds_count", stage="fetch", lane="live")
    metrics.count_event(Event("fetch", "1", Outcome.SNOOZED, code="host_busy", job=JOB, worked_on=("a", "b")))
    assert (put_off(), errors(), took()) == (2, 0, 0)


def test_a_rejection_is_an_error_and_takes_no_time() -> None:
    errors = Growth("errors_total", stage="ingest", code="not_json")
    took = Growth("stage_seconds_count", stage="ingest", lane="live")
    metrics.count_event(Event("ingest", "1", Outcome.REJECTED, code="not_json"))
    assert (errors(), took()) == (1, 0)


@pytest.mark.parametrize(
    ("changes", "event", "outcome", "cause"),
    [
        ({}, {}, "done", None),
        ({"accepted": 40.0}, {}, "done", "service"),
        ({"accepted": 40.0, "delayed_by": Side.SOURCE}, {}, "done", "source"),
        ({"accepted": 40.0, "is_late": True}, {}, "done", None),
        ({"sources": (JOB.sources[0].failed(FETCH, GONE),)}, {}, "source", None),
        ({"sources": (JOB.sources[0].failed(RESIZE, LOST),)}, {}, "service", "service"),
        ({"accepted": 40.0}, {"outcome": Outcome.GIVEN_UP, "code": "http_410"}, "receiver", "receiver"),
    ],
)
def test_a_job_is_measured_at_its_last_delivery(
    changes: dict[str, Any], event: dict[str, Any], outcome: str, cause: str | None
) -> None:
    job = replace(JOB, **{"accepted": 90.0} | changes)
    measured = Growth("job_seconds_sum", lane="live", outcome=outcome)
    late = {side: Growth("late_jobs_total", lane="live", cause=side) for side in Side}
    metrics.count_event(
        Event(**{"stage": "notify", "job_id": "1", "outcome": Outcome.DONE, "at": 100, "job": job} | event)
    )
    assert measured() == 100 - job.accepted
    assert {side for side, grown in late.items() if grown()} == ({cause} if cause else set())


def test_a_job_that_becomes_late_is_counted_before_it_ends() -> None:
    late = Growth("late_jobs_total", lane="live", cause="receiver")
    job = replace(JOB, accepted=90.0, is_late=True)
    metrics.count_event(Event("notify", "1", Outcome.RETRY, code="timeout", job=job, made_late_by=Side.RECEIVER))
    metrics.count_event(Event("notify", "1", Outcome.GIVEN_UP, code="timeout", job=job))
    assert late() == 1


@pytest.mark.parametrize(
    ("stage", "outcome", "changes"),
    [
        ("upload", Outcome.DONE, {}),
        ("notify", Outcome.RETRY, {}),
        ("notify", Outcome.DONE, {"accepted": 0.0}),
        ("notify", Outcome.DONE, {"deliveries": (CLEAN_UP,)}),
    ],
    ids=str,
)
def test_a_job_is_not_measured_before_or_after_its_last_delivery(
    stage: str, outcome: Outcome, changes: dict[str, Any]
) -> None:
    assert Event(stage, "1", outcome, job=replace(JOB, **{"accepted": 90.0} | changes)).took is None


def test_servers_cannot_create_unlimited_series() -> None:
    for status in range(600, 1000):
        metrics.count_event(Event("fetch", "1", Outcome.GIVEN_UP, code=f"http_{status}", job=JOB))
    made = {
        sample.labels["code"]
        for family in metrics.ERRORS.collect()
        for sample in family.samples
        if sample.labels["code"].startswith("http_")
    }
    assert "http_other" in made
    assert all(metrics.bounded(code) == code for code in made)


@pytest.mark.parametrize(
    ("operation", "status", "result"),
    [
        ("PutObject", 200, "ok"),
        ("DeleteObjects", 204, "ok"),
        ("HeadObject", 404, "missing"),
        ("HeadObject", 403, "missing"),
        ("GetQueueUrl", 400, "missing"),
        ("GetQueueUrl", 403, "refused"),
        ("PutObject", 403, "refused"),
        ("PutObject", 301, "refused"),
        ("PutObject", 503, "failed"),
        ("PutObject", None, "no_answer"),
    ],
)
def test_a_request_is_counted_by_its_result(operation: str, status: int | None, result: str) -> None:
    requests = Growth("aws_requests_total", service="s3", operation=operation, result=result)
    metrics.count_request("s3", operation, status)
    assert requests() == 1


def test_a_process_exports_its_series_before_anything_happens() -> None:
    metrics.expect(["notify"])
    for outcome in Outcome:
        labels = {"stage": "notify", "lane": "bulk", "outcome": outcome.value}
        assert metrics.REGISTRY.get_sample_value(f"{metrics.PREFIX}_jobs_total", labels) is not None


@pytest.mark.parametrize("stage", ["fetch", "resize"])
def test_unsupported_formats_are_exported_before_one_is_seen(stage: str) -> None:
    metrics.UNSUPPORTED_FORMATS.clear()
    metrics.expect([stage])
    for name in ("heic", "jpeg_2000", "jpeg_xl", "pdf", "photoshop", "postscript", "svg", "tiff"):
        assert metrics.REGISTRY.get_sample_value(f"{metrics.PREFIX}_unsupported_formats_total", {"format": name}) == 0


@pytest.mark.parametrize("module", [metrics, processes])
def test_the_examples_in_the_code_are_right(module) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed
