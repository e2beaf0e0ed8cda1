"""The consumer, stepped: what is received, handed on and sent elsewhere, on a scripted SQS."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from botocore.exceptions import ClientError

from pipeline.sqs.consumer import MAX_TRANSFERS
from pipeline.sqs.leases import DELETE_WAIT, MAX_LEASE, MAX_UNDELETED
from pipeline.sqs.queues import MAX_MESSAGE_BYTES, MAX_RECEIVES, QUARANTINE_AT
from pipeline.sqs.settlement import Delete
from pipeline.sqs.wire import MAX_DUE, Unavailable, encode
from tests.support.received import (
    CHANGE,
    DELETE,
    RECEIVE,
    SEND,
    arrive,
    delete_all,
    message,
    sent_to,
    start,
    took,
)
from tests.support.scripted_sqs import (
    confirm,
    fail,
    unreachable,
)


def test_received_messages_are_handed_on_with_their_leases(broker, sqs) -> None:
    consumer = broker.consume("work", prefetch=4)
    arrive(sqs, "a")
    arrive(sqs, "b", receives=QUARANTINE_AT - 1)
    assert consumer.step() == 0
    assert [(each.sqs_id, each.receives) for each in took(consumer)] == [("a", 1), ("b", 3)]
    assert len(consumer.leases) == 2


def test_a_message_without_its_parts_holds_up_no_other(broker, sqs) -> None:
    consumer = broker.consume("work", prefetch=8)
    arrive(sqs, "a")
    sqs.waiting.append({"MessageId": "b"})
    arrive(sqs, "c")
    consumer.step()
    assert [each.sqs_id for each in took(consumer)] == ["a", "c"]


def test_a_message_that_nothing_was_decided_about_is_released_and_not_deleted(broker, sqs, clock) -> None:
    consumer = broker.consume("work", prefetch=4)
    arrive(sqs, "a")
    consumer.step()
    (received,) = took(consumer)
    for end in (consumer.ack, consumer.nack):
        end(received)
    delete_all(consumer, clock)
    assert sqs.of(DELETE) == []
    assert sqs.of(CHANGE)[0][0]["VisibilityTimeout"] == 0


def test_messages_of_a_batch_that_go_elsewhere_are_sent_together(broker, sqs, clock) -> None:
    # Given a batch of messages that are not due, were received often, or are invalid
    consumer = broker.consume("work", prefetch=20)
    later = int((clock.time() + 7200) * 1000)
    for n in range(4):
        arrive(sqs, f"hop {n}", due=later)
    bodies = [arrive(sqs, f"often {n}", receives=QUARANTINE_AT) for n in range(3)]
    arrive(sqs, "bad 1", body="no json")
    arrive(sqs, "bad 2", body="{}")
    arrive(sqs, "good")
    # When it is received
    consumer.step()
    # Then each queue receives one request, with unchanged bodies for quarantine,
    assert [len(entries) for entries in sqs.of(SEND)] == [4, 3, 2]
    assert [entry["DelaySeconds"] for entry in sent_to(sqs, "work")] == [60] * 4
    assert [entry["MessageBody"] for entry in sent_to(sqs, "poison")] == bodies
    assert [entry["MessageBody"] for entry in sent_to(sqs, "work_dlq")] == ["no json", "{}"]
    # they are deleted, and the good message is in progress.
    assert [each.sqs_id for each in took(consumer)] == ["good"]
    delete_all(consumer, clock)
    assert sum(map(len, sqs.of(DELETE))) == 9


def test_a_flood_of_hops_takes_two_requests_for_ten(broker, sqs, clock) -> None:
    # Given 600 hops in front of a live message, while half of the threads are busy
    consumer = broker.consume("work", prefetch=32)
    for n in range(8):
        arrive(sqs, f"busy {n}")
    consumer.step()
    assert start(consumer) == 8
    later = int((clock.time() + 7200) * 1000)
    for n in range(600):
        arrive(sqs, f"hop {n}", due=later)
    arrive(sqs, "live")
    sqs.requests.clear()
    # When the consumer works them off
    waits = []
    clock.now += 1
    while not (live := took(consumer)):
        waits.append(consumer.step())
        consumer.leases.step()
        assert len(waits) < 100
    # Then it makes a receive and a send for each ten, and never waits for other threads: at 15 ms, 300 hops a second.
    assert [each.sqs_id for each in live] == ["live"]
    assert (len(sqs.of(RECEIVE)), len(sqs.of(SEND))) == (61, 61)
    assert set(waits[:-1]) == {0}


def test_what_cannot_be_sent_is_kept_and_others_are_received_meanwhile(broker, sqs, clock) -> None:
    # Given an SQS that refuses sends for far longer than an actor may take, and bad messages
    consumer = broker.consume("work", prefetch=40)
    for n in range(MAX_TRANSFERS):
        arrive(sqs, f"bad {n}", body="no json")
    arrive(sqs, "good")
    sqs.answers[SEND] = unreachable
    attempts = []
    until = clock.now + 2 * MAX_LEASE
    while clock.now < until:
        before = len(sqs.of(SEND))
        wait = consumer.step()
        attempts += [clock.now] * (len(sqs.of(SEND)) > before)
        consumer.leases.step()
        clock.now += min(wait or 1.0, 15.0)
    # Then they stay leased, nothing more is received, and the waits grow and vary.
    assert (len(consumer.leases), len(sqs.waiting), sqs.of(DELETE)) == (MAX_TRANSFERS, 1, [])
    waits = [later - earlier for earlier, later in pairwise(attempts)]
    assert 7.5 <= min(waits[-9:]) < max(waits[-9:]) <= 15
    # When SQS accepts sends again, then they are sent and deleted, and the good one is received.
    sqs.answers[SEND] = confirm
    clock.now += 15
    consumer.step()
    delete_all(consumer, clock)
    assert [entry["MessageBody"] for entry in sent_to(sqs, "work_dlq")][-MAX_TRANSFERS:] == ["no json"] * MAX_TRANSFERS
    assert sum(map(len, sqs.of(DELETE))) == MAX_TRANSFERS
    assert len(took(consumer)) == 1


def test_only_what_was_not_confirmed_is_sent_again(broker, sqs, clock) -> None:
    consumer = broker.consume("work", prefetch=20)
    for n in range(3):
        arrive(sqs, f"bad {n}", body=f"no json {n}")
    sqs.answers[SEND] = lambda entries: {"Successful": [{"Id": "1"}]}
    wait = consumer.step()
    clock.now += wait
    sqs.answers[SEND] = confirm
    consumer.step()
    assert [[entry["MessageBody"] for entry in entries] for entries in sqs.of(SEND)] == [
        ["no json 0", "no json 1", "no json 2"],
        ["no json 0", "no json 2"],
    ]


def test_a_body_too_large_for_its_reason_waits_for_its_store(broker, sqs, clock) -> None:
    answers: list[Any] = [Unavailable("S3 is down."), "key-1"]

    def store(body: bytes) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    broker.sender.oversize = store
    consumer = broker.consume("work", prefetch=4)
    arrive(sqs, "bad", body="x" * MAX_MESSAGE_BYTES)
    consumer.step()
    assert sqs.of(SEND) == []
    clock.now += 1
    consumer.step()
    ((letter,),) = sqs.of(SEND)
    assert letter["MessageAttributes"]["staging_key"]["StringValue"] == "key-1"


def test_a_hop_while_deletes_are_refused_is_sent_once(broker, sqs, clock) -> None:
    # Given a message that moved to quarantine, and whose delete SQS refuses
    consumer = broker.consume("work", prefetch=4)
    arrive(sqs, "often", receives=QUARANTINE_AT)
    sqs.answers[DELETE] = fail
    consumer.step()
    delete_all(consumer, clock)
    # When SQS delivers it again and again
    for receives in range(QUARANTINE_AT + 1, 30):
        arrive(sqs, "often", receives=receives)
        clock.now += 1
        consumer.step()
        consumer.leases.step()
    # Then it was sent once.
    assert len(sent_to(sqs, "poison")) == 1


def test_nothing_is_received_while_too_many_deletes_are_refused(broker, sqs, clock) -> None:
    consumer = broker.consume("work", prefetch=1000)
    sqs.answers[DELETE] = fail
    for n in range(MAX_UNDELETED + 50):
        arrive(sqs, str(n))
    for _ in range(60):
        consumer.step()
        clock.now += 1
        for received in took(consumer):
            received.ending = Delete()
            consumer.ack(received)
    assert len(sqs.waiting) == 50
    sqs.answers[DELETE] = confirm
    clock.now += 15
    consumer.leases.step()
    consumer.step()
    assert len(sqs.waiting) == 40


def test_a_message_that_is_hurried_is_handed_on_before_it_is_due(broker, sqs, clock) -> None:
    # Given two messages that are due in two hours, of which one is to wait no longer
    consumer = broker.consume("work", prefetch=4)
    later = int((clock.time() + 7200) * 1000)
    broker.sender.is_hurried = lambda waiting: waiting.args == ("hurried",)
    for name in ("hurried", "patient"):
        arrive(sqs, name, due=later)
    # When they are received
    consumer.step()
    # Then that one is handed on, without its due time, and the other one hops.
    (received,) = took(consumer)
    assert (received.sqs_id, "due" in received.options) == ("hurried", False)
    assert len(sent_to(sqs, "work")) == 1


def test_a_wait_that_began_at_no_possible_time_holds_up_no_other_message(broker, sqs, clock) -> None:
    consumer = broker.consume("work", prefetch=4)
    later = int((clock.time() + 7200) * 1000)
    arrive(sqs, "bad", due=later, since=10**400)
    arrive(sqs, "good")
    broker.sender.is_hurried = lambda waiting: waiting.options["since"] / 1000 > 0
    consumer.step()
    assert [each.sqs_id for each in took(consumer)] == ["good"]
    assert len(sent_to(sqs, "work_dlq")) == 1


def test_a_hop_is_deleted_at_once_because_a_crash_would_make_it_two_jobs(broker, sqs, clock) -> None:
    consumer = broker.consume("work", prefetch=4)
    arrive(sqs, "early", due=int((clock.time() + 7200) * 1000))
    consumer.step()
    consumer.leases.step()
    assert len(sqs.of(DELETE)) == 1


def test_a_message_of_the_largest_size_hops(broker, sqs, clock) -> None:
    # Given a message of the largest size, whose release added no time since when it waits
    consumer = broker.consume("work", prefetch=4)
    due = int((clock.time() + 7200) * 1000)
    room = MAX_MESSAGE_BYTES - len(encode(message("", due=due)))
    body = arrive(sqs, "early", body=encode(message("x" * room, due=due)))
    # When it is received before it is due, then it hops unchanged.
    consumer.step()
    assert [entry["MessageBody"] for entry in sent_to(sqs, "work")] == [body]


def test_a_message_that_would_hop_for_longer_than_any_delay_is_refused(broker, sqs, clock) -> None:
    consumer = broker.consume("work", prefetch=4)
    for name, seconds in (("as late as allowed", MAX_DUE), ("too late", MAX_DUE + 1)):
        arrive(sqs, name, due=int((clock.time() + seconds) * 1000))
    consumer.step()
    assert len(sent_to(sqs, "work")) == 1
    ((_, letter),) = zip(sent_to(sqs, "work"), sent_to(sqs, "work_dlq"), strict=True)
    assert "days" in letter["MessageAttributes"]["error_message"]["StringValue"]


def test_a_message_that_was_redriven_to_the_other_lane_belongs_to_it(broker, sqs) -> None:
    consumer = broker.consume("work", prefetch=4)
    arrive(sqs, "a", queue="bulk")
    consumer.step()
    (received,) = took(consumer)
    assert (received.queue_name, received.original.queue_name) == ("work", "work")


def test_a_queue_without_quarantine_buries_at_its_last_receive(broker, sqs, clock) -> None:
    consumer = broker.consume("plain", prefetch=4)
    arrive(sqs, "a", receives=MAX_RECEIVES - 1, queue="plain")
    arrive(sqs, "b", receives=MAX_RECEIVES, queue="plain")
    consumer.step()
    assert [each.sqs_id for each in took(consumer)] == ["a"]
    ((letter,),) = sqs.of(SEND)
    assert letter["QueueUrl"].endswith("plain_dlq")
    told = {name: each["StringValue"] for name, each in letter["MessageAttributes"].items()}
    assert (told["error_code"], told["stage"], told["attempts"]) == ("worker_crashed", "plain", str(MAX_RECEIVES))


def test_a_receive_hides_messages_for_the_time_that_leases_count_with(broker, sqs) -> None:
    broker.visibility_timeout = 7
    broker.consume("work").step()
    ((request,),) = sqs.of(RECEIVE)
    assert request["VisibilityTimeout"] == 7


def test_a_receive_asks_how_often_each_message_was_received(broker, sqs) -> None:
    broker.consume("work").step()
    ((request,),) = sqs.of(RECEIVE)
    assert request["MessageSystemAttributeNames"] == ["ApproximateReceiveCount"]


def test_deletes_wait_for_others_except_in_quarantine(broker, sqs, clock) -> None:
    # Given a message of a stage's queue, and a quarantined one
    for queue in ("work", "poison"):
        consumer = broker.consume(queue)
        arrive(sqs, queue)
        consumer.step()
        (message,) = took(consumer)
        # When each ends
        message.ending = Delete()
        consumer.ack(message)
        consumer.leases.step()
    # Then the second is deleted at once, because another receive would count as a crash,
    assert sqs.handles(DELETE) == [["handle of poison"]]
    # and the first once others may have ended.
    clock.now += DELETE_WAIT
    broker.in_hand.consumers[0].leases.step()
    assert sqs.handles(DELETE) == [["handle of poison"], ["handle of work"]]


def test_a_failed_receive_keeps_no_other_quarantine_queue_waiting(broker, sqs, clock) -> None:
    first, second = broker.consume("poison"), broker.consume("other_poison")
    receive, sqs.receive_message = sqs.receive_message, lambda **_: unreachable([])
    assert first.step() > 0
    sqs.receive_message = receive
    arrive(sqs, "b", queue="other")
    second.step()
    assert len(took(second)) == 1


def test_a_queue_that_was_deleted_is_looked_up_again_at_the_next_receive(broker, sqs) -> None:
    # Given a queue that SQS does not know any more
    consumer = broker.consume("work")
    consumer.step()
    assert broker.queues.knows_url("work")
    missing = ClientError({"Error": {"Code": "AWS.SimpleQueueService.NonExistentQueue"}}, "ReceiveMessage")
    sqs.receive_message = lambda **_: raise_(missing)
    # When it is asked, then its URL is forgotten, and the next receive finds or makes the queue.
    assert consumer.step() > 0
    assert not broker.queues.knows_url("work")


def raise_(error: Exception) -> None:
    raise error


def test_a_bulk_queue_is_ready_again_although_live_messages_keep_it_from_receiving(broker, sqs, clock) -> None:
    # Given a bulk queue that receives nothing because SQS refused to extend a lease
    consumer = broker.consume("bulk", prefetch=4)
    arrive(sqs, "a", queue="bulk")
    consumer.step()
    sqs.answers[CHANGE] = fail
    clock.now += 60
    consumer.leases.step()
    consumer.step()
    assert consumer.receiver.unanswered_since is not None
    # When SQS takes requests again, while live messages wait for a thread
    sqs.answers.clear()
    clock.now += 60
    consumer.leases.step()
    broker.in_hand.may_receive = lambda bulk: False
    consumer.step()
    # Then nothing is unanswered.
    assert consumer.receiver.unanswered_since is None
