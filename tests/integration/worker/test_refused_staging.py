"""A job whose staged bytes S3 refuses to show is retried, on the embedded SQS and S3."""

from __future__ import annotations

import secrets

import pytest

from pipeline.clients import lazy
from pipeline.events import Event, Outcome, subscribe, unsubscribe
from pipeline.images.content_id import content_id
from pipeline.job import Content, Job
from pipeline.recipe import Recipe
from pipeline.settings import get_settings
from pipeline.stages import RESIZE
from pipeline.storage.staging import staging
from tests.integration.conftest import worker_of
from tests.support.pictures import corners, encoded
from tests.support.refusing import Refusal, Request, refusing
from tests.support.waiting import wait_for


def a_fetched_job() -> Job:
    image = encoded(corners(), "PNG")
    recipe = Recipe(get_settings().renditions, get_settings().resize_fit)
    payload = {"image_url": "http://127.0.0.1:9/cover.png", "redirect_queue": "results"}
    job = Job.accept(payload, job_id=secrets.token_hex(8), settings=get_settings(), stage_payload=lambda _: "")
    content = Content(content_id(image, recipe), ".png", recipe)
    return job.with_sources({s.url: s.fetched(staging().put(image), content) for s in job.sources})


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "RequestTimeTooSkewed"])
def test_jobs_succeed_although_s3_refuses_to_show_staging_for_a_while(environment, monkeypatch, code: str) -> None:
    # Given fetched jobs, and an S3 that answers 403 to the first read of each staged object
    refused: set[str] = set()

    def refuse(request: Request) -> Refusal | None:
        if request.action == "GET" and "/pipeline-staging/" in request.path and request.path not in refused:
            refused.add(request.path)
            return Refusal(403, code)
        return None

    events: list[Event] = []
    with refusing(environment["AWS_ENDPOINT_URL"], refuse) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        lazy.forget()
        jobs = [a_fetched_job() for _ in range(3)]
        subscribe(events.append)
        try:
            with worker_of("resize"):
                # When they are resized
                from pipeline.actors import broker

                broker.enqueue_many([broker.get_actor(RESIZE.actor).message_of(job) for job in jobs])
                wait_for(lambda: sum(event.outcome is Outcome.DONE for event in events) == 3)
        finally:
            unsubscribe(events.append)
    # Then each succeeds on its second attempt, without a second download.
    retries = [event for event in events if event.outcome is Outcome.RETRY]
    assert {event.job_id for event in retries} == {job.id for job in jobs}
    assert {event.code for event in retries} == {"s3_error"}
    assert all(event.job.due.name == "upload" for event in events if event.outcome is Outcome.DONE and event.job)
