"""The fetch stage: a hasty first attempt, and patient ones after it."""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import CurrentMessage
from PIL import Image

import pipeline.actors  # noqa: F401 - builds the broker, on which the actors are declared
from actors import fetch as module
from pipeline.clients import lazy
from pipeline.events import RecheckOutcome
from pipeline.images.content_id import content_id
from pipeline.job import Job, Sweep
from pipeline.monitoring.orders import Drop, Orders
from pipeline.net.bulkhead import Bulkhead, Speed
from pipeline.net.download import Download
from pipeline.objective import Side
from pipeline.settings import get_settings
from pipeline.sqs.leases import Lease
from pipeline.sqs.settlement import SQSMessage
from pipeline.sqs.wire import ATTEMPTS
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
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, Speed]]:
    """Whether each download was hasty, and the speed that its host was taken for."""
    found: list[tuple[bool, Speed]] = []
    bulkhead = Bulkhead()
    limiter = downloads.host_limiter.__wrapped__()
    limiter._bulkhead = bulkhead

    def download(url: str, slot: Callable[[str], Any], *, hasty: bool, **_: object) -> Download:
        with slot(url):
            found.append((hasty, next(speed for speed in Speed if bulkhead.taken(speed))))
        out = io.BytesIO()
        Image.new("RGB", (8, 8)).save(out, "JPEG")
        return Download(out.getvalue())

    monkeypatch.setattr(downloads, "download_if_changed", download)
    monkeypatch.setattr(downloads, "host_limiter", lambda: limiter)
    monkeypatch.setattr(module, "find_published", lambda *_: None)
    return found


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


def fetch(monkeypatch: pytest.MonkeyPatch, attempts: dict[str, int] | None = None) -> None:
    """Fetch the only source of a job, whose message has failed so often before."""
    options = {ATTEMPTS: attempts or {}}
    message: dramatiq.Message[None] = dramatiq.Message("fetch", "fetch_image", (), {}, options)
    monkeypatch.setattr(CurrentMessage, "get_current_message", lambda: message)
    job = accepted()
    assert module.fetch(job, job.sources[0]).due == "resize"


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [({}, (True, Speed.UNKNOWN)), ({"service": 3}, (True, Speed.UNKNOWN)), ({"source": 1}, (False, Speed.SLOW))],
    ids=["first attempt", "after trouble of our own", "after trouble of the host"],
)
def test_attempts_are_hasty_until_the_host_fails(
    asked: list[tuple[bool, Speed]],
    monkeypatch: pytest.MonkeyPatch,
    attempts: dict[str, int],
    expected: tuple[bool, Speed],
) -> None:
    fetch(monkeypatch, attempts)
    assert asked == [expected]


def test_without_retries_the_only_attempt_is_patient(
    asked: list[tuple[bool, Speed]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FETCH_RETRY_DELAYS", ",")
    lazy.forget()
    fetch(monkeypatch)
    assert asked == [(False, Speed.SLOW)]


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
