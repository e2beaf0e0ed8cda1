"""Sending: what counts as confirmed, and which requests are made."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError
from dramatiq.encoder import PickleEncoder
from dramatiq_sqs.exceptions import MessageTooLarge

from pipeline.sqs.broker import SQSBroker
from pipeline.sqs.queues import MAX_MESSAGE_BYTES, Queue
from pipeline.sqs.sender import MAX_PARALLEL_BATCHES
from pipeline.sqs.wire import MAX_BATCH, Reason, SendEntry, SendFailed, decode, encode
from tests.support.moved_clock import MovedClock
from tests.support.scripted_sqs import ScriptedSQS, StillLoop, confirm, fail
from tests.unit.sqs.test_settlement import message

SEND = "send_message_batch"


@pytest.fixture
def sqs() -> ScriptedSQS:
    return ScriptedSQS()


@pytest.fixture
def broker(sqs: ScriptedSQS) -> SQSBroker:
    broker = SQSBroker("test", lambda: sqs, queues=[Queue("bulk", "work_dlq")], clock=MovedClock(), loop=StillLoop)
    for queue in ("work", "bulk"):
        broker.declare_queue(queue)
    return broker


@pytest.mark.parametrize("at_once", [False, True])
def test_only_entries_that_the_answer_names_successful_are_confirmed(broker, sqs, at_once: bool) -> None:
    # Given an answer that names one entry successful, one failed, and one not at all
    failed = {"Id": "1", "Code": "InternalError", "SenderFault": False}
    sqs.answers[SEND] = lambda entries: {"Successful": [{"Id": "0"}], "Failed": [failed]}
    # When three are sent
    errors = broker.sender.send("work", [SendEntry(body) for body in "abc"], at_once=at_once)
    # Then two are not confirmed.
    assert [type(error) for error in errors] == [type(None), SendFailed, SendFailed]


def test_a_group_that_the_endpoint_refuses_is_left_out_of_the_refused_entries_only(broker, sqs) -> None:
    # Given an endpoint that refuses entries with a group
    def answer(entries: list[dict[str, Any]]) -> dict[str, Any]:
        grouped = [entry for entry in entries if "MessageGroupId" in entry]
        refusal = {"Code": "InvalidParameterValue", "Message": "MessageGroupId is not valid", "SenderFault": True}
        good = [entry for entry in entries if entry not in grouped]
        return {"Successful": confirm(good)["Successful"], "Failed": [refusal | {"Id": e["Id"]} for e in grouped]}

    sqs.answers[SEND] = answer
    # When entries with and without one are sent
    entries = [SendEntry("a", group="g"), SendEntry("b"), SendEntry("c", group="g")]
    assert broker.sender.send("work", entries) == [None] * 3
    # Then these are sent again without it, to the same queue.
    assert [[entry["MessageBody"] for entry in request] for request in sqs.of(SEND)] == [["a", "b", "c"], ["a", "c"]]
    assert {entry["QueueUrl"] for request in sqs.of(SEND) for entry in request} == {"http://sqs/test_work"}
    assert [entry.get("MessageGroupId") for entry in sqs.of(SEND)[0]] == ["g", None, "g"]


def test_groups_are_tried_once_on_an_endpoint_that_refuses_whole_requests_with_them(broker, sqs) -> None:
    def answer(entries: list[dict[str, Any]]) -> dict[str, Any]:
        if any("MessageGroupId" in entry for entry in entries):
            text = "The request include parameter MessageGroupId which is not valid for this queue type"
            raise ClientError({"Error": {"Code": "InvalidParameterValue", "Message": text}}, "SendMessageBatch")
        return confirm(entries)

    sqs.answers[SEND] = answer
    for _ in range(2):
        assert broker.sender.send("work", [SendEntry("a", group="g")]) == [None]
    assert len(sqs.of(SEND)) == 3


def test_an_entry_that_sqs_would_refuse_is_not_sent_and_blocks_no_other(broker, sqs) -> None:
    errors = broker.enqueue_many([message("a"), message("x" * MAX_MESSAGE_BYTES), message("b")])
    assert [type(error) for error in errors] == [type(None), MessageTooLarge, type(None)]
    assert [len(entries) for entries in sqs.of(SEND)] == [2]


@pytest.mark.parametrize(("delay", "seconds"), [(None, 0), (1, 1), (1000, 1), (1001, 2), (90_000, 90)])
def test_a_short_delay_is_sqss_own_rounded_up(broker, delay: int | None, seconds: int) -> None:
    entry = broker.sender.entry(message("x"), delay or 0)
    assert (entry.delay, decode(entry.body).options) == (seconds, {})


def test_a_message_keeps_its_group_when_it_is_sent_and_when_it_hops(broker) -> None:
    entry = broker.sender.entry(message("x").copy(options={"group": "folder"}), 3_600_000)
    assert entry.group == "folder"
    assert broker.sender.hop(decode(entry.body), entry.body).group == "folder"


def test_a_failure_without_a_message_is_no_refusal_of_a_group(broker, sqs) -> None:
    sqs.answers[SEND] = lambda entries: {"Failed": [{"Id": "0", "Code": "InternalError", "SenderFault": False}]}
    (error,) = broker.sender.send("work", [SendEntry("a", group="g")])
    assert isinstance(error, SendFailed)
    assert len(sqs.of(SEND)) == 1


def test_sends_of_one_call_are_batched_by_queue(broker, sqs) -> None:
    messages = [message("a"), message("b").copy(queue_name="bulk"), message("c")]
    assert broker.enqueue_many(messages) == [None] * 3
    assert [[entry["QueueUrl"][-4:] for entry in request] for request in sqs.of(SEND)] == [["work"] * 2, ["bulk"]]


def test_dead_letters_of_queues_that_share_them_go_to_one_queue(broker, sqs) -> None:
    for queue in ("work", "bulk", "ingest"):
        broker.bury(queue, "{}", Reason("bad", "It is bad."))
    assert [entries[0]["QueueUrl"].rpartition("_")[0] for entries in sqs.of(SEND)] == [
        "http://sqs/test_work",
        "http://sqs/test_work",
        "http://sqs/test_ingest",
    ]


def test_threads_share_a_request_under_a_backlog(sqs, monkeypatch) -> None:
    # Given a broker whose threads wait a minute for each other, and two that may send
    broker = SQSBroker("test", lambda: sqs, clock=MovedClock(), loop=StillLoop, window=60)
    broker.declare_queue("work")
    monkeypatch.setattr(broker.in_hand, "expected_sends", lambda bulk: 2)
    # When both do, then there is one request.
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda body: broker.sender.send("work", [SendEntry(body)]), "ab")) == [[None], [None]]
    assert [len(entries) for entries in sqs.of(SEND)] == [2]


def test_full_batches_are_sent_a_few_at_a_time(broker, sqs) -> None:
    # Given an SQS that answers once as many requests are out as are allowed
    under_way, most = 0, 0
    changed = threading.Condition()

    def answer(entries: list[dict[str, Any]]) -> dict[str, Any]:
        nonlocal under_way, most
        with changed:
            under_way += 1
            most = max(most, under_way)
            changed.notify_all()
            changed.wait_for(lambda: most >= MAX_PARALLEL_BATCHES, timeout=10)
            under_way -= 1
        return confirm(entries)

    sqs.answers[SEND] = answer
    # When three times as many batches are sent
    number = 3 * MAX_PARALLEL_BATCHES * MAX_BATCH
    assert broker.sender.send("work", [SendEntry("x")] * number) == [None] * number
    # Then no more are out at a time.
    assert most == MAX_PARALLEL_BATCHES


def test_a_broker_uses_its_own_encoder(sqs) -> None:
    class Shouting(PickleEncoder):
        def encode(self, data: Any) -> bytes:
            return encode(message(data["args"][0].upper())).encode()

    broker = SQSBroker("test", lambda: sqs, Shouting(), loop=StillLoop)
    broker.declare_queue("work")
    broker.enqueue(message("x"))
    assert decode(sqs.of(SEND)[0][0]["MessageBody"]).args == ("X",)


@pytest.mark.parametrize("at_once", [False, True])
def test_an_unexpected_error_of_a_request_confirms_nothing_and_raises_nothing(broker, sqs, at_once: bool) -> None:
    sqs.answers[SEND] = fail
    errors = broker.sender.send("work", [SendEntry("a")] * 25, at_once=at_once)
    assert [str(error) for error in errors] == ["SQS did not confirm a message: ConnectionError"] * 25
