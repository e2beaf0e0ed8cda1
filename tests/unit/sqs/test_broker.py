"""The broker is one of dramatiq-sqs: code that knows that one can use this one."""

from __future__ import annotations

from collections.abc import Callable

import dramatiq
import dramatiq_sqs
import dramatiq_sqs.broker
import pytest
from dramatiq.errors import QueueJoinTimeout

from pipeline.sqs.broker import SQSBroker
from tests.simulation.memory_sqs import MemorySQS, VirtualClock
from tests.support.scripted_sqs import StillLoop


def no_client(*_: object, **__: object) -> None:
    raise AssertionError("no client is needed yet")


@pytest.fixture
def memory() -> MemorySQS:
    return MemorySQS(VirtualClock())


@pytest.fixture
def make(memory: MemorySQS) -> Callable[..., SQSBroker]:
    """Return a function that makes a broker with the queue `work`, given the words of dramatiq-sqs."""

    def make(**words: object) -> SQSBroker:
        broker = SQSBroker(**{"namespace": "shop", "client": lambda: memory, "loop": StillLoop, **words})
        dramatiq.actor(lambda: None, actor_name="work", queue_name="work", broker=broker)
        return broker

    return make


def test_the_broker_and_its_consumers_are_those_of_dramatiq_sqs(make) -> None:
    broker = make()
    assert isinstance(broker, dramatiq_sqs.SQSBroker)
    assert isinstance(broker.consume("work"), dramatiq_sqs.broker.SQSConsumer)
    assert issubclass(broker.consumer_class, dramatiq_sqs.broker.SQSConsumer)


@pytest.mark.parametrize("inherited", ["join", "get_declared_queues", "get_declared_delay_queues"])
def test_methods_that_serve_are_inherited(inherited: str) -> None:
    assert getattr(SQSBroker, inherited) is getattr(dramatiq_sqs.SQSBroker, inherited)


def test_it_needs_no_client_region_or_credentials_before_the_first_request(monkeypatch, make) -> None:
    # Given a process without any setting of AWS, and a boto3 that may not be asked
    monkeypatch.setattr("boto3.resource", no_client)
    # When a broker with queues is made, then it makes no client.
    broker = make(client=no_client, quarantine={"work": "poison"})
    assert broker.get_declared_queues() == {"work", "poison"}


def test_queues_are_named_kept_and_tagged_as_the_constructor_asks(memory, make) -> None:
    make(retention=3600, tags={"team": "covers"}).get_actor("work").send()
    work, letters = memory.queues["shop_work"], memory.queues["shop_work_dlq"]
    assert (work.dead_letters_arn, work.max_receives, work.visibility) == (letters.arn, 10, 45)
    assert [queue.attributes["MessageRetentionPeriod"] for queue in (work, letters)] == ["3600", str(14 * 86400)]
    assert [queue.tags for queue in (work, letters)] == [{"team": "covers"}] * 2


def test_a_queue_that_exists_is_tagged(memory, make) -> None:
    memory.create_queue(QueueName="shop_work")
    make(tags={"team": "covers"}).get_actor("work").send()
    assert memory.queues["shop_work"].tags == {"team": "covers"}


def test_queues_need_no_namespace(memory, make) -> None:
    make(namespace=None).get_actor("work").send()
    assert set(memory.queues) == {"work", "work_dlq"}


def test_a_consumer_leases_one_message_unless_it_is_told_otherwise(make) -> None:
    assert make().consume("work").prefetch == 1


def test_all_threads_of_a_consumer_have_the_clock_of_its_broker(make) -> None:
    clocks: list[object] = []

    def loop(name: str, step: object, clock: object) -> StillLoop:
        clocks.append(clock)
        return StillLoop(name, step, clock)  # type: ignore[arg-type]

    broker = make(loop=loop)
    broker.consume("work")
    assert clocks == [broker.clock] * 2


@pytest.mark.parametrize("retention", [59, 14 * 86400 + 1])
def test_a_retention_that_sqs_refuses_is_an_error(make, retention: int) -> None:
    with pytest.raises(ValueError, match="retention"):
        make(retention=retention)


@pytest.mark.parametrize("retention", [60, 14 * 86400])
def test_the_shortest_and_the_longest_retention_of_sqs_are_accepted(memory, make, retention: int) -> None:
    make(retention=retention).get_actor("work").send()
    assert memory.queues["shop_work"].attributes["MessageRetentionPeriod"] == str(retention)


def test_middleware_sees_the_delay_before_and_after_a_message_is_sent(make) -> None:
    seen: list[tuple[str, str, int | None]] = []

    class Watching(dramatiq.Middleware):
        def before_enqueue(self, broker, message, delay) -> None:
            seen.append(("before", message.actor_name, delay))

        def after_enqueue(self, broker, message, delay) -> None:
            seen.append(("after", message.actor_name, delay))

    make(middleware=[Watching()]).get_actor("work").send_with_options(delay=5000)
    assert seen == [("before", "work", 5000), ("after", "work", 5000)]


def test_join_waits_until_the_queue_is_empty(memory, make, monkeypatch) -> None:
    # Given a queue with a message
    broker = make()
    broker.get_actor("work").send()
    # When someone joins it, and the message is gone meanwhile
    monkeypatch.setattr("time.sleep", lambda _: memory.purge_queue(QueueUrl=broker.queues.url("work")))
    broker.join("work")
    # Then the call returns, with what SQS reported last.
    assert broker.queues["work"].attributes["ApproximateNumberOfMessages"] == "0"


def test_join_may_give_up(make, monkeypatch) -> None:
    broker = make()
    broker.get_actor("work").send()
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(QueueJoinTimeout):
        broker.join("work", timeout=0.001)  # type: ignore[arg-type]
