"""Ingest during an outage of SQS's sends that is longer than the visibility timeout, on the embedded SQS."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterator

import pytest

from pipeline.clients import aws, lazy
from pipeline.job_ids import input_job_id
from pipeline.producer import send_message
from pipeline.sqs import leases
from pipeline.sqs.queues import queue_arn
from pipeline.worker.ingest import POLLS, Ingest
from tests.support.dead import taken
from tests.support.refusing import Refusal, Request, refusing
from tests.support.waiting import wait_for

MESSAGES = 30
#: Seconds, instead of 45, and instead of polls of 20 s.
VISIBILITY, POLL = 2, 1


class Sqs:
    """Refuses sends while it is down, and counts the requests to each queue."""

    def __init__(self) -> None:
        self.is_down = False
        self.requests: Counter[tuple[str, str]] = Counter()

    def __call__(self, request: Request) -> Refusal | None:
        self.requests[request.action, request.queue] += 1
        return Refusal(503, "ServiceUnavailable") if self.is_down and request.action == "SendMessageBatch" else None


@pytest.fixture
def sqs(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Sqs]:
    import pipeline.actors  # noqa: F401 - builds the broker that ingest sends with

    monkeypatch.setattr(leases, "LAST_BACKOFF", 1.0)
    rule = Sqs()
    with refusing(environment["AWS_ENDPOINT_URL"], rule) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", url)
        lazy.forget()
        yield rule


def input_queue(ending: str) -> tuple[str, str]:
    """Create an input queue that gives up after two receives; returns its URL and that of its dead-letter queue."""
    name, fifo = f"input-{secrets.token_hex(4)}", {"FifoQueue": "true"} if ending else {}
    dead = aws.sqs().create_queue(QueueName=f"{name}-dead{ending}", Attributes=fifo)["QueueUrl"]
    policy = {"deadLetterTargetArn": queue_arn(aws.sqs(), dead), "maxReceiveCount": 2}
    url = aws.sqs().create_queue(QueueName=name + ending, Attributes=fifo | {"RedrivePolicy": json.dumps(policy)})
    return url["QueueUrl"], dead


def fill(url: str) -> set[str]:
    """Send messages of three groups; returns the ids of their jobs."""
    entries = [
        {"Id": str(n), "MessageBody": json.dumps({"image_url": f"http://example.org/{n}", "postback_url": "http://p/"})}
        | ({"MessageGroupId": str(n % 3), "MessageDeduplicationId": str(n)} if url.endswith(".fifo") else {})
        for n in range(MESSAGES)
    ]
    sent = [
        each
        for start in range(0, MESSAGES, 10)
        for each in aws.sqs().send_message_batch(QueueUrl=url, Entries=entries[start : start + 10])["Successful"]
    ]
    return {input_job_id(each["MessageId"]) for each in sent}


def waiting(url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)


def test_an_outage_longer_than_the_visibility_timeout_costs_the_input_queues_nothing(sqs: Sqs) -> None:
    # Given a standard and a FIFO input queue that allow two receives, and an SQS that takes no sends
    queues = [input_queue(""), input_queue(".fifo")]
    ids = [fill(url) for url, _ in queues]
    sqs.is_down = True
    taking = [Ingest(url, visibility=VISIBILITY, poll=POLL) for url, _ in queues]
    for each in taking:
        each.start()
    try:
        # When the outage outlasts the visibility timeout: each lease is extended after a third of it,
        for url, _ in queues:
            queue = url.rpartition("/")[2]
            wait_for(lambda queue=queue: sqs.requests["ChangeMessageVisibilityBatch", queue] >= 5, timeout=60)
        received = [sqs.requests["ReceiveMessage", url.rpartition("/")[2]] for url, _ in queues]
        sqs.is_down = False
        # then ingest received nothing after its first requests,
        assert max(received) <= POLLS
        # all messages are handed over afterwards, once,
        for url, _ in queues:
            wait_for(lambda url=url: waiting(url) == 0, timeout=60)
        jobs = Counter(message["kwargs"]["job"]["id"] for message in taken("fetch"))
        assert jobs == Counter([*ids[0], *ids[1]])
        # and none is in the customer's dead-letter queue.
        assert [waiting(dead) for _, dead in queues] == [0, 0]
    finally:
        for each in taking:
            each.stop()
        for each in taking:
            each.join()


@pytest.mark.parametrize("ending", ["", ".fifo"])
def test_send_message_returns_the_id_of_the_job(sqs: Sqs, ending: str) -> None:
    # Given a message that a producer sent
    url, _ = input_queue(ending)
    job_id = send_message({"image_url": "http://example.org/1", "postback_url": "http://p/"}, url)
    # When ingest hands it over
    taking = Ingest(url, visibility=VISIBILITY, poll=POLL)
    taking.start()
    try:
        wait_for(lambda: waiting(url) == 0, timeout=60)
    finally:
        taking.stop()
        taking.join()
    # Then its job has the id that the producer was given
    assert [message["kwargs"]["job"]["id"] for message in taken("fetch")] == [job_id]
