"""The reader of dead-letter queues: which messages are relevant, when it ends, and how long it tries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import formatdate
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.errors import RetryableError
from pipeline.ops.dead_letters import reader
from pipeline.ops.dead_letters.reader import FRUITLESS, QueueReader

#: SQS's time when the reader starts, in Unix seconds. Its Date header has whole seconds only.
NOW = 1_795_000_000


class Queue:
    """An SQS client of one queue, which answers each receive with the next of `answers`."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.answers: Iterator[list[dict[str, Any]]] = iter(answers)
        self.failing = False
        self.released: list[int] = []  #: messages of each request to make them visible

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        self._answer("GetQueueAttributes")
        counts = {"ApproximateNumberOfMessages": "3", "ApproximateNumberOfMessagesNotVisible": "0"}
        headers = {"date": formatdate(NOW, usegmt=True)}
        return {"Attributes": counts, "ResponseMetadata": {"HTTPHeaders": headers}}

    def receive_message(self, **_: Any) -> dict[str, Any]:
        self._answer("ReceiveMessage")
        return {"Messages": next(self.answers)}

    def change_message_visibility_batch(self, Entries: list[Any], **_: Any) -> None:
        self.released.append(len(Entries))
        self._answer("ChangeMessageVisibilityBatch")

    def _answer(self, operation: str) -> None:
        if self.failing:
            raise ClientError({"Error": {"Code": "InternalError"}}, operation)


def message(number: int, sent: float = NOW - 60) -> dict[str, Any]:
    sent_at = {"SentTimestamp": str(int(sent * 1000))}
    return {"MessageId": f"id-{number}", "ReceiptHandle": f"handle-{number}", "Attributes": sent_at}


def read(queue: Any) -> QueueReader:
    return QueueReader(queue, "letters", "http://sqs/letters", stopped=Event(), until=None, rate=None)


def ids(received: list[Any]) -> list[str]:
    return [each["MessageId"] for each in received]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, without making them."""
    made: list[float] = []
    # Only this module's: threads of other tests may sleep meanwhile.
    monkeypatch.setattr(reader, "time", SimpleNamespace(sleep=made.append, monotonic=time.monotonic, time=time.time))
    return made


def test_messages_sent_after_the_start_are_ignored_by_the_clock_of_sqs() -> None:
    # Given messages sent before, within and after the second in which SQS answered first
    letters = read(Queue([message(1, NOW - 60), message(2, NOW + 0.9), message(3, NOW + 1.1)]))
    # Then only the last one is too new.
    assert ids(letters.receive()) == ["id-1", "id-2"]


def test_it_ends_after_several_receives_in_a_row_without_a_relevant_message() -> None:
    # Given a queue that gives messages that are too new, less often than the reader accepts, then once more than that
    late = [[message(9, NOW + 60)]] * (FRUITLESS - 1)
    queue = Queue(*late, [message(1)], *late, [message(2)], *late, late[0], [message(3)])
    letters = read(queue)
    # Then a relevant message in between is read, and none after the end.
    assert [ids(letters.receive()) for _ in range(4)] == [["id-1"], ["id-2"], [], []]
    assert list(queue.answers) == [[message(3)]]


def test_errors_have_the_code_of_sqs(pauses: list[float]) -> None:
    queue = Queue()
    letters = read(queue)
    queue.failing = True
    for fails in (letters.receive, lambda: read(queue)):
        with pytest.raises(RetryableError, match="the queue letters: SQS answered InternalError") as raised:
            fails()
        assert raised.value.code == "sqs_error"
    # and a receive was tried again after each pause
    assert pauses == list(reader.PAUSES)


def test_a_release_is_tried_twice_and_gives_up_for_all_messages(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    # Given 25 received messages
    queue = Queue(*([message(n) for n in range(first, last)] for first, last in ((0, 10), (10, 20), (20, 25))))
    letters = read(queue)
    for _ in range(3):
        letters.receive()
    # When SQS fails, then the first batch is tried again after a short pause, and the others are not tried.
    queue.failing = True
    letters.release()
    assert queue.released == [10, 10]
    assert pauses == [0.5]
    assert "stay hidden for up to 60 s" in caplog.text
