"""The SQS client of one simulated process: the in-memory SQS behind a network that fails and takes time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from dramatiq.middleware import TimeLimitExceeded

from pipeline.monitoring.health import STEP_WITHIN
from tests.simulation.faults import IS_SLOW, MALFORMED, SLOW, Faults
from tests.simulation.ledger import Ledger
from tests.simulation.memory_sqs import MemorySQS, error
from tests.simulation.threads import Group, Killed, Scheduler, Thread

URL = "https://sqs.test"


class SimulatedClient:
    """The methods of boto3's client that the queue layer calls, for one process.

    Threads of all processes run while a request is under way.

    Attributes:
        group: The threads of the process.
        stopping: Whether the process has to stop.
        was_refused: Whether a request has failed, or was slow, since.
        troubled_at: When a request last failed or was slow, by its operation.
        freezes: Whether the next request of a thread of the queue layer takes forever.
        is_hanging: Whether a thread hangs for good.
        on_hang: Called then, with the seconds within which the process has to be found not live.
        ended_at: When a thread last ended a message.
        started_at: When the process was started.
        answered_at: When SQS last answered, or when the process was started.
        settled: The ids of messages that threads settle.
        unsettled: Threads whose settlement met trouble.
        delayed: How many requests about each queue take long.
        polling: The receives that are under way, by their thread: the URL of the queue, and when they end.
    """

    def __init__(self, scheduler: Scheduler, sqs: MemorySQS, faults: Faults, ledger: Ledger, process: str) -> None:
        self._scheduler, self._clock = scheduler, scheduler.clock
        self._sqs, self._faults, self._ledger, self._trace = sqs, faults, ledger, ledger.trace
        self.process, self.group = process, Group()
        self.stopping = False
        self.was_refused = False
        self.started_at = self.answered_at = self._clock.now
        self.ended_at = -math.inf
        self.freezes = self.is_hanging = False
        self.on_hang: Callable[[float], None] = lambda within: None
        self.troubled_at: dict[str, float] = {}
        self.polling: dict[Thread, tuple[str, float]] = {}
        self.settled: dict[Thread, str] = {}
        self.unsettled: set[Thread] = set()
        self.delayed: Counter[str] = Counter()

    def get_queue_url(self, **request: Any) -> dict[str, Any]:
        return self._ask("look", self._sqs.get_queue_url, request, request["QueueName"])

    def get_queue_attributes(self, **request: Any) -> dict[str, Any]:
        return self._sqs.get_queue_attributes(**request)

    def create_queue(self, **request: Any) -> dict[str, Any]:
        return self._ask("create", self._sqs.create_queue, request, request["QueueName"])

    def send_message_batch(self, **request: Any) -> dict[str, Any]:
        return self._ask("send", self._sqs.send_message_batch, request)

    def receive_message(self, **request: Any) -> dict[str, Any]:
        return self._ask("receive", self._poll, request)

    def delete_message_batch(self, **request: Any) -> dict[str, Any]:
        return self._ask("delete", self._sqs.delete_message_batch, request)

    def change_message_visibility_batch(self, **request: Any) -> dict[str, Any]:
        return self._ask("hide", self._sqs.change_message_visibility_batch, request)

    def die(self) -> None:
        """End the process as SIGKILL would."""
        if self.group.alive:
            self.group.alive = False
            self._trace.add(self.process, "dies")
            self._ledger.ended(self.process, stopping=self.stopping, refused=self.was_refused)

    def hang(self, within: float) -> None:
        """Let the running thread hang for good. The process has to be found not live within so many seconds."""
        self.is_hanging = True
        self.on_hang(within)
        self._scheduler.suspend(math.inf)

    def _ask(self, operation: str, call: Callable[..., Any], request: dict[str, Any], name: str = "") -> Any:
        if not self.group.alive:
            raise Killed
        queue = name or request["QueueUrl"].rpartition("/")[2]
        entries = request.get("Entries", ())
        thread = self._scheduler.running
        self._ledger.asked(self.process, thread, operation, queue, entries)
        if thread in self.settled and self._faults.interrupts():
            self._trace.add(self.process, "{} {}: interrupted", operation, queue)
            self._ledger.interrupted(self.settled[thread])
            raise TimeLimitExceeded
        if self.freezes and thread.name.startswith(("keep", "receive")):
            self.freezes = False
            self._trace.add(self.process, "{} {}: hangs for good", operation, queue)
            self._in_trouble(operation, thread, queue, math.inf)
            self.hang(STEP_WITHIN)
        fault, latency = self._faults.draw(operation, queue), self._faults.latency()
        if fault == "hang":
            latency, fault = SLOW[1], self._faults.random.choice(("refuse", "lose"))
        if latency <= IS_SLOW:
            return self._meet(fault, latency, operation, call, request)
        self.delayed[queue] += 1
        try:
            return self._meet(fault, latency, operation, call, request)
        finally:
            self.delayed[queue] -= self.group.alive

    def _meet(
        self, fault: str, latency: float, operation: str, call: Callable[..., Any], request: dict[str, Any]
    ) -> Any:
        """Let a request take its time, and meet its fault."""
        entries, thread = request.get("Entries", ()), self._scheduler.running
        queue = request.get("QueueName") or request["QueueUrl"].rpartition("/")[2]
        comes_late = self._faults.random.random() < 0.5  # it is applied late, and answered at once
        if fault or latency > IS_SLOW:
            self._in_trouble(operation, thread, queue, latency)
        if fault == "refuse" or (comes_late and (operation != "receive" or latency > IS_SLOW)):
            self._scheduler.sleep(latency)
        if fault == "refuse":
            self._trace.add(self.process, "{} {}: refused", operation, queue)
            self._ledger.not_applied(operation, entries)
            raise self._refusal(operation)
        if fault == "crash" and self._faults.random.random() < 0.5:
            self._kill()
        answer = self._apply(operation, call, request, queue, fault)
        if not comes_late and (answer or latency > IS_SLOW):  # an empty poll has taken its time
            self._scheduler.sleep(latency)
        if fault or latency > IS_SLOW:
            self._in_trouble(operation, thread, queue, latency)
        if fault == "lose":
            raise ReadTimeoutError(endpoint_url=URL)
        if fault == "crash":
            self._kill()
        self.answered_at = self._clock.now
        return self._faults.random.choice(MALFORMED) if fault == "malform" else answer

    def _apply(
        self, operation: str, call: Callable[..., Any], request: dict[str, Any], queue: str, fault: str
    ) -> dict[str, Any]:
        """Let SQS do what is asked, perhaps in part, and note it."""
        entries = request.get("Entries", ())
        left_out = self._omitted(entries) if fault == "omit" and entries else []
        if left_out:
            self._ledger.not_applied(operation, left_out)
            request = request | {"Entries": [entry for entry in entries if entry not in left_out]}
        answer: dict[str, Any] = call(**request) if not left_out or request["Entries"] else {}
        self._ledger.applied(self.process, operation, queue, request, answer, stopping=self.stopping)
        if operation not in {"look", "create"}:
            named = Named(request, answer) if answer else "-"
            self._trace.add(self.process, "{} {}: {}{}", operation, queue, named, f", {fault}" * bool(fault))
        if fault in {"lose", "malform"}:
            self._ledger.answer_lost(operation, request, answer)
        return self._with_failures(answer, left_out) if left_out else answer

    def _poll(self, **request: Any) -> dict[str, Any]:
        """Wait for messages as SQS does, and receive them."""
        until, thread = self._clock.now + request["WaitTimeSeconds"], self._scheduler.running
        while True:
            queue = self._sqs.queue(request["QueueUrl"])
            if queue is None or self._clock.now >= until or queue.visible(self._clock.now):
                return self._sqs.receive_message(**request)
            self.polling[thread] = request["QueueUrl"], until
            wake = _Wake(self._scheduler, thread)
            queue.waiting.append(wake)
            try:
                self._scheduler.suspend(min(queue.next_visible(self._clock.now), until))
            finally:
                queue.waiting.remove(wake)
                if self.group.alive:
                    del self.polling[thread]

    def _in_trouble(self, operation: str, thread: Thread, queue: str, latency: float) -> None:
        self.was_refused |= self.stopping
        if thread in self.settled:
            self.unsettled.add(thread)
        self.troubled_at[operation] = self._clock.now
        self._ledger.in_trouble(self.process, thread, queue, is_slow=latency > IS_SLOW)

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


class _Wake:
    """Lets a thread that polls look for a message at a time."""

    def __init__(self, scheduler: Scheduler, thread: Thread) -> None:
        self._scheduler, self._thread = scheduler, thread

    def __call__(self, when: float) -> None:
        if when < math.inf:
            self._scheduler.wake_at(when, self._thread)


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
