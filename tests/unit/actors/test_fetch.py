"""The fetch stage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import dramatiq
import pytest
from dramatiq.middleware import CurrentMessage

import pipeline.actors  # noqa: F401 - builds the broker, on which the actors are declared
from actors import fetch as module
from pipeline.clients import lazy
from pipeline.events import RecheckOutcome
from pipeline.images.content_id import content_id
from pipeline.job import Job, Sweep
from pipeline.monitoring.orders import Drop, Orders
from pipeline.net.download import Download
from pipeline.objective import Side
from pipeline.settings import get_settings
from pipeline.sqs.leases import Lease
from pipeline.sqs.settlement import SQSMessage
from pipeline.sweeps.sources import SourceCheck
from pipeline.worker import downloads
from pipeline.worker.failures import Unsettled
from pipeline.worker.messages import job_kwargs
from pipeline.worker.orders import Following

COVER = "https://feeds.example/cover.jpg"


@pytest.fixture(autouse=True)
def _local_staging(no_variables: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STAGING_URL", tmp_path.as_uri())
    lazy.forget()


@pytest.fixture
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def accepted() -> Job:
    """Return a new job of one source."""
    payload = {"image_url": COVER, "postback_url": "https://receiver.example/hook"}
    return Job.accept(payload, job_id="1", settings=get_settings(), stage_payload=lambda _: "")


@pytest.mark.parametrize(("seconds", "side"), [(14, None), (16, Side.SOURCE)])
def test_a_source_with_a_slow_download_does_not_answer_in_the_sense_of_the_objective(
    monkeypatch: pytest.MonkeyPatch, seconds: float, side: Side | None
) -> None:
    clock = iter([100.0, 100.0 + seconds])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(module, "advance", lambda job, *_: job)
    assert module.fetch_image.fn.__wrapped__(accepted()).delayed_by is side


@pytest.mark.usefixtures("_no_garbage_collection")
@pytest.mark.parametrize("held", [None, "other bytes", "these bytes"])
def test_a_failed_source_is_freed_without_garbage_collection(held: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a job whose source is not an image, or a re-check of it
    body, job = bytes(100_000), accepted()
    if held:
        known = {"other bytes": "0" * 32, "these bytes": content_id(body, get_settings().recipe)}
        job = replace(job, sweep=Sweep("covers", run="1", cover="1", held=known[held]))
    message = dramatiq.Message[None]("fetch", "fetch_image", (), job_kwargs(job), {})
    received = SQSMessage(message, Lease("id", "handle", 0.0), "fetch")
    monkeypatch.setattr(CurrentMessage, "get_current_message", lambda: received)
    monkeypatch.setattr(downloads, "download_if_changed", lambda *_, **__: Download(body))
    monkeypatch.setattr(module.sources, "record", lambda _: None)
    references = sys.getrefcount(body)
    # when the attempt fails
    error = None
    try:
        module.fetch_image.fn()
    except Unsettled as raised:
        error = raised.__cause__
    # then nothing holds its bytes, although the error waits for SQS
    assert (error is None) == (held == "these bytes")
    assert sys.getrefcount(body) == references


def test_a_re_check_that_is_dropped_is_recorded_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a re-check of a source that an operator drops
    job = replace(accepted(), sweep=Sweep("covers", run="1", cover="1", held=""))
    message = dramatiq.Message[None]("fetch", "fetch_image", (), job_kwargs(job), {})
    received = SQSMessage(message, Lease("id", "handle", 0.0), "fetch")
    monkeypatch.setattr(CurrentMessage, "get_current_message", lambda: received)
    now = datetime.now(UTC) + timedelta(minutes=1)
    orders = Following()
    orders.follow(Orders(drops=(Drop("", "feeds.example", now, silent=False, ends=now),)))
    monkeypatch.setattr(downloads, "following", lambda: orders)
    checks: list[SourceCheck] = []
    monkeypatch.setattr(module.sources, "record", checks.append)
    # When fetch takes it, then its run learns that it has ended, and nothing is requested.
    assert module.fetch_again(job, job.sweep) is None
    assert [(check.outcome, check.error, check.group) for check in checks] == [(RecheckOutcome.FAILED, "dropped", "1")]
