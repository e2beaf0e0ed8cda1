"""The ledger notices what a worker may not do, and permits what at-least-once delivery permits."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.simulation.client import Faults, Killed, SimulatedClient
from tests.simulation.clock import VirtualClock
from tests.simulation.kinds import BY_NAME
from tests.simulation.ledger import JobRecord, Ledger, Violation
from tests.simulation.memory_sqs import MemorySQS, Mischief
from tests.simulation.trace import Trace


class Bench:
    """One queue with one message, and the clients of two processes."""

    def __init__(self, mischief: Mischief | None = None) -> None:
        self.clock = VirtualClock()
        self.trace = Trace(self.clock)
        self.sqs = MemorySQS(self.clock, Random(1), mischief or Mischief())
        self.ledger = Ledger(self.sqs)
        self.faults = Faults(Random(1))
        self.ledger.jobs[1] = JobRecord(1, BY_NAME["ok"])
        self.url = self.sqs.create_queue(QueueName="work", Attributes={"VisibilityTimeout": "45"})["QueueUrl"]
        self.one, self.other = (
            SimulatedClient(self.sqs, self.faults, self.ledger, self.trace, name) for name in ("one", "other")
        )
        self.one.send_message_batch(QueueUrl=self.url, Entries=[{"Id": "0", "MessageBody": "https://h/job-1"}])

    def receive(self, client: SimulatedClient) -> str:
        (message,) = client.receive_message(QueueUrl=self.url)["Messages"]
        return str(message["ReceiptHandle"])

    def hide(self, client: SimulatedClient, handle: str, seconds: int) -> Any:
        entries = [{"Id": "0", "ReceiptHandle": handle, "VisibilityTimeout": seconds}]
        return client.change_message_visibility_batch(QueueUrl=self.url, Entries=entries)

    def delete(self, client: SimulatedClient, handle: str) -> Any:
        return client.delete_message_batch(QueueUrl=self.url, Entries=[{"Id": "0", "ReceiptHandle": handle}])

    def refused(self, operation: str, call: Any) -> None:
        self.faults.outages.add(operation)
        with pytest.raises((ClientError, BotoCoreError)):
            call()
        self.faults.outages.clear()


def test_a_release_by_a_process_that_goes_on_is_a_violation() -> None:
    bench = Bench()
    bench.hide(bench.one, bench.receive(bench.one), 0)
    bench.receive(bench.other)
    with pytest.raises(Violation, match="received 2 times"):
        bench.ledger.check()


def test_a_process_that_stops_may_release() -> None:
    bench = Bench()
    bench.one.stopping = True
    bench.hide(bench.one, bench.receive(bench.one), 0)
    bench.receive(bench.other)


def test_a_lease_that_nobody_extended_is_a_violation() -> None:
    bench = Bench()
    bench.receive(bench.one)
    bench.clock.advance_to(45)
    bench.receive(bench.other)
    with pytest.raises(Violation):
        bench.ledger.check()


def test_a_lease_may_end_while_sqs_refuses_extensions() -> None:
    bench = Bench()
    handle = bench.receive(bench.one)
    bench.refused("hide", lambda: bench.hide(bench.one, handle, 45))
    bench.clock.advance_to(45)
    bench.receive(bench.other)


def test_a_refused_delete_permits_nothing() -> None:
    bench = Bench()
    handle = bench.receive(bench.one)
    bench.refused("delete", lambda: bench.delete(bench.one, handle))
    bench.clock.advance_to(45)
    bench.receive(bench.other)
    with pytest.raises(Violation):
        bench.ledger.check()


def test_each_crash_permits_one_more_receive_of_what_was_in_hand() -> None:
    bench = Bench()
    bench.receive(bench.one)
    bench.one.die()
    with pytest.raises(Killed):
        bench.receive(bench.one)
    bench.clock.advance_to(45)
    bench.receive(bench.other)
    bench.clock.advance_to(90)
    bench.receive(bench.other)
    with pytest.raises(Violation):
        bench.ledger.check()


def test_a_lost_answer_permits_one_more_receive() -> None:
    bench = Bench()
    bench.faults.lose = 1.0
    with pytest.raises(BotoCoreError):
        bench.receive(bench.one)
    bench.faults.heal()
    bench.clock.advance_to(45)
    bench.receive(bench.other)
    assert bench.ledger.jobs[1].causes == {"lost": 1}


def test_sqs_may_deliver_a_message_to_two_at_once() -> None:
    bench = Bench(Mischief(twice=1.0))
    bench.receive(bench.one)
    bench.receive(bench.other)
    assert bench.ledger.jobs[1].causes["repeat"] == 2


def test_sqs_may_deliver_a_deleted_message() -> None:
    bench = Bench(Mischief(back=1.0))
    bench.delete(bench.one, bench.receive(bench.one))
    bench.receive(bench.other)
    assert bench.ledger.jobs[1].causes == {"repeat": 1}


def test_a_history_is_readable() -> None:
    bench = Bench()
    bench.clock.advance_to(2.5)
    bench.receive(bench.one)
    bench.one.die()
    assert str(bench.trace).splitlines() == [
        "     0.000  one            send work: 1",
        "     2.500  one            receive work: 1",
        "     2.500  one            dies",
    ]
