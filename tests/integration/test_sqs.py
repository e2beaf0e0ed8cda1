"""The queue layer against a real SQS endpoint: sends, holds, deletes, hops, dead letters and stops."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from botocore.exceptions import EndpointConnectionError
from dramatiq.worker import Worker
from dramatiq_sqs.exceptions import MessageTooLarge

from pipeline import clients
from pipeline.consumer import SQSConsumer
from pipeline.middleware import Shutdowns, Suspects
from pipeline.queues import MAX_MESSAGE_BYTES
from pipeline.sqs import SQSBroker
from pipeline.wire import Entry, Reason, SendFailed, decode, encode
from tests.waiting import wait_for

COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class MemoryTrials(Counter[str]):
    """How often suspects were begun alone; what workers of a test share."""

    def count(self, message_id: str) -> int:
        return self[message_id]

    def record(self, message_id: str, count: int) -> None:
        self[message_id] = count


@pytest.fixture
def broker(aws: dict[str, str], clock: Clock) -> SQSBroker:
    """A broker with one actor, `echo`, on the queue `work`; a message is hidden for 2 s."""
    broker = SQSBroker(
        namespace=aws["QUEUE_NAMESPACE"],
        middleware=[Suspects(), Shutdowns()],
        client=clients.sqs,
        trials=MemoryTrials(),
        visibility_timeout=2,
        clock=clock,
    )
    broker.declare_queue("work")
    dramatiq.actor(lambda *args: None, actor_name="echo", queue_name="work", broker=broker)
    return broker


@pytest.fixture
def consume(broker: SQSBroker) -> Iterator[Callable[..., SQSConsumer]]:
    """Makes consumers, and closes them."""
    made: list[SQSConsumer] = []

    def make(prefetch: int = 10) -> SQSConsumer:
        made.append(broker.consume("work", prefetch=prefetch))
        return made[-1]

    yield make
    for consumer in made:
        consumer.close()


def message(*args: Any, **changes: Any) -> dramatiq.Message[Any]:
    fields: dict[str, Any] = {"queue_name": "work", "actor_name": "echo", "args": args, "kwargs": {}, "options": {}}
    return dramatiq.Message(**fields | changes)


def counts(broker: SQSBroker, queue: str = "work") -> tuple[int, int, int]:
    """How many messages wait, are in flight, and are delayed."""
    attributes = broker.client.get_queue_attributes(QueueUrl=broker.queue_url(queue), AttributeNames=COUNTS)
    waiting, in_flight, delayed = (int(attributes["Attributes"][name]) for name in COUNTS)
    return waiting, in_flight, delayed


def take(consumer: SQSConsumer, count: int = 1) -> list[Any]:
    taken: list[Any] = []
    wait_for(lambda: taken.extend(filter(None, [next(consumer)])) or len(taken) >= count)
    return taken


def dead_letters(broker: SQSBroker, queue: str = "work_dlq") -> list[tuple[str, dict[str, str]]]:
    """The bodies and attributes of the dead letters."""
    received = broker.client.receive_message(
        QueueUrl=broker.queue_url(queue), MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    )
    return [
        (m["Body"], {name: value["StringValue"] for name, value in m.get("MessageAttributes", {}).items()})
        for m in received.get("Messages", [])
    ]


def count_requests(broker: SQSBroker) -> dict[str, int]:
    """Counts the broker's requests from now on, by operation."""
    seen: dict[str, int] = {}

    def count(model: Any, **_: Any) -> None:
        seen[model.name] = seen.get(model.name, 0) + 1

    broker.client.meta.events.register("before-call.sqs", count)
    return seen


def test_a_message_is_received_as_it_was_sent_and_deleted_once_acknowledged(broker, consume) -> None:
    # Given a message sent
    sent = broker.enqueue(message(1, {"two": ["three", None, "ü"]}, kwargs={"x": 4.5}))
    # When it is received and acknowledged
    (received,) = take(consumer := consume())
    assert (received.args, received.kwargs, received.message_id) == (sent.args, sent.kwargs, sent.message_id)
    assert counts(broker) == (0, 1, 0)
    consumer.ack(received)
    # Then it is gone.
    wait_for(lambda: counts(broker) == (0, 0, 0))


def test_upstreams_base64_bodies_are_understood(broker, consume) -> None:
    from base64 import b64encode

    sent = message("from an older release")
    body = b64encode(sent.encode()).decode()
    broker.client.send_message(QueueUrl=broker.queue_url("work"), MessageBody=body)
    assert take(consume())[0].args == ("from an older release",)


def test_many_messages_travel_in_batches_of_ten(broker) -> None:
    broker.queue_url("work")
    requests = count_requests(broker)
    assert broker.enqueue_many([message(n) for n in range(25)]) == [None] * 25
    assert requests == {"SendMessageBatch": 3}
    assert counts(broker)[0] == 25


def test_sends_of_many_threads_share_requests(broker) -> None:
    # Given forty threads that each send one message
    broker.queue_url("work")
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
    # Then all are there, by far fewer requests.
    assert counts(broker)[0] == 40
    assert requests["SendMessageBatch"] <= 20


def test_deletes_travel_in_batches(broker, consume) -> None:
    broker.enqueue_many([message(n) for n in range(10)])
    received = take(consumer := consume(), 10)
    requests = count_requests(broker)
    for each in received:
        consumer.ack(each)
    wait_for(lambda: counts(broker) == (0, 0, 0))
    assert requests["DeleteMessageBatch"] <= 2


def test_what_is_held_stays_hidden_for_longer_than_its_visibility_timeout(broker, consume) -> None:
    # Given messages held, prefetched ones included, that are hidden for 2 s at a time
    broker.enqueue_many([message(n) for n in range(3)])
    held = take(consumer := consume(), 3)
    # When three times that has passed
    until = time.monotonic() + 6
    seen: list[tuple[int, int, int]] = []
    wait_for(lambda: seen.append(counts(broker)) or time.monotonic() > until)
    # Then they were never visible to others, and are still ours to delete.
    assert {waiting for waiting, _, _ in seen} == {0}
    for each in held:
        consumer.ack(each)
    wait_for(lambda: counts(broker) == (0, 0, 0))


def test_what_a_dead_consumer_held_is_soon_received_by_another(broker, consume) -> None:
    # Given a consumer that dies without a word, with a message in hand
    broker.enqueue(message("taken over"))
    dead = consume()
    take(dead)
    dead.holds._closed.set()
    dead._stopping.set()
    # Then another one gets the message, as its second receiver.
    (again,) = take(consume())
    assert again.args == ("taken over",)
    assert again.receives >= 2


def test_a_message_that_somebody_else_took_is_not_deleted_as_if_it_were_ours(broker, consume) -> None:
    # Given a message that cannot be extended for so long that another consumer gets it
    down = threading.Event()
    down.set()

    def refuse(**_: Any) -> None:
        if down.is_set():
            raise EndpointConnectionError(endpoint_url="http://down")

    broker.client.meta.events.register("before-call.sqs.ChangeMessageVisibilityBatch", refuse)
    broker.enqueue(message("contested"))
    (mine,) = take(first := consume())
    first._stopping.set()
    (theirs,) = take(second := consume())
    assert mine.message_id == theirs.message_id
    # When the first hears that its handle is stale, and acknowledges the message all the same
    down.clear()
    wait_for(lambda: mine.hold not in first.holds)
    first.ack(mine)
    first.close()
    # Then the second still has it, and ends it.
    assert counts(broker) == (0, 1, 0)
    second.ack(theirs)
    wait_for(lambda: counts(broker) == (0, 0, 0))


def test_a_consumer_holds_no_more_than_its_prefetch_and_every_end_gives_a_place_back(broker, consume) -> None:
    # Given more messages than a consumer may hold
    broker.enqueue_many([message(n) for n in range(8)])
    consumer = consume(prefetch=2)
    first, second = take(consumer, 2)
    assert next(consumer) is None
    # When they end in each possible way, then others follow.
    consumer.ack(first)
    consumer.nack(second)
    third, fourth = take(consumer, 2)
    third.release()
    consumer.ack(third)
    consumer.requeue([fourth])
    assert len(take(consumer, 2)) == 2


def test_a_released_message_comes_back_when_it_should(broker, consume) -> None:
    broker.enqueue(message("again"))
    (received,) = take(consumer := consume())
    received.release(after=1)
    consumer.ack(received)
    (again,) = take(consumer)
    assert (again.args, again.receives) == (("again",), 2)


def test_a_failed_message_becomes_a_dead_letter_with_its_reason(broker, consume) -> None:
    sent = broker.enqueue(message("bad"))
    (received,) = take(consumer := consume())
    reason = Reason("too_large", "It is too large.", stage="work", attempts=3, first=0.0, last=90.0)
    received.fail_with(reason)
    assert received.failed
    consumer.nack(received)
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


@pytest.mark.parametrize(
    "body",
    [
        "no json, and secret-word",
        "{}",
        '{"secret-word": 1}',
        "[1]",
        "c2VjcmV0LXdvcmQ=",
        encode(message("secret-word", queue_name="elsewhere")),
        encode(message("secret-word", options={"due": "x"})),
        encode(message("secret-word", options={"due": None})),
        encode(message("secret-word", options={"due": 99999999999999, "group": "not good"})),
        encode(message("secret-word", options={"suspect": [1]})),
        encode(message("secret-word", options={"attempts": {"source": "x"}})),
        encode(message("secret-word", options={"eta": 99999999999999})),
        encode(message("secret-word", message_timestamp="now")),
        encode(message("secret-word", actor_name="unknown")),
        encode(message("secret-word"))
        .replace('"options":{}', '"options":null')
        .replace('"options": {}', '"options": null'),
    ],
)
def test_what_is_no_message_for_the_queue_becomes_a_dead_letter_once(broker, consume, caplog, body: str) -> None:
    # Given a body that cannot be worked on, and a good one behind it
    broker.client.send_message(QueueUrl=broker.queue_url("work"), MessageBody=body)
    broker.enqueue(message("good"))
    # When they are received
    consumer = consume()
    assert take(consumer)[0].args == ("good",)
    # Then the bad one is a dead letter with a reason, once, and the log holds nothing of it.
    ((kept, attributes),) = wait_for(lambda: dead_letters(broker))
    assert kept == body
    assert attributes["error_code"] == "bad_message"
    wait_for(lambda: counts(broker) == (0, 1, 0))
    assert "secret-word" not in caplog.text
    assert "secret-word" not in attributes["error_message"]


def test_a_delay_of_hours_is_made_of_hops_and_survives_every_restart(broker, consume, clock: Clock) -> None:
    # Given a message due in two hours
    sent = message("much later")
    broker.enqueue(sent, delay=2 * 3600 * 1000)
    assert counts(broker) == (0, 0, 1)
    url = broker.queue_url("work")

    def arrive_early() -> None:
        """What SQS does after 15 minutes: the message becomes visible."""
        (entry,) = [broker._entry(sent, 7200_000)]
        broker.client.purge_queue(QueueUrl=url)
        broker.client.send_message(QueueUrl=url, MessageBody=entry.body)

    arrive_early()
    # When it is received before that, by a consumer that never saw it
    clock.now += 900
    consumer = consume()
    # Then it goes on its next hop, delayed as far as SQS can,
    wait_for(lambda: counts(broker) == (0, 0, 1))
    assert next(consumer) is None
    # and when it is due it is delivered.
    arrive_early()
    clock.now += 7200
    assert take(consumer)[0].args == ("much later",)


@pytest.mark.parametrize(("delay", "seconds"), [(None, 0), (0, 0), (1, 1), (1000, 1), (1001, 2), (900_000, 900)])
def test_a_short_delay_is_sqss_own_rounded_up(broker, delay: int | None, seconds: int) -> None:
    entry = broker._entry(message(), delay or 0)
    assert entry.delay == seconds
    assert "due" not in json.loads(entry.body)["options"]


def test_what_sqs_would_refuse_is_not_sent(broker) -> None:
    broker.queue_url("work")
    requests = count_requests(broker)
    with pytest.raises(MessageTooLarge):
        broker.enqueue(message("x" * MAX_MESSAGE_BYTES))
    refused = [
        Entry("x", delay=901),
        Entry("x", group="g" * 129),
        Entry("x", group="a b"),
        Entry("x", attributes=(("name", ""),)),
        Entry("x", attributes=tuple((f"a{n}", "v") for n in range(11))),
        Entry(""),
        Entry("\x00"),
    ]
    assert [type(error) for error in broker.send("work", refused)] == [ValueError] * len(refused)
    assert requests == {}


def test_one_entry_that_is_refused_does_not_keep_the_others(broker) -> None:
    errors = broker.enqueue_many([message("a"), message("x" * MAX_MESSAGE_BYTES), message("b")])
    assert [type(error) for error in errors] == [type(None), MessageTooLarge, type(None)]
    assert counts(broker)[0] == 2


def test_a_send_that_is_not_confirmed_raises_at_its_caller(broker) -> None:
    broker.queue_url("work")

    def refuse(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="http://down")

    broker.client.meta.events.register("before-call.sqs.SendMessageBatch", refuse)
    with pytest.raises(SendFailed):
        broker.enqueue(message("a"))


def test_trouble_while_receiving_and_deleting_is_waited_out(broker, consume) -> None:
    # Given SQS failing the first requests of each kind
    broker.enqueue_many([message(n) for n in range(3)])
    left = {"ReceiveMessage": 2, "DeleteMessageBatch": 2}

    def refuse(model: Any, **_: Any) -> None:
        if left.get(model.name, 0):
            left[model.name] -= 1
            raise EndpointConnectionError(endpoint_url="http://down")

    broker.client.meta.events.register("before-call.sqs", refuse)
    # When messages are received and acknowledged, then all is well in the end.
    consumer = consume()
    for each in take(consumer, 3):
        consumer.ack(each)
    wait_for(lambda: counts(broker) == (0, 0, 0))
    assert left == {"ReceiveMessage": 0, "DeleteMessageBatch": 0}


def test_an_idle_consumer_polls_long_and_stops_at_once(broker, consume) -> None:
    requests = count_requests(broker)
    consumer = consume()
    wait_for(lambda: requests.get("ReceiveMessage"))
    until = time.monotonic() + 3
    wait_for(lambda: next(consumer) or time.monotonic() > until)
    assert requests["ReceiveMessage"] == 1
    started = time.monotonic()
    consumer.close()
    assert time.monotonic() - started < 2


def test_a_worker_told_to_stop_gives_back_at_once_what_it_has_not_begun(broker) -> None:
    # Given a worker with one thread, busy, and messages prefetched behind the one in hand
    busy, go_on = threading.Event(), threading.Event()

    def work(name: str) -> None:
        busy.set()
        assert go_on.wait(20)

    dramatiq.actor(work, actor_name="work", queue_name="work", broker=broker)
    broker.enqueue_many([message(f"m{n}", actor_name="work") for n in range(4)])
    worker = Worker(broker, worker_threads=1, worker_timeout=100)
    worker.start()
    assert busy.wait(10)
    wait_for(lambda: counts(broker) == (2, 2, 0))  # it holds twice its threads
    # When it is told to stop while it still works
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    # Then what it has not begun is visible again at once, while it ends what it has.
    wait_for(lambda: counts(broker) == (3, 1, 0), timeout=5)
    go_on.set()
    stopping.join(10)
    assert not stopping.is_alive()
    wait_for(lambda: counts(broker) == (3, 0, 0))


def test_a_body_too_large_for_its_reason_is_put_away_and_named(broker, consume) -> None:
    # Given a body just under SQS's limit that is no message
    kept: list[bytes] = []
    broker.put_away = lambda body: kept.append(body) or "key-1"
    body = "x" * MAX_MESSAGE_BYTES
    broker.client.send_message(QueueUrl=broker.queue_url("work"), MessageBody=body)
    consume()
    # When it is made a dead letter, then that one names where the body is.
    ((left, attributes),) = wait_for(lambda: dead_letters(broker))
    assert (left, attributes["staging_key"], attributes["error_code"]) == ("{}", "key-1", "bad_message")
    assert kept == [body.encode()]


def test_missing_queues_are_made_with_their_dead_letters_and_existing_ones_left(broker) -> None:
    url = broker.queue_url("work")
    attributes = broker.client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    policy = json.loads(attributes["RedrivePolicy"])
    assert policy["deadLetterTargetArn"].endswith(f"{broker.namespace}_work_dlq")
    assert int(policy["maxReceiveCount"]) == 10
    assert attributes["VisibilityTimeout"] == "45"
    assert attributes["MessageRetentionPeriod"] == str(14 * 86400)


def test_a_dead_letter_of_a_message_with_an_absurd_timestamp_is_kept(broker, consume) -> None:
    broker.bury("work", "{}", Reason("bad_job", "No job.", first=1.7e18, last=None))
    ((_, attributes),) = dead_letters(broker)
    assert attributes["error_code"] == "bad_job"
    assert "first_at" not in attributes
