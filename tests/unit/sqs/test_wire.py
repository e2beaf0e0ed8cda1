"""The limits of one request to SQS."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from pipeline.sqs.queues import MAX_MESSAGE_BYTES
from pipeline.sqs.wire import SendEntry, describe


def sizes(entries: list[SendEntry]) -> list[list[int]]:
    return [[entry.size for entry in batch] for batch in SendEntry.in_batches(entries)]


def test_a_batch_has_at_most_ten_entries() -> None:
    assert sizes([SendEntry("x")] * 23) == [[1] * 10, [1] * 10, [1] * 3]


def test_a_batch_has_at_most_one_mebibyte() -> None:
    half = MAX_MESSAGE_BYTES // 2
    batches = sizes(
        [
            SendEntry("x" * half),
            SendEntry("x" * half),
            SendEntry("x"),
            SendEntry("x" * MAX_MESSAGE_BYTES),
            SendEntry("x"),
        ]
    )
    assert batches == [[half, half], [1], [MAX_MESSAGE_BYTES], [1]]


def test_an_empty_list_makes_no_batch() -> None:
    assert sizes([]) == []


@pytest.mark.parametrize(
    ("error", "described"),
    [
        (ClientError({"Error": {"Code": "AccessDenied", "Message": "hush"}}, "SendMessage"), "AccessDenied"),
        (ClientError({}, "SendMessage"), "Unknown"),
        (ValueError("hush"), "ValueError"),
    ],
)
def test_an_error_is_described_by_its_code_alone(error: Exception, described: str) -> None:
    assert describe(error) == described
