"""Makes dead letters in the service's format."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

from pipeline.clients import aws
from pipeline.job import Content, Job, Rendered, Sweep
from pipeline.recipe import Recipe
from pipeline.settings import get_settings
from pipeline.sqs.wire import Reason, SendEntry, encode
from pipeline.stages import Stage


def job_at(url: str = "http://example.org/cover.jpg?token=t", **more: Any) -> Job:
    """Make a job whose source is due in upload, with its renditions in staging."""
    payload = {"image_url": url, "bucket_name": "Show", "postback_url": "http://hooks.example/in?key=k"} | more
    job = Job.accept(payload, job_id="5f43a1e2-0000", settings=get_settings(), stage_payload=lambda _: "0" * 32)
    recipe = Recipe(get_settings().renditions, get_settings().resize_fit)
    rendered = Rendered("1" * 32, {"50x50": 1})
    sources = {
        source.url: source.fetched("2" * 32, Content("a" * 32, ".jpeg", recipe)).resized(rendered)
        for source in job.sources
    }
    return job.with_sources(sources)


def sweep_job() -> Job:
    sweep = Sweep("episodes", "run-1", "cover/run-1/x")
    return Job.of_sweep(sweep, job_id="job-of-sweep", folder="F", urls={"itunes_image": "http://example.org/e.jpg"})


Letter = tuple[str, SendEntry]  #: Its queue without the namespace, and the entry.


def letter_of(job: Job, stage: Stage, code: str = "s3_error", *, age: float = 0, with_reason: bool = True) -> Letter:
    """Make a letter of `job`, given up `age` seconds ago. Without `with_reason`, SQS moved it and gave no reason."""
    from pipeline.actors import broker

    actor = broker.get_actor(stage.actor)
    message = actor.message_of(replace(job, redrives=job.redrives + 1 if with_reason else 0))  # type: ignore[attr-defined]
    message = message.copy(options={"attempts": {"service": 8}, "other": 1})
    gone = time.time() - age
    reason = Reason(code, f"It failed with {code}.", stage=stage.name, attempts=9, first=gone - 60, last=gone)
    body = encode(message)
    return stage.dead_letter_queue, SendEntry.of_dead_letter(body, reason) if with_reason else SendEntry(body)


def received(body: str = "{}", **attributes: str) -> Any:
    """Return a message with a letter as SQS delivers it, sent at 2026-11-18 11:06:40 UTC."""
    return {
        "MessageId": "id-1",
        "Body": body,
        "Attributes": {"SentTimestamp": "1795000000000"},
        "MessageAttributes": {name: {"StringValue": value} for name, value in attributes.items()},
    }


def put(*letters: Letter) -> None:
    """Put letters into their queues."""
    from pipeline.actors import broker

    for queue in {queue for queue, _ in letters}:
        errors = broker.sender.send(queue, [entry for name, entry in letters if name == queue])
        assert not any(errors), errors


def refused(text: str, code: str) -> Letter:
    """Make a message that `ingest` refused."""
    return "ingest_dlq", SendEntry.of_dead_letter(text, Reason(code, "It was refused.", stage="ingest"))


def counts(queue: str) -> tuple[int, int]:
    """Count the waiting and the hidden messages of a queue."""
    from pipeline.actors import broker

    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = aws.sqs().get_queue_attributes(QueueUrl=broker.queues.url(queue), AttributeNames=names)  # type: ignore[arg-type]
    waiting, hidden = (int(attributes["Attributes"][name]) for name in names)  # type: ignore[index]
    return waiting, hidden


def taken(queue: str) -> list[dict[str, Any]]:
    """Empty a queue and return the bodies of its messages."""
    from pipeline.actors import broker

    url, bodies = broker.queues.url(queue), []
    while (
        found := aws.sqs()
        .receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0, MessageSystemAttributeNames=["All"])
        .get("Messages")
    ):
        for message in found:
            bodies.append(json.loads(message["Body"]) | {"group": message["Attributes"].get("MessageGroupId")})
            aws.sqs().delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return bodies
