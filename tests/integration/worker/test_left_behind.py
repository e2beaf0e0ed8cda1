"""Jobs that have ended leave nothing in staging, on the embedded SQS and S3."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import dramatiq

from pipeline.clients import aws, lazy
from pipeline.events import Event, Outcome, subscribe, unsubscribe
from pipeline.images.content_id import content_id
from pipeline.job import CLEAN_UP, Content, Job, Rendered
from pipeline.recipe import Recipe
from pipeline.settings import get_settings
from pipeline.sqs.wire import ATTEMPTS
from pipeline.stages import FETCH, NOTIFY, RESIZE, Stage
from pipeline.storage.publish import publish
from pipeline.storage.staging import staging
from tests.integration.conftest import worker_of
from tests.support.echo import COUNTS
from tests.support.waiting import wait_for


def a_job(results: str) -> Job:
    """Return a job with a published image, which redirects its result to the queue `results`."""
    aws.sqs().create_queue(QueueName=results)
    payload = {"image_url": "http://127.0.0.1:9/cover.jpg", "redirect_queue": results}
    job = Job.accept(payload, job_id=secrets.token_hex(8), settings=get_settings(), stage_payload=lambda _: "")
    recipe = Recipe(get_settings().renditions, get_settings().resize_fit)
    content = Content(content_id(secrets.token_bytes(8), recipe), ".jpeg", recipe)
    publish(job.folder, content, dict.fromkeys(content.renditions, b"x"))
    return replace(job.with_sources({s.url: s.published(content) for s in job.sources}), ticket=secrets.token_hex(8))


def send(job: Job, stage: Stage, *, attempts: int = 0) -> None:
    """Send `job` to a stage, with a number of attempts already used."""
    from pipeline.actors import broker

    message: dramatiq.Message[None] = broker.get_actor(stage.actor).message_of(job)
    broker.enqueue(message.copy(options={ATTEMPTS: {"service": attempts}} if attempts else {}))


def staged() -> int:
    return aws.s3().list_objects_v2(Bucket=get_settings().s3_bucket, Prefix="pipeline-staging/")["KeyCount"]


def messages_in(queue: str) -> int:
    """Count the messages that are waiting, in flight or delayed."""
    url = aws.sqs().get_queue_url(QueueName=queue)["QueueUrl"]
    return sum(map(int, aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=COUNTS)["Attributes"].values()))


def test_objects_staged_by_an_attempt_that_died_are_deleted_by_later_attempts(environment) -> None:
    # Given a job whose first resize died between staging and hand-over, and which another delivery completed
    done = a_job(f"results-{secrets.token_hex(4)}")
    (source,) = done.sources
    keys = {stage.name: done.staged_key(stage, source, source.known_content) for stage in (FETCH, RESIZE)}
    staging().put(b"renditions", keys["resize"])
    again = replace(source, due="resize", original=keys["fetch"])
    with worker_of("resize", "notify"):
        # When its message is received again
        send(done.with_sources({source.url: again}), RESIZE, attempts=1)
        # Then the job ends, and staging is empty.
        wait_for(lambda: messages_in(done.payload["redirect_queue"]) == 1)
        wait_for(lambda: staged() == 0)


def test_a_failed_clean_up_is_retried_without_the_deliveries(environment, tmp_path: Path, monkeypatch) -> None:
    # Given a staging that cannot delete a job's bytes, because a folder replaces the file
    monkeypatch.setenv("STAGING_URL", tmp_path.as_uri())
    lazy.forget()
    results = f"results-{secrets.token_hex(4)}"
    done = a_job(results)
    (source,) = done.sources
    key = done.staged_key(RESIZE, source, source.known_content)
    staged_file = tmp_path / key[:2] / key
    staged_file.mkdir(parents=True)
    events: list[Event] = []
    subscribe(events.append)
    try:
        with worker_of("notify"):
            # When the job ends, and staging recovers afterwards
            send(done.with_sources({source.url: replace(source, rendered=Rendered(key))}), NOTIFY)
            wait_for(lambda: events)
            staged_file.rmdir()
            staged_file.write_bytes(b"renditions")
            # Then its bytes are deleted, and it was delivered once.
            wait_for(lambda: not staged_file.exists())
            wait_for(lambda: [event.outcome for event in events] == [Outcome.RETRY, Outcome.DONE])
    finally:
        unsubscribe(events.append)
    assert events[0].worked_on == (CLEAN_UP,)
    assert messages_in(results) == 1
