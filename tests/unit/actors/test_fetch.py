"""The fetch stage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

import pipeline.actors  # noqa: F401 - builds the broker, on which the actors are declared
from actors import fetch as module
from pipeline.errors import Dropped, RetryableError
from pipeline.events import RecheckOutcome
from pipeline.images.content_id import content_id
from pipeline.job import Sweep
from pipeline.monitoring.orders import Drop, Orders
from pipeline.net.download import Download
from pipeline.objective import Side
from pipeline.settings import get_settings
from pipeline.sweeps.sources import SourceCheck
from pipeline.worker import downloads
from pipeline.worker.failures import Unsettled
from pipeline.worker.orders import Following
from tests.support.attempts import attempt_at, received
from tests.support.jobs import accepted

pytestmark = pytest.mark.usefixtures("local_staging")


@pytest.fixture
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(("seconds", "side"), [(14, None), (16, Side.SOURCE)])
def test_a_source_with_a_slow_download_does_not_answer_in_the_sense_of_the_objective(
    monkeypatch: pytest.MonkeyPatch, seconds: float, side: Side | None
) -> None:
    clock = iter([100.0, 100.0 + seconds])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(module, "advance", lambda attempt, *_: attempt.job)
    assert module.fetch_image.fn.__wrapped__(attempt_at(accepted())).delayed_by is side


@pytest.mark.usefixtures("_no_garbage_collection")
@pytest.mark.parametrize("held", [None, "other bytes", "these bytes"])
def test_a_failed_source_is_freed_without_garbage_collection(held: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a job whose source is not an image, or a re-check of it
    body, job = bytes(100_000), accepted()
    if held:
        known = {"other bytes": "0" * 32, "these bytes": content_id(body, get_settings().recipe)}
        job = replace(job, sweep=Sweep("covers", run="1", cover="1", held=known[held]))
    message = received(job)
    monkeypatch.setattr(downloads, "download_if_changed", lambda *_, **__: Download(body))
    monkeypatch.setattr(module.sources, "record", lambda _: None)
    references = sys.getrefcount(body)
    # when the attempt fails
    error = None
    try:
        module.fetch_image.fn(message)
    except Unsettled as raised:
        error = raised.__cause__
    # then nothing holds its bytes, although the error waits for SQS
    assert (error is None) == (held == "these bytes")
    assert sys.getrefcount(body) == references


@pytest.fixture
def dropping(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator drops all jobs of the host."""
    now = datetime.now(UTC) + timedelta(minutes=1)
    orders = Following()
    orders.follow(Orders(drops=(Drop("", "feeds.example", now, silent=False, ends=now),)))
    monkeypatch.setattr(module, "following", lambda: orders)


@pytest.mark.usefixtures("dropping")
def test_a_job_is_dropped_even_if_mongodb_and_s3_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    job = accepted()

    def fails(*_: object) -> None:
        raise RetryableError("mongo_error", "MongoDB does not answer.")

    monkeypatch.setattr(module.sources, "find_current", fails)
    with pytest.raises(Dropped):
        module.fetch(attempt_at(job), job, job.sources[0])


@pytest.mark.usefixtures("dropping")
def test_a_re_check_that_is_dropped_is_recorded_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a re-check of a source that an operator drops
    job = replace(accepted(), sweep=Sweep("covers", run="1", cover="1", held=""))
    checks: list[SourceCheck] = []
    monkeypatch.setattr(module.sources, "record", checks.append)
    # When fetch takes it, then its run learns that it has ended, and nothing is requested.
    assert module.fetch_again(attempt_at(job), job.sweep) is None
    assert [(check.outcome, check.error, check.group) for check in checks] == [(RecheckOutcome.FAILED, "dropped", "1")]
