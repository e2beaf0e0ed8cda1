"""The limits of one request to SQS, and the ids of messages."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import NAMESPACE_DNS, uuid5

import pytest
from botocore.exceptions import ClientError

from pipeline.sqs.queues import MAX_MESSAGE_BYTES
from pipeline.sqs.wire import Reason, SendEntry, decode, describe, encode, with_good_id
from tests.support.received import message


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


@pytest.mark.parametrize(
    "entry",
    [
        SendEntry("x", delay=901),
        SendEntry("x", group="g" * 129),
        SendEntry("x", group="a b"),
        SendEntry(""),
        SendEntry("\x00"),
    ],
)
def test_an_entry_that_sqs_would_refuse_is_an_error(entry: SendEntry) -> None:
    assert type(entry.error()) is ValueError


YEAR_10000 = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp() + 86_400) * 1000


@pytest.mark.parametrize(
    ("timestamp", "is_good"), [(-1, False), (0, True), (YEAR_10000 - 1, True), (YEAR_10000, False)]
)
def test_a_timestamp_is_a_date_that_python_can_write(timestamp: int, is_good: bool) -> None:
    body = encode(message("x").copy(message_timestamp=timestamp))
    if is_good:
        assert decode(body).message_timestamp == timestamp
    else:
        with pytest.raises(ValueError, match="timestamp"):
            decode(body)


def test_a_reason_of_which_little_is_known_has_no_empty_attribute() -> None:
    attributes = Reason("bad", "It is bad.", last=1).attributes()
    assert attributes == {
        "error_code": "bad",
        "error_message": "It is bad.",
        "attempts": "1",
        "last_at": "1970-01-01T00:00:01+00:00",
    }


@pytest.mark.parametrize("forged", ["two\nlines", "\ud800", "x" * 65, "", "a b"])
def test_an_id_that_could_not_be_logged_is_replaced_by_one_of_the_sqs_message(forged: str) -> None:
    good, bad = (with_good_id(message("x").copy(message_id=each), "sqs id") for each in ("good-1", forged))
    assert good.message_id == "good-1"
    assert bad.message_id == str(uuid5(uuid5(NAMESPACE_DNS, "message.image-pipeline"), "sqs id"))


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
