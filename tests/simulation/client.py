"""The SQS client of one simulated process: the in-memory SQS behind a network that fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from dramatiq.middleware import TimeLimitExceeded

from pipeline.sqs.queues import LONG_POLL
from tests.simulation.ledger import Ledger
from tests.simulation.memory_sqs import MemoryQueue, MemorySQS, error
from tests.simulation.scheduler import Task
from tests.simulation.trace import Trace

URL = "https://sqs.test"


@dataclass
class Poll:
    """Receives of an empty queue. Nothing comes of them until a message arrives, so none is made.

    A long poll ends by itself, as in SQS. Short ones are repeated.

    Attributes:
        queue: The queue that is polled.
        is_long: Whether they are long polls, which a message ends at once. Short polls have pauses.
        began: When the first of them was made.
        pause: The seconds from one short poll to the next.
    """

    queue: MemoryQueue
    is_long: bool
    began: float = 0.0
    pause: float = 0.0

    def begin(self, task: Task, now: float, pause: float) -> float:
        """Let `task` wait for messages; returns the seconds."""
        self.began, self.pause = now, pause
        self.queue.waiting.append(task)
        return self.remaining(now)

    def end(self, task: Task, now: float) -> float:
        """Let `task` wait no longer; returns the seconds until the next short poll, or 0."""
        self.queue.waiting.remove(task)
        return 0.0 if self.is_long else self.pause - (now - self.began) % self.pause

    def remaining(self, now: float) -> float:
        """Return the seconds until something may be received; 0 if that is now."""
        ends = self.began + LONG_POLL if self.is_long else math.inf
        return 0.0 if self.queue.visible(now) else max(0.0, min(self.queue.next_visible(now), ends) - now)


class Killed(BaseException):
    """The process of this call is dead. No code of the product may catch it."""


@dataclass
class Faults:
    """The faults that requests meet, and their probabilities, until `heal`.

    Attributes:
        are_over: Whether no request meets a fault any more.
        outages: The operations that SQS refuses altogether.
        refuse: The probability that SQS refuses a request.
        lose: The probability that SQS applies a request and its answer is lost.
        omit: The probability that a batch request names some of its entries as failed, or not at all.
        crash: The probability that a process dies just before or just after a request.
        interrupt: The probability that a time limit strikes late: in a request of a settlement.
    """

    random: Random
    outages: set[str] = field(default_factory=set)
    refuse: float = 0.0
    lose: float = 0.0
    omit: float = 0.0
    crash: float = 0.0
    interrupt: float = 0.0
    are_over: bool = False

    def heal(self) -> None:
        """End all faults."""
        self.outages.clear()
        self.refuse = self.lose = self.omit = self.crash = self.interrupt = 0.0
        self.are_over = True

    def draw(self, operation: str) -> str:
        """Return the fault of the next request; empty if it has none."""
        if self.are_over:
            return ""
        if operation in self.outages:
            return "refuse"
        drawn = self.random.random()
        if drawn < self.refuse + self.lose + self.omit + self.crash:
            for name in ("refuse", "lose", "omit", "crash"):
                drawn -= getattr(self, name)
                if drawn < 0:
                    return name
        return ""


class SimulatedClient:
    """The methods of boto3's client that the queue layer calls, for one process.

    Attributes:
        alive: Whether the process is alive. Requests of a dead one raise Killed.
        stopping: Whether the process has to stop.
        was_refused: Whether a request has failed since.
        poll: The poll of the latest receive, if that found nothing and the same is true of the next ones.
        has_received: Whether messages have arrived since this was set to false.
        settled: The id of the message that a worker thread is settling in this step, if it is.
    """

    def __init__(self, sqs: MemorySQS, faults: Faults, ledger: Ledger, trace: Trace, process: str) -> None:
        self._sqs, self._faults, self._ledger, self._trace = sqs, faults, ledger, trace
        self.process = process
        self.alive = True
        self.stopping = False
        self.was_refused = False
        self.poll: Poll | None = None
        self.has_received = False
        self.settled = ""

    def get_queue_url(self, **request: Any) -> dict[str, Any]:
        self._check_alive()
        return self._sqs.get_queue_url(**request)

    def get_queue_attributes(self, **request: Any) -> dict[str, Any]:
        self._check_alive()
        return self._sqs.get_queue_attributes(**request)

    def create_queue(self, **request: Any) -> dict[str, Any]:
        self._check_alive()
        return self._sqs.create_queue(**request)

    def send_message_batch(self, **request: Any) -> dict[str, Any]:
        return self._ask("send", self._sqs.send_message_batch, request, self._sent)

    def receive_message(self, **request: Any) -> dict[str, Any]:
        return self._ask("receive", self._sqs.receive_message, request, self._received)

    def delete_message_batch(self, **request: Any) -> dict[str, Any]:
        return self._ask("delete", self._sqs.delete_message_batch, request, self._deleted)

    def change_message_visibility_batch(self, **request: Any) -> dict[str, Any]:
        return self._ask("hide", self._sqs.change_message_visibility_batch, request, self._hidden)

    def die(self) -> None:
        """End the process as SIGKILL would."""
        self.alive = False
        self._trace.add(self.process, "dies")
        self._ledger.ended(self.process)

    def _ask(
        self,
        operation: str,
        call: Callable[..., dict[str, Any]],
        request: dict[str, Any],
        note: Callable[[Mapping[str, Any], Mapping[str, Any]], None],
    ) -> dict[str, Any]:
        self._check_alive()
        ledger, entries = self._ledger, request.get("Entries", ())
        queue = request["QueueUrl"].rpartition("/")[2]
        ledger.asked(self.process, operation, queue, entries)
        fault = self._faults.draw(operation)
        if self.settled and self._faults.random.random() < self._faults.interrupt:
            self._trace.add(self.process, "{} {}: interrupted", operation, queue)
            ledger.excuse(ledger.messages[self.settled], "interrupt")
            raise TimeLimitExceeded
        self.was_refused |= bool(fault) and self.stopping
        if fault == "refuse":
            self._trace.add(self.process, "{} {}: refused", operation, queue)
            ledger.not_applied(operation, entries)
            raise self._refusal(operation)
        dies_before = fault == "crash" and self._faults.random.random() < 0.5
        if dies_before:
            self._kill()
        left_out = self._omitted(entries) if fault == "omit" and entries else []
        if left_out:
            ledger.not_applied(operation, left_out)
            request = request | {"Entries": [entry for entry in entries if entry not in left_out]}
        answer = call(**request) if not left_out or request["Entries"] else {}
        note(request, answer)
        named = Named(request, answer) if answer else "-"
        self._trace.add(self.process, "{} {}: {}{}", operation, queue, named, f", {fault}" * bool(fault))
        if fault == "lose":
            ledger.answer_lost(operation, request, answer)
            raise ReadTimeoutError(endpoint_url=URL)
        if fault == "crash":
            self._kill()
        return self._with_failures(answer, left_out) if left_out else answer

    def _omitted(self, entries: Sequence[Any]) -> list[Any]:
        """Choose entries that SQS does not apply although it applies the request."""
        return self._faults.random.sample(list(entries), self._faults.random.randint(1, len(entries)))

    def _with_failures(self, answer: dict[str, Any], left_out: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Name the entries that were left out as failed, or do not name them at all."""
        if self._faults.random.random() < 0.5:
            return answer
        failed = [
            {"Id": entry["Id"], "Code": "InternalError", "Message": "Try again.", "SenderFault": False}
            for entry in left_out
        ]
        return answer | {"Failed": [*answer.get("Failed", ()), *failed]}

    def _refusal(self, operation: str) -> Exception:
        make: Callable[[], Exception] = self._faults.random.choice(
            (
                lambda: error(operation, "ServiceUnavailable", "Try again.", 503),
                lambda: error(operation, "AccessDenied", "No.", 403),
                lambda: EndpointConnectionError(endpoint_url=URL),
            )
        )
        return make()

    def _kill(self) -> None:
        self.die()
        raise Killed

    def _check_alive(self) -> None:
        if not self.alive:
            raise Killed

    def _sent(self, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        self._ledger.sent(request["QueueUrl"].rpartition("/")[2], request["Entries"], answer)

    def _received(self, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        self._ledger.received(self.process, answer.get("Messages", ()))
        self.has_received = bool(answer)
        if not answer and (request["WaitTimeSeconds"] or self._faults.are_over):  # a short poll may meet a fault
            self.poll = Poll(self._sqs.queue(request["QueueUrl"]), is_long=request["WaitTimeSeconds"] > 0)

    def _deleted(self, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        self._ledger.deleted(request["Entries"], answer)

    def _hidden(self, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        self._ledger.hidden(request["Entries"], answer, stopping=self.stopping)


class Named:
    """The messages of a request, which a history names by the numbers that SQS gave them."""

    __slots__ = ("_answer", "_request")

    def __init__(self, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        self._request, self._answer = request, answer

    def __str__(self) -> str:
        answered = (*self._answer.get("Messages", ()), *self._answer.get("Successful", ()))
        named = [entry["ReceiptHandle"] for entry in self._request.get("Entries", ()) if "ReceiptHandle" in entry]
        named += [one["MessageId"] for one in answered if len(one) > 1]
        return ", ".join(str(int(one[:8], 16)) for one in named) or "-"
