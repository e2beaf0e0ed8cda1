"""Jobs that a producer forges with its own permissions: a worker in this process, on the embedded SQS and S3."""

from __future__ import annotations

import pytest

from pipeline.clients import aws, lazy
from pipeline.images.content_id import content_id
from pipeline.job import Content, Job, Rendered, Source
from pipeline.recipe import Recipe
from pipeline.settings import get_settings
from pipeline.storage.publish import object_key, publish
from pipeline.storage.staging import staging
from tests.integration.conftest import worker_of
from tests.support.dead import counts
from tests.support.waiting import wait_for

KEY, MADE_UP = "0123456789abcdef" * 2, "fedcba9876543210" * 2


@pytest.fixture
def job_key(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_KEY", KEY)
    lazy.forget()


def letters(queue: str) -> list[dict[str, str]]:
    """Return the attributes of the dead letters of a queue."""
    url = aws.sqs().get_queue_url(QueueName=get_settings().full_queue_name(queue))["QueueUrl"]
    received = aws.sqs().receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0, VisibilityTimeout=0, MessageAttributeNames=["All"]
    )
    return [
        {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
        for message in received.get("Messages", [])
    ]


def test_a_forged_job_overwrites_no_cover_and_is_a_dead_letter(
    job_key: None, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.actors import broker, fetch_image

    # Given the published cover of another tenant
    recipe = Recipe(get_settings().renditions, "cover")
    content = Content(content_id(b"the victim's cover", recipe), ".jpeg", recipe)
    publish("VICTIM", content, dict.fromkeys(content.renditions, b"victim"))
    # When a producer stages other bytes, and sends fetch a job that seems to have been rendered
    blob = dict.fromkeys(content.renditions, b"attacker")
    rendered = Rendered.of(staging().put(b"".join(blob.values())), blob, b"".join(blob.values()))
    source = Source("http://a.example/", ("image_url",)).fetched("0" * 32, content).resized(rendered)
    forged = Job("forged", "VICTIM", (source,), payload={"image_url": source.url, "redirect_queue": "mine"})
    monkeypatch.delenv("JOB_KEY")
    lazy.forget()
    unsigned = fetch_image.message_of(forged)
    monkeypatch.setenv("JOB_KEY", MADE_UP)
    lazy.forget()
    signed = fetch_image.message_of(forged)
    monkeypatch.setenv("JOB_KEY", KEY)
    lazy.forget()
    with worker_of("fetch", "upload"):
        for message in (unsigned, signed):
            broker.enqueue(message)
        # Then both are refused with a reason, nothing is passed on, and the cover is unchanged.
        found = wait_for(lambda: len(found := letters("fetch_dlq")) == 2 and found)
        assert {(letter["error_code"], letter["stage"]) for letter in found} == {("bad_proof", "fetch")}
        assert counts("upload") == (0, 0)
    for name in content.renditions:
        found = aws.s3().get_object(Bucket=environment["S3_BUCKET"], Key=object_key("VICTIM", content, name))
        assert found["Body"].read() == b"victim"


def test_a_producer_without_the_key_sends_payloads_of_any_size(job_key: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.actors import fetch_image

    # Given a producer that has no key and cannot write to staging
    monkeypatch.delenv("JOB_KEY")
    monkeypatch.setenv("STAGING_URL", "s3://nowhere/staging/")
    lazy.forget()
    message = {"image_url": "https://[", "redirect_queue": "nowhere", "note": "x" * 500_000}
    fetch_image.send(message)
    # When a worker receives its payload, then it stages it, and passes the job on with a proof.
    monkeypatch.setenv("JOB_KEY", KEY)
    monkeypatch.delenv("STAGING_URL")
    lazy.forget()
    with worker_of("fetch"):
        wait_for(lambda: counts("notify") == (1, 0))
        assert not letters("notify_dlq")
