"""Queues that do not exist yet, while several processes start."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.sqs.queues import QueueSpec, ensure_queue


class Racing:
    """An SQS in which another process creates a queue between the look-up and the creation, with other attributes.

    Args:
        created: The queues that the other process creates.
    """

    def __init__(self, *created: str) -> None:
        self._created = created
        self._there: set[str] = set()

    def get_queue_url(self, QueueName: str) -> dict[str, str]:
        if QueueName in self._there:
            return {"QueueUrl": f"http://sqs/{QueueName}"}
        raise ClientError({"Error": {"Code": "QueueDoesNotExist", "Message": ""}}, "GetQueueUrl")

    def create_queue(self, QueueName: str, **_: Any) -> dict[str, str]:
        self._there.update(self._created)
        raise ClientError({"Error": {"Code": "QueueNameExists", "Message": ""}}, "CreateQueue")


def test_a_queue_that_another_process_has_just_created_is_used() -> None:
    assert ensure_queue(Racing("work"), QueueSpec("work")) == "http://sqs/work"  # type: ignore[arg-type]


def test_a_queue_that_cannot_be_created_is_an_error() -> None:
    with pytest.raises(ClientError, match="QueueNameExists"):
        ensure_queue(Racing("other"), QueueSpec("work"))  # type: ignore[arg-type]


def test_a_new_queue_takes_messages_of_the_largest_size() -> None:
    assert QueueSpec("work").attributes(None)["MaximumMessageSize"] == str(1024 * 1024)


def test_a_url_may_be_forgotten_twice(broker) -> None:
    # Given two threads that both met a queue that was deleted
    broker.queues.url("work")
    for _ in range(2):
        broker.queues.forget_url("work")
    assert not broker.queues.knows_url("work")
