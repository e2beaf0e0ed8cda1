"""The ledger notices what a worker may not do, and permits what at-least-once delivery permits."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.simulation.client import SimulatedClient
from tests.simulation.clock import VirtualClock
from tests.simulation.faults import Faults
from tests.simulation.kinds import BY_NAME
from tests.simulation.ledger import JobRecord, Ledger, Violation
from tests.simulation.memory_sqs import MemorySQS, Mischief
from tests.simulation.themes import Theme
from tests.simulation.threads import Killed, Scheduler, Thread, use
from tests.simulation.trace import Trace


class Bench:
    """One queue with one message, and the clients of two processes."""

    def __init__(self, theme: Theme | None = None) -> None:
        theme = theme or Theme("calm")
        self.clock = VirtualClock()
        self.scheduler = Scheduler(self.clock, Random(1))
        use(self.scheduler)
        self.trace = Trace(self.clock)
        self.sqs = MemorySQS(self.clock, Random(1), theme.mischief)
        self.ledger = Ledger(self.sqs, self.trace)
        self.faults = Faults(Random(1), theme)
        self.ledger.jobs[1] = JobRecord(1, BY_NAME["ok"])
        self.url = self.sqs.create_queue(QueueName="work", Attributes={"VisibilityTimeout": "45"})["QueueUrl"]
        made = (self.scheduler, self.sqs, self.faults, self.ledger)
        self.one, self.other = (SimulatedClient(*made, name) for name in ("one", "other"))
        entries = [{"Id": "0", "MessageBody": "https://h/job-1"}]
        self.ask(self.one, self.one.send_message_batch, Entries=entries)

    def ask(self, client: SimulatedClient, call: Any, **request: Any) -> Any:
        """Let a thread of a process make a request, and let it pass until it is answered."""
        answers: list[Any] = []

        def run() -> None:
            try:
                answers.append(call(QueueUrl=self.url, **request))
            except (ClientError, BotoCoreError, Killed) as error:
                answers.append(error)

        thread = Thread(client.group, run)
        thread.start()
        self.scheduler.run(until=self.clock.now + 1)
        (answer,) = answers
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def receive(self, client: SimulatedClient) -> str:
        (message,) = self.ask(client, client.receive_message, WaitTimeSeconds=0)["Messages"]
        return str(message["ReceiptHandle"])

    def hide(self, client: SimulatedClient, handle: str, seconds: int) -> Any:
        entries = [{"Id": "0", "ReceiptHandle": handle, "VisibilityTimeout": seconds}]
        return self.ask(client, client.change_message_visibility_batch, Entries=entries)

    def delete(self, client: SimulatedClient, handle: str) -> Any:
        return self.ask(client, client.delete_message_batch, Entries=[{"Id": "0", "ReceiptHandle": handle}])

    def refused(self, operation: str, call: Any) -> None:
        self.faults.outages.add((operation, ""))
        with pytest.raises((ClientError, BotoCoreError)):
            call()
        self.faults.outages.clear()

    def later(self, seconds: float = 46) -> None:
        self.clock.advance_to(self.clock.now + seconds)


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
    bench.later()
    bench.receive(bench.other)
    with pytest.raises(Violation):
        bench.ledger.check()


def test_a_lease_may_end_while_sqs_refuses_extensions() -> None:
    bench = Bench()
    handle = bench.receive(bench.one)
    bench.refused("hide", lambda: bench.hide(bench.one, handle, 45))
    bench.later()
    bench.receive(bench.other)


def test_a_refused_delete_permits_nothing() -> None:
    bench = Bench()
    handle = bench.receive(bench.one)
    bench.refused("delete", lambda: bench.delete(bench.one, handle))
    bench.later()
    bench.receive(bench.other)
    with pytest.raises(Violation):
        bench.ledger.check()


def test_each_crash_permits_one_more_receive_of_what_was_in_hand() -> None:
    bench = Bench()
    bench.receive(bench.one)
    bench.one.die()
    bench.later()
    bench.receive(bench.other)
    bench.later()
    bench.receive(bench.other)
    with pytest.raises(Violation):
        bench.ledger.check()


def test_a_lost_answer_permits_one_more_receive() -> None:
    bench = Bench()
    bench.faults.theme = Theme("lossy", lose=1.0)
    with pytest.raises(BotoCoreError):
        bench.receive(bench.one)
    bench.faults.heal()
    bench.later()
    bench.receive(bench.other)
    assert bench.ledger.jobs[1].story.causes == {"lost": 1}


def test_sqs_may_deliver_a_message_to_two_at_once() -> None:
    bench = Bench(Theme("twice", mischief=Mischief(twice=1.0)))
    bench.receive(bench.one)
    bench.receive(bench.other)
    assert bench.ledger.jobs[1].story.causes["repeat"] == 2


def test_sqs_may_deliver_a_deleted_message() -> None:
    bench = Bench(Theme("back", mischief=Mischief(back=1.0)))
    bench.delete(bench.one, bench.receive(bench.one))
    bench.receive(bench.other)
    assert bench.ledger.jobs[1].story.causes == {"repeat": 1}


def test_a_kill_at_the_end_of_a_stop_is_not_a_crash() -> None:
    bench = Bench()
    bench.receive(bench.one)
    bench.one.stopping = True
    bench.one.die()
    assert bench.ledger.jobs[1].story.causes == {"killed": 1}


def test_a_history_is_readable() -> None:
    bench = Bench()
    bench.receive(bench.one)
    bench.one.die()
    assert [line[10:] for line in str(bench.trace).splitlines()] == [
        "  one            send work: 1",
        "  one            receive work: 1",
        "  one            dies",
    ]
