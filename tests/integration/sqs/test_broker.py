"""The queue layer on a real SQS endpoint: sends, leases, deletes, hops and stops."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import dramatiq
import pytest
from botocore.exceptions import EndpointConnectionError
from dramatiq.worker import Worker

from pipeline.clients import aws
from pipeline.sqs.settlement import Release
from tests.integration.sqs.conftest import on_ministack
from tests.support.echo import MovedClock, broker, clock, consume, count_requests, counts, die, done, message, take
from tests.support.waiting import wait_for

__all__ = ["broker", "clock", "consume"]  # fixtures


def test_a_message_is_received_as_it_was_sent_and_deleted_once_acknowledged(broker, consume) -> None:
    # Given a message
    sent = broker.enqueue(message(1, {"two": ["three", None, "ü"]}, kwargs={"x": 4.5}))
    # When it is received and acknowledged
    (received,) = take(consumer := consume())
    assert (received.args, received.kwargs, received.message_id) == (sent.args, sent.kwargs, sent.message_id)
    assert counts(broker) == (0, 1, 0)
    done(consumer, received)
    # Then it is gone.
    wait_for(lambda: counts(broker) == (0, 0, 0))


@on_ministack
def test_requests_carry_the_services_user_agent(environment) -> None:
    # Given a client
    client, agents = aws.sqs(), []
    client.meta.events.register("before-send.sqs", lambda request, **_: agents.append(request.headers["User-Agent"]))
    # When it makes a request
    client.list_queues()
    # Then the user agent is the service's name.
    assert [name.decode().split()[0] for name in agents] == ["image-pipeline"]


def test_many_messages_travel_in_batches_of_ten(broker) -> None:
    broker.queues.url("work")
    requests = count_requests(broker)
    assert broker.enqueue_many([message(n) for n in range(25)]) == [None] * 25
    assert requests == {"SendMessageBatch": 3}
    assert counts(broker)[0] == 25


def test_sends_of_many_threads_share_requests(broker) -> None:
    # Given forty threads that each send one message
    broker.queues.url("work")
    requests = count_requests(broker)
    barrier = threading.Barrier(40)

    def send(n: int) -> None:
        barrier.wait()
        broker.enqueue(message(n))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Then all arrive, in far fewer requests.
    assert counts(broker)[0] == 40
    assert requests["SendMessageBatch"] <= 20


def test_deletes_travel_in_batches(broker, consume) -> None:
    broker.enqueue_many([message(n) for n in range(10)])
    received = take(consumer := consume(), 10)
    requests = count_requests(broker)
    for each in received:
        done(consumer, each)
    wait_for(lambda: counts(broker) == (0, 0, 0))
    assert requests["DeleteMessageBatch"] <= 2


@on_ministack
def test_leased_messages_stay_hidden_beyond_their_visibility_timeout(broker, consume) -> None:
    # Given leased messages, some only prefetched, with a visibility timeout of 2 s
    broker.enqueue_many([message(n) for n in range(3)])
    held = take(consumer := consume(), 3)
    # When three times that has passed
    until = time.monotonic() + 6
    seen: list[tuple[int, int, int]] = []
    wait_for(lambda: seen.append(counts(broker)) or time.monotonic() > until)
    # Then they were never visible to others, and can still be deleted.
    assert {waiting for waiting, _, _ in seen} == {0}
    for each in held:
        done(consumer, each)
    wait_for(lambda: counts(broker) == (0, 0, 0))


def test_a_dead_consumers_message_is_soon_received_by_another(broker, consume) -> None:
    # Given a consumer that dies with a message in progress
    broker.enqueue(message("taken over"))
    dead = consume(prefetch=1)
    take(dead)
    die(dead)
    # Then another consumer receives the message, as a second receive.
    (again,) = take(consume())
    assert again.args == ("taken over",)
    assert again.receives >= 2


@on_ministack
def test_a_message_whose_lease_was_lost_is_not_deleted(broker, consume) -> None:
    # Given a message whose lease cannot be extended, so another consumer receives it (moto would accept its handle)
    down = threading.Event()
    down.set()

    def refuse(**_: Any) -> None:
        if down.is_set():
            raise EndpointConnectionError(endpoint_url="http://down")

    broker.sender.client().meta.events.register("before-call.sqs.ChangeMessageVisibilityBatch", refuse)
    broker.enqueue(message("contested"))
    (mine,) = take(first := consume(prefetch=1))
    (theirs,) = take(second := consume())
    assert mine.message_id == theirs.message_id
    # When the first consumer learns that its handle is stale, and still acknowledges the message
    down.clear()
    wait_for(lambda: mine.lease not in first.leases)
    done(first, mine)
    first.close()
    # Then the second consumer still has the message, and deletes it.
    assert counts(broker) == (0, 1, 0)
    done(second, theirs)
    wait_for(lambda: counts(broker) == (0, 0, 0))


def test_a_consumer_leases_at_most_its_prefetch_and_every_settlement_frees_a_place(broker, consume) -> None:
    # Given a backlog, and a consumer for two threads
    broker.enqueue_many([message(n) for n in range(12)])
    consumer = consume(prefetch=4)
    first, second, third, fourth = take(consumer, 4)
    assert consumer.take(0.25) is None
    # When they are settled in each possible way, then others follow.
    done(consumer, first)
    consumer.nack(second)  # neither decided nor settled, so it is released
    fifth, _ = take(consumer, 2)
    assert consumer.take(0.25) is None
    consumer.ack(third)
    consumer.requeue([fourth, fifth])
    assert len(take(consumer, 3)) == 3


def test_a_released_message_reappears_after_its_delay(broker, consume) -> None:
    broker.enqueue(message("again"))
    (received,) = take(consumer := consume())
    received.ending = Release(after=1)
    consumer.ack(received)
    (again,) = take(consumer)
    assert (again.args, again.receives) == (("again",), 2)


def test_a_delay_of_hours_consists_of_hops_and_survives_restarts(broker, consume, clock: MovedClock) -> None:
    # Given a message due in two hours
    sent = message("much later")
    early = broker.sender.entry(sent, 2 * 3600 * 1000).body
    broker.enqueue(sent, delay=2 * 3600 * 1000)
    assert counts(broker) == (0, 0, 1)

    def arrive() -> None:
        """Make a copy of the message visible, as SQS does with the message after 15 minutes."""
        broker.sender.client().send_message(QueueUrl=broker.queues.url("work"), MessageBody=early)

    # When a consumer that never saw it receives it early
    clock.now += 900
    arrive()
    consumer = consume()
    # Then it is sent again with SQS's longest delay,
    wait_for(lambda: counts(broker) == (0, 0, 2))
    assert consumer.take(0.25) is None
    # and it is delivered when it is due.
    clock.now += 7200
    arrive()
    assert take(consumer)[0].args == ("much later",)


@on_ministack
@pytest.mark.parametrize(("delay", "seconds"), [(None, 0), (0, 0), (1, 1), (1000, 1), (1001, 2), (900_000, 900)])
def test_a_short_delay_is_sqss_own_rounded_up(broker, delay: int | None, seconds: int) -> None:
    entry = broker.sender.entry(message(), delay or 0)
    assert entry.delay == seconds
    assert "due" not in json.loads(entry.body)["options"]


@on_ministack
def test_an_idle_consumer_polls_long(broker, consume, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.sqs.consumer.LONG_POLL", 4)
    requests = count_requests(broker)
    consumer = consume()
    wait_for(lambda: requests.get("ReceiveMessage"))
    until = time.monotonic() + 2
    wait_for(lambda: consumer.take(0.25) or time.monotonic() > until)
    assert requests["ReceiveMessage"] == 1


def test_a_message_that_arrives_during_a_stop_is_visible_for_others_at_once(broker, consume, monkeypatch) -> None:
    # Given an idle consumer whose poll is out, of a process that has to stop
    monkeypatch.setattr("pipeline.sqs.consumer.LONG_POLL", 10)
    requests = count_requests(broker)
    consumer = consume()
    wait_for(lambda: requests.get("ReceiveMessage"))
    broker.in_hand.stop()
    closing = threading.Thread(target=consumer.close)
    closing.start()
    # When a message arrives before the poll has ended
    broker.enqueue(message("late"))
    # Then the consumer ends at once, and has released it.
    closing.join(5)
    assert not closing.is_alive()
    assert counts(broker) == (1, 0, 0)
    assert requests["ReceiveMessage"] == 1


def test_a_stopping_worker_releases_unstarted_messages_at_once(broker) -> None:
    # Given a worker whose two threads are busy, with prefetched messages
    busy, go_on = threading.Barrier(3), threading.Event()

    def work(name: str) -> None:
        busy.wait(10)
        assert go_on.wait(20)

    dramatiq.actor(work, actor_name="work", queue_name="work", broker=broker)
    broker.enqueue_many([message(f"m{n}", actor_name="work") for n in range(8)])
    worker = Worker(broker, worker_threads=2, worker_timeout=100)
    worker.start()
    busy.wait(10)
    wait_for(lambda: counts(broker) == (4, 4, 0))  # the prefetch is twice the threads
    # When it is stopped while it works
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    # Then unstarted messages are visible again at once, while it finishes the current one.
    wait_for(lambda: counts(broker) == (6, 2, 0), timeout=5)
    go_on.set()
    stopping.join(10)
    assert not stopping.is_alive()
    wait_for(lambda: counts(broker) == (6, 0, 0))


def test_missing_queues_are_created_with_a_dead_letter_queue_and_existing_ones_kept(broker) -> None:
    url = broker.queues.url("work")
    attributes = broker.sender.client().get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    policy = json.loads(attributes["RedrivePolicy"])
    assert policy["deadLetterTargetArn"].endswith(f"{broker.queues.namespace}_work_dlq")
    assert int(policy["maxReceiveCount"]) == 10
    assert attributes["VisibilityTimeout"] == "45"
    assert attributes["MessageRetentionPeriod"] == str(14 * 86400)
