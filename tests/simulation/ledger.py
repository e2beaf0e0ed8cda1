"""Records the true history of each message and job, which no worker can know. The invariants are checked against it.

At-least-once delivery means that a message may be received again, and work repeated, after certain
events. The ledger counts these *causes*. A repetition without a cause is a violation:

- `crash`: a process died, or did not stop in time, while it had the message in hand.
- `lost`: SQS applied a receive or a send, and the answer did not arrive.
- `repeat`: SQS delivered the message again of its own accord.
- `expired`: its lease ran out, and since the last extension SQS had refused or delayed a request of the process.
- `interrupt`: a time limit interrupted its settlement.
- `kept`: a process stopped while SQS refused its requests about the message.
- `stop`: a stopping process released the message, because it had not begun, or could not be settled.
- `copy`: a process that had to stop sent a copy of the quarantined message that it worked on.
- `hung`: a worker hung on it, so that its lease ended.
- `killed`: a process that had to stop was killed at the end of its grace, while it had the message in hand.

A refused request is not a cause: the process has the answer, and has to keep the message until SQS accepts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.sqs.leases import DELETE_WAIT
from pipeline.sqs.queues import VISIBILITY_TIMEOUT
from pipeline.sqs.wire import MAX_BATCH, WAITING_FOR
from tests.simulation.kinds import Kind
from tests.simulation.memory_sqs import MemorySQS
from tests.simulation.threads import LONGEST_PREEMPTION, Thread
from tests.simulation.trace import Trace
from tests.support.invariants import Event, Story

_JOB = re.compile(r"/job-(\d+)")


class Violation(AssertionError):
    """An invariant does not hold. The message names it, and is followed by the history."""


@dataclass(slots=True)
class MessageRecord:
    """One message of SQS.

    Attributes:
        job: The number of the job in it.
        queue: Its queue.
        holder: The process that received it last and has not given it back; empty if there is none.
        receives: How often it was received.
        causes: How often it may be received after the first time, by cause.
        refused: Whether an extension of its lease was refused since the last accepted extension.
        is_undeleted: Whether its delete was refused since it was received.
        extended_at: When its lease was last extended.
        finished_at: When its worker was done with it.
        receivers: The processes that have received it.
        losers: Those to which SQS has said since that they have it no longer.
    """

    id: str
    job: int
    queue: str
    holder: str = ""
    receives: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    refused: bool = False
    is_undeleted: bool = False
    finished_at: float = math.inf
    receivers: set[str] = field(default_factory=set)
    losers: set[str] = field(default_factory=set)
    extended_at: float = -math.inf

    @property
    def number(self) -> int:
        """The number in its id."""
        return int(self.id[:8], 16)

    @property
    def is_in_stage(self) -> bool:
        """Whether its queue is one of a stage, or its quarantine."""
        return self.queue.startswith("sim_")

    @property
    def in_quarantine(self) -> bool:
        """Whether it was sent to a quarantine queue."""
        return self.queue.endswith("_quarantine")


@dataclass(slots=True)
class JobRecord:
    """One job.

    Attributes:
        kind: The work of its stages, and its expected outcome.
        arrived: When it was sent.
        story: What has happened to it.
        has_hung: Whether a worker has hung on it.
        causes: How often its work may be repeated, by cause.
    """

    number: int
    kind: Kind
    arrived: float = 0.0
    story: Story = field(default_factory=Story)
    has_hung: bool = False


#: Seconds by which the answers to two extensions may differ.
TOLERANCE = 0.2

#: The message attributes of every dead letter.
LETTER = ("stage", "error_code", "error_message", "attempts", "last_at")


class Ledger:
    """The truth about one history.

    Attributes:
        jobs: By number.
        messages: By the id that SQS gave them.
        requests: How many requests were made, by operation; `refused` counts requests that SQS did not apply.
        outages: How long SQS refused each operation altogether, in seconds.
        violations: Sentences about broken invariants.
    """

    def __init__(
        self,
        sqs: MemorySQS,
        trace: Trace,
        alarm: Callable[[], None] = lambda: None,
        quarantined: Callable[[], None] = lambda: None,
    ) -> None:
        self._sqs = sqs
        self._clock = sqs.clock
        self.trace = trace
        self._alarm, self._quarantined = alarm, quarantined
        self.jobs: dict[int, JobRecord] = {}
        self.messages: dict[str, MessageRecord] = {}
        self.requests: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.outages: Counter[str] = Counter()
        self.violations: list[str] = []
        self.jumps = 0  # of Unix time
        self.hanging: set[str] = set()  # processes with a thread that hangs for good, which may not extend its leases
        self.newer_at = math.inf  # when workers begin to understand newer jobs
        self._stopped_in_peace: set[str] = set()  # processes that ended last by themselves, without trouble
        self._is_calm = True  # no request has met trouble yet
        self._sends: dict[Thread, dict[str, int]] = {}

    def held_by(self, process: str) -> list[MessageRecord]:
        """Return the messages that a process has in hand."""
        return [message for message in self.messages.values() if message.holder == process]

    def excuse(self, message: MessageRecord, cause: str) -> None:
        """Permit one more receive of a message, and one more of everything that its job does."""
        message.causes[cause] += 1
        self.note("cause", message.job, cause, message.queue, message.id)

    def note(self, kind: str, job: int, what: str = "", where: str = "", message: str = "") -> None:
        """Note an event."""
        self.jobs[job].story.add(Event(kind, str(job), what, where, message))

    def fail(self, invariant: str, *values: object) -> None:
        """Note a violation. It is raised by `check`, because the product would catch it here."""
        self.violations.append(invariant.format(*values))
        self._alarm()

    def check(self) -> None:
        """Raise the first violation."""
        if self.violations:
            raise Violation(self.violations[0])

    # Truths about requests, reported by the client.

    def asked(
        self, process: str, thread: Thread, operation: str, queue: str, entries: Sequence[Mapping[str, Any]]
    ) -> None:
        """Note a request. The sends that follow from one receive have to share one request for each queue.

        Letters that their queue refuses are sent to the queue that they come from, apart from other messages.
        """
        self.requests[operation] += 1
        if operation == "receive":
            self._sends[thread] = {}
            if queue.endswith("_quarantine") and any(
                each.in_quarantine and not each.refused and process not in each.losers for each in self.held_by(process)
            ):
                self.fail("{} asks for another message of {} while it has one of quarantine.", process, queue)
        elif operation == "delete":
            self._delete_asked(process, queue, entries)
        elif operation == "send" and thread in self._sends:
            if any(WAITING_FOR in entry.get("MessageAttributes", {}) for entry in entries):
                return
            if 0 < self._sends[thread].get(queue, 0) < MAX_BATCH:
                self.fail("{} made another request to send to {}.", process, queue)
            self._sends[thread][queue] = len(entries)
            self._transferred(process, entries)

    def _transferred(self, process: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Check that a consumer sends on only messages that it has, as far as SQS has told it."""
        for entry in entries:
            job = self.job_in(entry["MessageBody"]).number
            had = [each for each in self.messages.values() if each.job == job and process in each.receivers]
            if had and all(process in each.losers for each in had):
                self.fail("{} sends job {} on, whose message it has lost.", process, job)

    def finished(self, message_id: str) -> None:
        """Note that a message is done, and is to be deleted soon."""
        self.messages[message_id].finished_at = self._clock.now

    def _delete_asked(self, process: str, queue: str, entries: Sequence[Mapping[str, Any]]) -> None:
        for message in self._by_entry(entries).values():
            waited = self._clock.now - message.finished_at
            if self._is_calm and DELETE_WAIT + 2 * LONGEST_PREEMPTION + TOLERANCE < waited < math.inf:
                self.fail("{} deletes message {} of {} {:.1f} s late.", process, message.number, queue, waited)

    def in_trouble(self, process: str, thread: Thread, queue: str, *, is_slow: bool) -> None:
        """Note that a request failed or took long: what it sends may be repeated, and leases may run out."""
        for other in [each for each in self._sends if each.group is thread.group]:  # any of them may send it again
            del self._sends[other]
        self._is_calm = False
        if is_slow:
            for message in self.held_by(process):
                message.refused |= message.queue == queue

    def interrupted(self, message_id: str) -> None:
        """Note that a time limit interrupted the settlement of a message."""
        self.excuse(self.messages[message_id], "interrupt")

    def applied(
        self,
        process: str,
        operation: str,
        queue: str,
        request: Mapping[str, Any],
        answer: Mapping[str, Any],
        *,
        stopping: bool,
    ) -> None:
        """Note what SQS has done."""
        if operation == "send":
            self.sent(queue, request["Entries"], answer, stopping=stopping)
        elif operation == "receive":
            self.received(process, answer.get("Messages", ()))
        elif operation == "delete":
            self.deleted(request["Entries"], answer)
        elif operation == "hide":
            self.hidden(request["Entries"], answer, stopping=stopping)
            named = self._by_entry(request["Entries"])
            for failure in answer.get("Failed", ()):
                named[failure["Id"]].losers.add(process)

    def sent(
        self, queue: str, entries: Sequence[Mapping[str, Any]], answer: Mapping[str, Any], *, stopping: bool
    ) -> None:
        """Note the messages that SQS accepted. A process that stops copies the quarantined message that it works on."""
        bodies = {entry["Id"]: entry for entry in entries}
        for success in answer.get("Successful", ()):
            message = self.accepted(queue, success["MessageId"], bodies[success["Id"]])
            if stopping and message.in_quarantine:
                self.note("cause", message.job, "copy")

    def accepted(self, queue: str, message_id: str, entry: Mapping[str, Any]) -> MessageRecord:
        """Note one message that SQS accepted."""
        job = self.job_in(entry["MessageBody"])
        record = self.messages[message_id] = MessageRecord(message_id, job.number, queue)
        if record.in_quarantine:
            self._quarantined()
        if WAITING_FOR not in entry.get("MessageAttributes", {}):  # a letter that its queue has refused
            self.note("sent", job.number, where=queue)
        if queue.endswith("_dlq"):
            attributes = entry.get("MessageAttributes", {})
            told = {name: attributes.get(name, {}).get("StringValue", "") for name in LETTER}
            if not (all(told.values()) and told["attempts"].isdigit() and told["stage"] in queue):
                self.fail("A dead letter in {} says {}.", queue, told)
            self.note("letter", job.number, told["error_code"], queue)
        return record

    def job_in(self, body: str) -> JobRecord:
        """Return the job in a body."""
        found = _JOB.search(body)
        if found is None:
            raise LookupError(f"A message names no job: {body[:300]}")
        return self.jobs[int(found[1])]

    def received(self, process: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """Note what a receive returned. Each receive but the first needs a cause."""
        self._note_repeats()
        for received in messages:
            message = self.messages[received["MessageId"]]
            if message.holder and (message.refused or message.holder in self.hanging):
                self.excuse(message, "expired")
            message.receives += 1
            comes_back = process in message.receivers  # it may have it still, and extend it at once
            if message.receives > 1 + message.causes.total():
                self.fail(
                    "Message {} of job {} was received {} times, and there are {} causes for that: {}.",
                    message.id[:8],
                    message.job,
                    message.receives,
                    message.causes.total(),
                    dict(message.causes),
                )
            message.holder, message.refused, message.extended_at = process, comes_back, self._clock.now
            message.is_undeleted, message.finished_at = False, math.inf
            message.receivers.add(process)
            message.losers.discard(process)

    def deleted(self, entries: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> None:
        """Note what was deleted. SQS also confirms the delete of a message that another process has received since."""
        for message in self._successful(entries, answer):
            if message.id not in self._sqs.queues[message.queue].messages or message.id in self._sqs.repeated:
                message.holder = ""
        self._note_repeats()

    def hidden(self, entries: Sequence[Mapping[str, Any]], answer: Mapping[str, Any], *, stopping: bool) -> None:
        """Note the extended and the released messages."""
        seconds = {entry["Id"]: entry["VisibilityTimeout"] for entry in entries}
        for place, message in self._by_entry(entries).items():
            if any(success["Id"] == place for success in answer.get("Successful", ())):
                if seconds[place] < VISIBILITY_TIMEOUT:
                    self._released(message, stopping=stopping)
                else:
                    self._extended(message)

    def _released(self, message: MessageRecord, *, stopping: bool) -> None:
        message.holder = ""
        if stopping:
            self.excuse(message, "stop")

    def _extended(self, message: MessageRecord) -> None:
        """Note an extension. None is needed before a third of the visibility timeout has passed."""
        now = self._clock.now
        if now - message.extended_at < VISIBILITY_TIMEOUT / 3 - TOLERANCE and not message.refused:
            self.fail(
                "Message {} was extended {:.1f} s after the last time.", message.number, now - message.extended_at
            )
        message.extended_at, message.refused = now, False

    def not_applied(self, operation: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Note entries of a request that SQS refused."""
        self.refused[operation] += 1
        if operation in {"hide", "delete"}:
            for message in self._by_entry(entries).values():
                message.refused |= operation == "hide"
                message.is_undeleted |= operation == "delete"

    def answer_lost(self, operation: str, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Note the messages that were received, sent or extended without an answer."""
        if operation == "hide":
            for message in self._by_entry(request["Entries"]).values():
                message.extended_at = -math.inf
        elif operation == "receive":
            for received in answer.get("Messages", ()):
                message = self.messages[received["MessageId"]]
                message.holder = ""
                self.excuse(message, "lost")
        elif operation == "send":  # it will be sent again
            for success in answer.get("Successful", ()):
                self.note("cause", self.messages[success["MessageId"]].job, "lost")

    def ended(self, process: str, *, stopping: bool, refused: bool) -> None:
        """Note that a process died with everything that it had in hand.

        A kill at the end of a stop is not a crash, unless SQS kept the process from releasing what it had.
        """
        self._stopped_in_peace.discard(process)
        for message in self.held_by(process):
            message.holder = ""
            self.excuse(message, "killed" if stopping and not refused else "crash")

    def abandoned(self, process: str, answer: Mapping[str, Any]) -> None:
        """Note messages that SQS returned to a poll whose process had ended."""
        for received in answer.get("Messages", ()):
            message = self.messages[received["MessageId"]]
            message.receives += 1
            self.trace.add(process, "message {} is lost with an abandoned poll", message.number)
            if process in self._stopped_in_peace:
                self.fail("{} stopped and left message {} to a poll that was out.", process, message.number)
            self.excuse(message, "lost")

    def left_unsettled(self, message_id: str) -> None:
        """Note that a stop ended a settlement that SQS had refused in part. Its sends may be repeated."""
        self.excuse(self.messages[message_id], "unsettled")

    def did_not_stop(self, process: str) -> None:
        """Note that a process without work did not stop although SQS refused nothing."""
        self.fail("{} did not stop in time.", process)

    def stopped(self, process: str, *, refused: bool, delayed: Mapping[str, int]) -> None:
        """Note that a process stopped by itself. It may keep only what SQS did not let it release."""
        if not refused and not any(delayed.values()):
            self._stopped_in_peace.add(process)
        for message in self.held_by(process):
            is_hidden = self._is_hidden(message)
            if is_hidden and not (message.refused or message.is_undeleted or delayed[message.queue]):
                self.fail("{} stopped and did not release message {}.", process, message.number)
            message.holder = ""
            self.excuse(message, "kept")

    def _is_hidden(self, message: MessageRecord) -> bool:
        stored = self._sqs.queues[message.queue].messages.get(message.id)
        return stored is not None and stored.visible_at > self._clock.now

    def _note_repeats(self) -> None:
        for message_id in self._sqs.repeated:
            self.excuse(self.messages[message_id], "repeat")
        self._sqs.repeated.clear()

    def _by_entry(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, MessageRecord]:
        return {entry["Id"]: self.messages[entry["ReceiptHandle"].partition("#")[0]] for entry in entries}

    def _successful(self, entries: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> list[MessageRecord]:
        named = self._by_entry(entries)
        return [named[success["Id"]] for success in answer.get("Successful", ())]
