"""The limits of one request to SQS."""

from __future__ import annotations

from pipeline.sqs.queues import MAX_MESSAGE_BYTES
from pipeline.sqs.wire import SendEntry


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
