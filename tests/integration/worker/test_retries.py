"""The wait before a failed delivery is retried, on the embedded SQS."""

from __future__ import annotations

import secrets

import pytest

from pipeline.clients import lazy
from pipeline.errors import PermanentError
from pipeline.events import Event, Outcome, subscribe, unsubscribe
from pipeline.job import Job
from pipeline.settings import get_settings
from pipeline.stages import FETCH, NOTIFY
from pipeline.worker.retry import JITTER
from tests.integration.conftest import worker_of
from tests.support.untrusted_servers import always, answer, remote
from tests.support.waiting import wait_for


@pytest.mark.parametrize(("asked", "least", "most"), [(1, 5 * JITTER[0], 5 * JITTER[1]), (300, 300, 300)])
def test_a_receiver_may_ask_for_a_longer_wait_but_not_for_a_shorter_one(
    environment, monkeypatch, asked, least, most
) -> None:
    # Given a job that has ended, and a receiver that answers 503 with Retry-After
    monkeypatch.setenv("ALLOWED_NETWORKS", "127.0.0.0/8")
    lazy.forget()
    events: list[Event] = []
    with remote(always(answer(503, b"", f"Retry-After: {asked}"))) as receiver:
        payload = {"image_url": "http://127.0.0.1:9/cover.jpg", "postback_url": receiver.url("/hook")}
        job = Job.accept(payload, job_id=secrets.token_hex(8), settings=get_settings(), stage_payload=lambda _: "")
        job = job.with_errors(FETCH, {"http://127.0.0.1:9/cover.jpg": PermanentError("http_404", "Gone.")})
        subscribe(events.append)
        try:
            with worker_of("notify"):
                # When its result is posted
                from pipeline.actors import broker

                broker.enqueue(broker.get_actor(NOTIFY.actor).message_of(job))
                wait_for(lambda: events)
        finally:
            unsubscribe(events.append)
    # Then it is retried after the configured wait or the receiver's, whichever is longer.
    assert (events[0].outcome, events[0].code) == (Outcome.RETRY, "http_503")
    assert least <= events[0].wait <= most
