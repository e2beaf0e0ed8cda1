"""The consumer, stepped: what is received, handed on, sent elsewhere and given back, on a scripted SQS."""

from __future__ import annotations

from typing import Any

from pipeline.errors import RetryableError
from pipeline.sqs.consumer import PARTIAL_BATCH_PAUSE, SQSConsumer
from pipeline.sqs.in_hand import BUSY_WINDOW
from pipeline.sqs.leases import MAX_LEASE, MAX_UNDELETED, Lease
from pipeline.sqs.queues import MAX_MESSAGE_BYTES, MAX_RECEIVES, QUARANTINE_AT
from pipeline.sqs.settlement import Delete
from pipeline.sqs.wire import MAX_DUE
from tests.support.received import CHANGE, DELETE, RECEIVE, SEND, arrive, delete_all, sent_to, took
from tests.support.scripted_sqs import (
    MovedClock,
    ScriptedSQS,
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


def test_after_a_poll_that_found_nothing_comes_the_next_one(broker, sqs) -> None:
    consumer = broker.consume("work")
    assert [consumer.step(), consumer.step()] == [0, 0]
    assert len(sqs.of(RECEIVE)) == 2


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
    assert [entry["DelaySeconds"] for entry in sent_to(sqs, "work")] == [900] * 4
    assert [entry["MessageBody"] for entry in sent_to(sqs, "poison")] == bodies
    assert [entry["MessageBody"] for entry in sent_to(sqs, "work_dlq")] == ["no json", "{}"]
    # they are deleted, and the good message is in progress.
    assert [each.sqs_id for each in took(consumer)] == ["good"]
    delete_all(consumer, clock)
    assert sum(map(len, sqs.of(DELETE))) == 9


def test_a_flood_of_hops_takes_two_requests_for_ten(broker, sqs, clock) -> None:
    # Given 600 hops in front of a live message, while every thread is busy
    consumer = broker.consume("work", prefetch=32)
    for n in range(16):
        arrive(sqs, f"busy {n}")
    while len(consumer.leases) < 16:
        consumer.step()
        clock.now += 0.1
    busy = took(consumer)
    for each in busy:
        broker.in_hand.working[each.lease] = False
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
    assert (len(sqs.of(RECEIVE)), len(sqs.of(SEND))) == (61, 60)
    assert set(waits[:-1]) == {0}


def test_what_cannot_be_sent_is_kept_and_nothing_is_received_meanwhile(broker, sqs, clock) -> None:
    # Given an SQS that refuses sends for far longer than an actor may take
    consumer = broker.consume("work", prefetch=20)
    arrive(sqs, "bad", body="no json")
    sqs.answers[SEND] = unreachable
    waits = []
    until = clock.now + 2 * MAX_LEASE
    while clock.now < until:
        waits.append(consumer.step())
        consumer.leases.step()
        clock.now += min(waits[-1] or 1.0, 15.0)
    # Then the message stays leased, one receive was made, and the waits grow and vary.
    assert (len(consumer.leases), len(sqs.of(RECEIVE)), sqs.of(DELETE)) == (1, 1, [])
    assert 7.5 <= min(waits[-9:]) < max(waits[-9:]) <= 15
    # When SQS accepts sends again, then it is sent and deleted.
    sqs.answers[SEND] = confirm
    consumer.step()
    delete_all(consumer, clock)
    assert [entry["MessageBody"] for entry in sent_to(sqs, "work_dlq")][-1:] == ["no json"]
    assert sum(map(len, sqs.of(DELETE))) == 1


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
    answers: list[Any] = [RetryableError("s3_error", "S3 is down."), "key-1"]

    def store(body: bytes) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    broker.sender.oversize = store
    consumer = broker.consume("work", prefetch=4)
    arrive(sqs, "bad", body="x" * MAX_MESSAGE_BYTES)
    clock.now += consumer.step()
    assert sqs.of(SEND) == []
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


def test_a_message_that_would_hop_for_longer_than_any_delay_is_refused(broker, sqs, clock) -> None:
    consumer = broker.consume("work", prefetch=4)
    for name, seconds in (("as late as allowed", MAX_DUE), ("too late", MAX_DUE + 1)):
        arrive(sqs, name, due=int((clock.time() + seconds) * 1000))
    consumer.step()
    assert len(sent_to(sqs, "work")) == 1
    ((_, letter),) = zip(sent_to(sqs, "work"), sent_to(sqs, "work_dlq"), strict=True)
    assert "days" in letter["MessageAttributes"]["error_message"]["StringValue"]


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
    broker.visibility = 7
    broker.consume("work").step()
    ((request,),) = sqs.of(RECEIVE)
    assert request["VisibilityTimeout"] == 7


def test_waits_of_a_consumer_for_deletes_vary_by_chance(broker, sqs, clock) -> None:
    consumer = broker.consume("work")
    sqs.answers[DELETE] = fail
    arrive(sqs, "a")
    consumer.step()
    (received,) = took(consumer)
    consumer.leases.complete(received.lease, at_once=True)
    wait = consumer.leases.step()
    assert wait is not None
    assert 0.25 <= wait < 0.5


def test_a_failed_receive_keeps_no_other_quarantine_queue_waiting(broker, sqs, clock) -> None:
    first, second = broker.consume("poison"), broker.consume("other_poison")
    receive, sqs.receive_message = sqs.receive_message, lambda **_: unreachable([])
    assert first.step() > 0
    sqs.receive_message = receive
    arrive(sqs, "b", queue="other")
    second.step()
    assert len(took(second)) == 1


def test_a_stop_gives_back_what_was_not_started_without_waiting_for_sqs(broker, sqs, clock) -> None:
    # Given messages that no thread has taken, and a message that could not be sent
    consumer = broker.consume("work", prefetch=8)
    arrive(sqs, "a")
    arrive(sqs, "bad", body="no json")
    sqs.answers[SEND] = unreachable
    consumer.step()
    sqs.requests.clear()
    # When the process is told to stop, then no request is made by the thread that was told,
    broker.in_hand.stop()
    assert sqs.requests == []
    # and the consumer's own threads release both, so that other workers get them at once.
    assert consumer.step() is None
    consumer.leases.step()
    assert [sorted(batch) for batch in sqs.handles(CHANGE)] == [["handle of a", "handle of bad"]]
    assert [entry["VisibilityTimeout"] for batch in sqs.of(CHANGE) for entry in batch] == [0, 0]
    assert took(consumer) == []


def test_what_a_poll_returns_after_the_stop_is_released(broker, sqs) -> None:
    consumer = broker.consume("work", prefetch=8)
    arrive(sqs, "a")
    receive = sqs.receive_message

    def stop_meanwhile(**request: Any) -> Any:
        broker.in_hand.stopping.set()
        return receive(**request)

    sqs.receive_message = stop_meanwhile
    consumer.step()
    assert took(consumer) == []
    consumer.leases.step()
    assert sqs.handles(CHANGE) == [["handle of a"]]


def test_a_closed_consumer_releases_and_deletes_at_once(broker, sqs) -> None:
    consumer = broker.consume("work", prefetch=8)
    arrive(sqs, "a")
    arrive(sqs, "b")
    consumer.step()
    finished = consumer.take()
    finished.ending = Delete()
    consumer.ack(finished)
    consumer.close()
    consumer.leases.step()
    assert (sqs.handles(CHANGE), sqs.handles(DELETE)) == ([["handle of b"]], [["handle of a"]])
    assert broker.in_hand.consumers == []


def receive(consumer: SQSConsumer, sqs: ScriptedSQS, clock: MovedClock, count: int) -> float | None:
    """Receive so many new messages, and end them; returns how long the consumer pauses."""
    for n in range(count):
        arrive(sqs, f"{clock.now} {n}")
    wait = consumer.step()
    for each in took(consumer):
        consumer.leases.complete(each.lease)
    return wait


class TestPace:
    """Batches wait for company only while there is a backlog anyway."""

    def test_messages_that_trickle_in_wait_for_none(self, broker, sqs, clock) -> None:
        # Given 20 messages a second for a while, some of them together, and eight in work
        consumer = broker.consume("work", prefetch=32)
        for _ in range(100):
            clock.now += 0.1
            # Then each receive follows at once, and no send waits.
            assert receive(consumer, sqs, clock, 2) == 0
            assert broker.in_hand.expected_sends(bulk=False) == 0

    def test_a_second_with_more_messages_than_usual_is_no_backlog(self, broker, sqs, clock) -> None:
        # Given 20 messages a second for a while
        consumer = broker.consume("work", prefetch=32)
        for _ in range(50):
            clock.now += 0.05
            receive(consumer, sqs, clock, 1)
        # When 30 arrive within a second, as they do by chance, then no receive waits.
        for _ in range(30):
            clock.now += 1 / 30
            assert receive(consumer, sqs, clock, 1) == 0

    def test_a_receive_that_comes_back_full_shows_a_backlog(self, broker, sqs, clock) -> None:
        # Given a receive that returned ten messages, and three in work
        consumer = broker.consume("work", prefetch=32)
        assert receive(consumer, sqs, clock, 10) == 0
        for n in range(3):
            broker.in_hand.working[Lease(str(n), "", 0, 0, 45)] = False
        # Then the receives after it leave time for a batch, and sends wait for all in work,
        clock.now += 0.05
        assert receive(consumer, sqs, clock, 1) == PARTIAL_BATCH_PAUSE
        assert broker.in_hand.expected_sends(bulk=False) == 3
        # but the other lane waits for nothing,
        assert broker.in_hand.expected_sends(bulk=True) == 0
        # until no receive has come back full for a while.
        clock.now += BUSY_WINDOW
        assert receive(consumer, sqs, clock, 1) == 0
        assert broker.in_hand.expected_sends(bulk=False) == 0

    def test_so_do_messages_that_arrive_quickly(self, broker, sqs, clock) -> None:
        # Given messages that arrive four at a time, forty a second
        consumer = broker.consume("work", prefetch=32)
        for _ in range(15):
            clock.now += 0.1
            wait = receive(consumer, sqs, clock, 4)
        # Then there is a backlog somewhere, although no receive comes back full.
        assert wait == PARTIAL_BATCH_PAUSE
        # When they arrive slowly again, then no receive waits.
        for _ in range(20):
            clock.now += 0.2
            wait = receive(consumer, sqs, clock, 3)
        assert wait == 0
