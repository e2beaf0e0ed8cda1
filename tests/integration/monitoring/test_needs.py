"""A night on call, on the embedded servers: S3 refuses, and a receiver of several folders is down."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pipeline.actors import broker, fetch_image
from pipeline.clients import lazy
from pipeline.errors import PermanentError
from pipeline.job import Job
from pipeline.monitoring import orders, processes, retrying
from pipeline.monitoring.retrying import BeingRetried, being_retried
from pipeline.net.host_limits import host_limiter, receiver_limiter
from pipeline.ops.provision import plan
from pipeline.settings import get_settings
from pipeline.sqs import looks
from pipeline.stages import FETCH, NOTIFY
from pipeline.worker.heartbeats import Heartbeats
from pipeline.worker.orders import following
from tests.integration.conftest import worker_of
from tests.support.command_line import image_pipeline
from tests.support.cover_host import picture
from tests.support.dashboard import Page, serving
from tests.support.untrusted_servers import Remote, Request, answer, remote
from tests.support.waiting import wait_for

IMAGES, DELIVERIES, FOLDERS = 5, 24, 4

REFUSAL = b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>"


@pytest.fixture
def s3(database: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bool]]:
    """Provide queues, a job log with heartbeats that are soon, and an S3 that refuses while the value says so."""
    monkeypatch.setenv("JOBS_MONGO_URL", get_settings().mongo_url.get_secret_value())  # type: ignore[union-attr]
    monkeypatch.setenv("ALLOWED_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("POSTBACK_RETRY_DELAYS", "86400,86400,86400")
    monkeypatch.setenv("RETRY_DELAYS", ",".join("1" * 20))
    lazy.forget()
    for change in plan(get_settings(), create_bucket=True):
        change.apply()
    for module, name, seconds in (
        (processes, "INTERVAL", 0.05), (looks, "LOOK", 2.0), (looks, "GRID", 1.0), (retrying, "QUIET", 2.0),
        (retrying, "GRACE", 3.0),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, seconds)
    host_limiter.cache_clear()
    receiver_limiter.cache_clear()
    vars(being_retried()).update(vars(BeingRetried()))  # forgets earlier tests
    refuses = {"now": True}

    def behave(_: Remote, request: Request) -> list[bytes]:
        if refuses["now"]:
            return [answer(403, REFUSAL)]
        return [answer(200 if request.head.startswith("PUT") else 404, b"", 'ETag: "1"')]

    with remote(behave) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url("").rstrip("/"))
        lazy.forget()
        yield refuses
    following().follow(orders.Orders())


def delivery(number: int, url: str) -> Job:
    source = f"http://127.0.0.1:9/{number}.jpg"
    payload = {"image_url": source, "postback_url": url, "bucket_name": f"folder {number % FOLDERS}"}
    job = Job.accept(payload, job_id=f"job-{number}", settings=get_settings(), stage_payload=lambda _: "")
    return job.with_errors(FETCH, {source: PermanentError("http_404", "Gone.")})


def first_lines() -> list[str]:
    """Return the needs in `status`, above its table, that are about jobs that wait for a retry."""
    needs = image_pipeline("status").partition(" Stage ")[0].split("• ")[1:]
    return [need for need in needs if "Being retried" in need or "answers" in need]


def test_what_is_retried_is_named_first_until_it_is_repaired(
    s3: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    is_down = {"hook": True}
    caplog.set_level(logging.WARNING, "pipeline.monitoring.retrying")

    def logged(part: str) -> int:
        lines = [each.message for each in caplog.records if each.name == "pipeline.monitoring.retrying"]
        return sum(part in line for line in lines)

    def receive(_: Remote, request: Request) -> list[bytes]:
        return [answer(503 if is_down["hook"] else 200)]

    with (
        remote(lambda *_: [answer(200, picture(1))]) as source,
        remote(receive) as receiver,
        worker_of("fetch", "notify", threads=4) as worker,
        ExitStack() as ends,
    ):
        beats = Heartbeats(get_settings())
        ends.callback(beats.before_worker_shutdown, broker, worker)  # a heartbeat left behind disturbs other tests
        beats.after_worker_boot(broker, worker)
        # Given an S3 that refuses to stage covers, and a receiver of four folders that is down
        hook = receiver.url("/hook")
        for number in range(IMAGES):
            fetch_image.send({"image_url": source.url(f"/{number}"), "postback_url": hook})
        jobs = [delivery(number, f"{hook}?token={number}") for number in range(DELIVERIES)]
        broker.enqueue_many([broker.get_actor(NOTIFY.actor).message_of(job) for job in jobs])
        # Then both are named with their numbers by `status` and by the overview, S3 first, and each is logged once.
        expected = f"{hook} answers 503: {DELIVERIES} deliveries of {FOLDERS} folders wait, since "
        wait_for(lambda: expected in image_pipeline("status"), timeout=60)
        wait_for(lambda: first_lines()[0].startswith(f"Being retried: {IMAGES} "), timeout=30)
        assert "fetch, s3_error (AccessDenied) since" in first_lines()[0]
        with serving() as site:
            wait_for(lambda: expected in site.text(), timeout=30)
            page = Page(site.get().text)
            assert page.text.index("What needs you") < page.text.index("Being retried") < page.text.index("Submit")
            assert hook in page.values("value")  # of "try now"
            assert expected in site.text("/failures")
        assert (logged("S3 is in trouble"), logged(f"{hook} fails"), logged("no jobs any more")) == (1, 1, 0)
        # When S3 is repaired, then its line goes and that is logged once.
        s3["now"] = False
        wait_for(lambda: len(first_lines()) == 1, timeout=60)
        wait_for(lambda: (logged("S3"), logged("S3 fails no jobs any more")) == (2, 1))
        # When the receiver is repaired and tried now, then its line goes too, although its jobs were due in a day.
        is_down["hook"] = False
        image_pipeline("retry", "endpoint", hook)
        wait_for(lambda: not first_lines(), timeout=60)
        wait_for(lambda: (logged(hook), logged(f"{hook} fails no jobs any more")) == (2, 1))
