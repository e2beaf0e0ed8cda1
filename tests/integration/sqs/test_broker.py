"""The queue layer on a real SQS endpoint: a message, its lease, its dead letter, and a stop."""

from __future__ import annotations

import threading
import time

import dramatiq
from dramatiq.worker import Worker

from pipeline.clients import aws
from pipeline.sqs.settlement import Bury, Settlement, Settling
from pipeline.sqs.wire import Reason, decode
from tests.integration.sqs.conftest import on_ministack
from tests.support.echo import broker, consume, counts, dead_letters, done, message, take
from tests.support.waiting import wait_for

__all__ = ["broker", "consume"]  # fixtures


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


def test_a_stopping_worker_releases_unstarted_messages_at_once(broker) -> None:
    # Given a worker whose two threads are busy, with prefetched messages
    busy, go_on = threading.Barrier(3), threading.Event()

    def work(name: str) -> None:
        busy.wait(10)
        assert go_on.wait(100)

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
    wait_for(lambda: counts(broker) == (6, 2, 0))
    go_on.set()
    stopping.join(10)
    assert not stopping.is_alive()
    wait_for(lambda: counts(broker) == (6, 0, 0))


def test_a_failed_message_becomes_a_dead_letter_with_its_reason(broker, consume) -> None:
    sent = broker.enqueue(message("bad"))
    (received,) = take(consumer := consume())
    reason = Reason("too_large", "It is too large.", stage="work", attempts=3, first=0.0, last=90.0)
    received.settle(Settlement(Bury(reason)))
    settling = Settling(received, broker)
    assert settling.step() is None
    received.ending = settling.ending
    consumer.ack(received)
    ((body, attributes),) = wait_for(lambda: dead_letters(broker))
    assert decode(body).message_id == sent.message_id
    assert attributes == {
        "stage": "work",
        "error_code": "too_large",
        "error_message": "It is too large.",
        "attempts": "3",
        "first_at": "1970-01-01T00:00:00+00:00",
        "last_at": "1970-01-01T00:01:30+00:00",
    }
    wait_for(lambda: counts(broker) == (0, 0, 0))
