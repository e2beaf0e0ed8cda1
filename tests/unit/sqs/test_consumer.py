"""The consumer, stepped: what is received, handed on, sent elsewhere and given back, on a scripted SQS."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

from botocore.exceptions import ClientError

from pipeline.errors import RetryableError
from pipeline.sqs.consumer import MAX_TRANSFERS, PARTIAL_BATCH_PAUSE, RESTART_DELAY, SQSConsumer
from pipeline.sqs.leases import MAX_LEASE, MAX_UNDELETED
from pipeline.sqs.queues import LONG_POLL, MAX_MESSAGE_BYTES, MAX_RECEIVES, QUARANTINE_AT
from pipeline.sqs.settlement import Delete
from pipeline.sqs.wire import BACKLOG, LETTER_WAIT, MAX_DUE, WAITING_FOR, Reason, decode
from tests.support.received import CHANGE, DELETE, RECEIVE, SEND, arrive, delete_all, message, sent_to, took
from tests.support.scripted_sqs import (
    Answer,
    Entry,
    MovedClock,
    ScriptedSQS,
    blame_service,
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
    answers: list[Any] = [RetryableError("s3_error", "S3 is down."), "key-1"]

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


def test_a_letter_that_its_queue_refuses_waits_in_the_queue_it_comes_from(broker, sqs, clock) -> None:
    # Given a dead-letter queue that refuses letters, and a bad message
    consumer = broker.consume("work", prefetch=4)
    sqs.answers[SEND] = refuse_letters
    arrive(sqs, "bad", body="no json")
    # When it is received, then its letter waits in its own queue, and its lease ends.
    consumer.step()
    (waiting,) = sent_to(sqs, "work")
    assert (waiting["MessageBody"], waiting["DelaySeconds"]) == ("no json", LETTER_WAIT)
    assert len(consumer.leases) == 0
    # When it is received again, and the dead-letter queue takes it
    sqs.answers[SEND] = confirm
    sqs.waiting.append({"MessageId": "2", "ReceiptHandle": "2", "Body": "no json"} | attributes_of(waiting))
    consumer.step()
    # Then its reason is that of the first receive.
    *_, letter = sent_to(sqs, "work_dlq")
    assert letter["MessageAttributes"]["error_code"]["StringValue"] == "bad_message"
    assert WAITING_FOR not in letter["MessageAttributes"]
    assert len(consumer.leases) == 0


def test_a_message_cannot_name_another_queue_as_that_of_its_letter(broker, sqs) -> None:
    consumer = broker.consume("work", prefetch=4)
    arrive(sqs, "a")
    sqs.waiting[0]["MessageAttributes"] = {WAITING_FOR: {"DataType": "String", "StringValue": "work"}}
    consumer.step()
    assert (len(took(consumer)), sqs.of(SEND)) == (1, [])


def test_the_url_of_a_queue_that_was_deleted_is_looked_up_again(broker, sqs) -> None:
    # Given a dead-letter queue that is deleted after its first letter
    missing = ClientError({"Error": {"Code": "AWS.SimpleQueueService.NonExistentQueue"}}, "SendMessageBatch")
    urls = ["http://sqs/first", "http://sqs/second"]
    sqs.get_queue_url = lambda QueueName: {"QueueUrl": urls.pop(0)}
    broker.bury("work", "a", Reason("x", "X."))
    sqs.answers[SEND] = lambda entries: raise_(missing) if "first" in entries[0]["QueueUrl"] else confirm(entries)
    with suppress(IndexError):  # the queue that the letter comes from has no URL here
        broker.bury("work", "b", Reason("x", "X."))
    urls[:] = ["http://sqs/second"]
    # When the next letter is sent, then it goes to the queue's new URL.
    broker.bury("work", "c", Reason("x", "X."))
    assert sqs.of(SEND)[-1][0]["QueueUrl"] == "http://sqs/second"


def refuse_letters(entries: list[Entry]) -> Answer:
    return blame_service(entries) if entries[0]["QueueUrl"].endswith("_dlq") else confirm(entries)


def attributes_of(entry: Entry) -> Answer:
    return {"MessageAttributes": entry["MessageAttributes"]}


def raise_(error: Exception) -> Any:
    raise error


def receive(consumer: SQSConsumer, sqs: ScriptedSQS, clock: MovedClock, count: int) -> float | None:
    """Receive so many new messages, and end them; returns how long the consumer pauses."""
    for n in range(count):
        arrive(sqs, f"{clock.now} {n}")
    wait = consumer.step()
    for each in took(consumer):
        consumer.leases.complete(each.lease)
    consumer.leases.step()
    return wait


def asked(sqs: ScriptedSQS) -> list[tuple[int, int]]:
    """Return of each receive how many messages it asked for, and for how long SQS might wait for the first."""
    return [(each["MaxNumberOfMessages"], each["WaitTimeSeconds"]) for (each,) in sqs.of(RECEIVE)]


def start(consumer: SQSConsumer) -> int:
    """Let threads begin all received messages; returns their number."""
    taken = took(consumer)
    consumer._in_hand.working.update({each.lease: each for each in taken})
    return len(taken)


class TestPace:
    """Messages wait for others, or behind others, only while there is a backlog anyway."""

    def test_without_a_backlog_no_receive_and_no_send_waits(self, broker, sqs, clock) -> None:
        # Given 60 messages a second for a while, some of them together
        consumer = broker.consume("work", prefetch=32)
        for _ in range(100):
            clock.now += 0.05
            assert receive(consumer, sqs, clock, 3) == 0
            assert broker.in_hand.expected_sends(bulk=False) == 0
        assert set(asked(sqs)) == {(10, LONG_POLL)}

    def test_a_receive_that_comes_back_full_shows_a_backlog_and_the_next_one_whether_it_goes_on(
        self, broker, sqs, clock
    ) -> None:
        # Given a receive that returned ten messages, and threads that work on them
        consumer = broker.consume("work", prefetch=32)
        for n in range(13):
            arrive(sqs, str(n))
        consumer.step()
        assert start(consumer) == 10
        # Then sends of this lane wait for each other, those of the other do not,
        assert broker.in_hand.expected_sends(bulk=False) == 10
        assert broker.in_hand.expected_sends(bulk=True) == 0
        # and the next receive does not wait. It brings three, so there is no backlog any more.
        consumer.step()
        assert asked(sqs) == [(10, LONG_POLL), (10, 0)]
        assert broker.in_hand.expected_sends(bulk=False) == 0

    def test_the_stages_after_a_backlog_batch_what_comes_from_it(self, broker, sqs, clock) -> None:
        # Given a message that was sent from a backlog
        consumer = broker.consume("work", prefetch=32)
        for n in range(10):
            arrive(sqs, str(n))
        consumer.step()
        assert start(consumer) == 10
        entry = broker.sender.entry(message("next"))
        assert decode(entry.body).options == {BACKLOG: True}
        # When another process receives it alone
        broker.in_hand.working.clear()
        consumer._full = 0
        arrive(sqs, "next", body=entry.body)
        # Then its next receive leaves time for a batch, and its sends do as well,
        assert consumer.step() == PARTIAL_BATCH_PAUSE
        assert start(consumer) == 1
        assert broker.in_hand.expected_sends(bulk=False) == 1
        # until a message comes that does not.
        broker.in_hand.working.clear()
        assert decode(broker.sender.entry(message("after", backlog=True)).body).options == {}

    def test_no_more_is_received_than_can_start(self, broker, sqs) -> None:
        # Given a worker of six threads, whose receive is not full
        consumer = broker.consume("work", prefetch=12)
        for n in range(4):
            arrive(sqs, str(n))
        consumer.step()
        assert start(consumer) == 4
        # When the next one comes, then it asks for two.
        consumer.step()
        assert asked(sqs) == [(6, LONG_POLL), (2, LONG_POLL)]

    def test_a_busy_thread_alone_in_its_process_asks_for_nothing(self, broker, sqs) -> None:
        consumer = broker.consume("work", prefetch=2)
        arrive(sqs, "a")
        assert [consumer.step(), start(consumer)] == [0, 1]
        arrive(sqs, "b")
        assert consumer.step() is None
        assert asked(sqs) == [(1, LONG_POLL)]

    def test_a_free_thread_wakes_the_consumers_of_all_queues(self, broker, sqs) -> None:
        # Given two queues of a worker with one thread, which is busy
        first, second = broker.consume("work", prefetch=2), broker.consume("plain", prefetch=2)
        arrive(sqs, "a")
        first.step()
        assert second.step() is None
        before = second.receiver.woken
        # When it has ended its message, then the other queue may receive.
        (message,) = took(first)
        message.ending = Delete()
        first.ack(message)
        assert second.receiver.woken > before
        second.step()
        assert len(sqs.of(RECEIVE)) == 2


class TestRestart:
    """A stop that ends in a kill does not count against the quarantined message that runs."""

    def test_it_is_sent_again_and_deleted(self, broker, sqs, clock) -> None:
        # Given a quarantined message that a thread works on, at its second receive
        consumer = broker.consume("poison", prefetch=2)
        body = arrive(sqs, "a", receives=2)
        consumer.step()
        start(consumer)
        # When the process has to stop
        broker.in_hand.stop()
        consumer.resend_started()
        consumer.step()
        consumer.leases.step()
        # Then a copy is received later, for the first time,
        (copy,) = sent_to(sqs, "poison")
        assert (copy["MessageBody"], copy["DelaySeconds"]) == (body, RESTART_DELAY)
        # and the message itself is gone.
        assert sqs.handles(DELETE) == [["handle of a"]]

    def test_messages_of_other_queues_are_not(self, broker, sqs) -> None:
        consumer = broker.consume("work", prefetch=2)
        arrive(sqs, "a")
        consumer.step()
        start(consumer)
        broker.in_hand.stop()
        consumer.resend_started()
        consumer.step()
        assert sqs.of(SEND) == []
