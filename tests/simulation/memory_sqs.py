"""An SQS in memory, with the methods of boto3's client that the queue layer calls.

It keeps visibility timeouts, delays, receive counts, FIFO groups, deduplication and redrive policies, on a virtual
clock. `tests/integration/sqs/test_memory_sqs.py` compares it with two servers. With a random generator it also does
what SQS permits and no test server does: it returns messages in any order and fewer than asked for, delivers some
twice, and delivers a few again after their delete.

It never waits. A receive that finds nothing returns at once, so its caller has to simulate the long poll.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from botocore.exceptions import ClientError

from tests.simulation.clock import VirtualClock

REGION, ACCOUNT = "us-east-2", "000000000000"

MAX_BATCH = 10
MAX_BYTES = 1024 * 1024
MAX_DELAY = 900
MAX_VISIBILITY = 43_200

#: Characters of a body that SQS replaces.
REPLACED = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF], "\ufffd")

#: Seconds in which a FIFO queue accepts a deduplication id only once.
DEDUPLICATION = 300

DEFAULTS = {
    "VisibilityTimeout": "30",
    "DelaySeconds": "0",
    "MessageRetentionPeriod": "345600",
    "MaximumMessageSize": str(MAX_BYTES),
    "ReceiveMessageWaitTimeSeconds": "0",
}


@dataclass(frozen=True)
class Mischief:
    """The probabilities of the anomalies that a real SQS shows now and then.

    Attributes:
        few: A receive returns fewer messages than it could.
        twice: A received message stays visible, so another receive gets it too.
        back: A deleted message appears again.
    """

    few: float = 0.0
    twice: float = 0.0
    back: float = 0.0


@dataclass(eq=False, slots=True)
class StoredMessage:
    """A message in a queue.

    Attributes:
        handle: The receipt handle of the latest receive.
        visible_at: When it can be received, in seconds of the virtual clock.
        in_flight: Whether it was received and its visibility timeout has not been set to 0 since.
    """

    id: str
    body: str
    sent_at: float
    visible_at: float
    group: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    receives: int = 0
    first_received: float | None = None
    handle: str = ""
    in_flight: bool = False
    source_arn: str = ""


class MemoryQueue:
    """One queue.

    Attributes:
        messages: By id, in the order in which they were sent.
        died: The ids of messages that the redrive policy moved to the dead-letter queue.
        waiting: Called with the time from which on a message can be received; one function for each poll.
    """

    def __init__(self, name: str, attributes: Mapping[str, str]) -> None:
        self.name = name
        self.url = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}"
        self.arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"
        self.fifo = name.endswith(".fifo")
        self.messages: dict[str, StoredMessage] = {}
        self.died: list[str] = []
        self.waiting: list[Callable[[float], None]] = []
        self.seen: dict[str, tuple[float, str]] = {}  # FIFO: deduplication id to time and message id
        self.attributes: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.visibility, self.delay, self.dead_letters_arn, self.max_receives = 0, 0, "", 0
        self.configure(DEFAULTS | dict(attributes))

    def configure(self, attributes: Mapping[str, str]) -> None:
        self.attributes |= attributes
        self.visibility = int(self.attributes["VisibilityTimeout"])
        self.delay = int(self.attributes["DelaySeconds"])
        policy = json.loads(self.attributes.get("RedrivePolicy") or "{}")
        self.dead_letters_arn = policy.get("deadLetterTargetArn", "")
        self.max_receives = int(policy.get("maxReceiveCount", 0))

    def visible(self, now: float) -> list[StoredMessage]:
        """Return the messages that a receive may return, in order."""
        if not self.fifo:
            return [message for message in self.messages.values() if message.visible_at <= now]
        blocked = {m.group for m in self.messages.values() if m.in_flight and m.visible_at > now}
        return [m for m in self.messages.values() if m.visible_at <= now and m.group not in blocked]

    def wake_at(self, when: float) -> None:
        """Tell the polls of this queue that a message can be received from `when` on."""
        for wake in self.waiting:
            wake(when)

    def next_visible(self, now: float) -> float:
        """Return when the next message may become visible; infinity if there is none. Deletes may bring it forward."""
        return min((m.visible_at for m in self.messages.values() if m.visible_at > now), default=math.inf)


class MemorySQS:
    """All queues of one account.

    Args:
        clock: The time.
        random: Chooses where SQS is free to; None for an SQS that keeps order and delivers once.
        mischief: How often it does what a real SQS does now and then.
        fair: Whether standard queues accept message groups.
    """

    def __init__(
        self,
        clock: VirtualClock,
        random: Random | None = None,
        mischief: Mischief = Mischief(),
        *,
        fair: bool = True,
    ) -> None:
        self.clock = clock
        self.random = random
        self.mischief = mischief
        self.fair = fair
        self.queues: dict[str, MemoryQueue] = {}
        self._by_url: dict[str, MemoryQueue] = {}
        self._by_arn: dict[str, MemoryQueue] = {}
        self._ids = count(1)
        #: Ids of messages that SQS itself delivered once more than it had to.
        self.repeated: list[str] = []

    # Queues.

    def create_queue(self, *, QueueName: str, Attributes: Mapping[str, str] | None = None) -> dict[str, Any]:
        if QueueName in self.queues:
            present = self.queues[QueueName].attributes
            if any(present.get(name) != value for name, value in (Attributes or {}).items()):
                raise error("CreateQueue", "QueueAlreadyExists", "A queue of this name has other attributes.")
        else:
            queue = MemoryQueue(QueueName, Attributes or {})
            if queue.dead_letters_arn and queue.dead_letters_arn not in self._by_arn:
                raise error("CreateQueue", "InvalidParameterValue", "Dead letter target does not exist.")
            self.queues[QueueName] = self._by_url[queue.url] = self._by_arn[queue.arn] = queue
        return {"QueueUrl": self.queues[QueueName].url}

    def delete_queue(self, *, QueueUrl: str) -> dict[str, Any]:
        queue = self._queue("DeleteQueue", QueueUrl)
        del self.queues[queue.name], self._by_url[queue.url], self._by_arn[queue.arn]
        return {}

    def purge_queue(self, *, QueueUrl: str) -> dict[str, Any]:
        self._queue("PurgeQueue", QueueUrl).messages.clear()
        return {}

    def get_queue_url(self, *, QueueName: str) -> dict[str, Any]:
        if QueueName not in self.queues:
            raise _no_queue("GetQueueUrl")
        return {"QueueUrl": self.queues[QueueName].url}

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: Sequence[str]) -> dict[str, Any]:
        queue, now = self._queue("GetQueueAttributes", QueueUrl), self.clock.now
        hidden = [message for message in queue.messages.values() if message.visible_at > now]
        flying = sum(message.in_flight for message in hidden)
        present = queue.attributes | {
            "QueueArn": queue.arn,
            "ApproximateNumberOfMessages": str(len(queue.messages) - len(hidden)),
            "ApproximateNumberOfMessagesNotVisible": str(flying),
            "ApproximateNumberOfMessagesDelayed": str(len(hidden) - flying),
        }
        return {"Attributes": {k: v for k, v in present.items() if k in AttributeNames or "All" in AttributeNames}}

    def set_queue_attributes(self, *, QueueUrl: str, Attributes: Mapping[str, str]) -> dict[str, Any]:
        self._queue("SetQueueAttributes", QueueUrl).configure(Attributes)
        return {}

    def tag_queue(self, *, QueueUrl: str, Tags: Mapping[str, str]) -> dict[str, Any]:
        self._queue("TagQueue", QueueUrl).tags |= Tags
        return {}

    # Sending.

    def send_message(self, *, QueueUrl: str, MessageBody: str, **entry: Any) -> dict[str, Any]:
        queue = self._queue("SendMessage", QueueUrl)
        if refusal := self._refusal(queue, entry | {"MessageBody": MessageBody}):
            raise error("SendMessage", *refusal)
        return {"MessageId": self._send(queue, entry | {"MessageBody": MessageBody})}

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        queue = self._queue("SendMessageBatch", QueueUrl)
        _check_batch("SendMessageBatch", Entries)
        if sum(_size(entry) for entry in Entries) > MAX_BYTES:
            raise error("SendMessageBatch", "AWS.SimpleQueueService.BatchRequestTooLong", "The batch is too long.")
        answer = _Answer()
        for entry in Entries:
            if refusal := self._refusal(queue, entry):
                answer.fail(entry["Id"], *refusal)
            else:
                answer.succeed(entry["Id"], MessageId=self._send(queue, entry))
        return answer.asdict()

    def _refusal(self, queue: MemoryQueue, entry: Mapping[str, Any]) -> tuple[str, str] | None:
        group = entry.get("MessageGroupId")
        if queue.fifo and not (group and entry.get("MessageDeduplicationId")):
            return "MissingParameter", "A FIFO queue needs the group and the deduplication id of a message."
        if queue.fifo and entry.get("DelaySeconds"):
            return "InvalidParameterValue", "DelaySeconds is not valid for a message of a FIFO queue."
        if group and not queue.fifo and not self.fair:
            return "InvalidParameterValue", "MessageGroupId is not valid for this queue type."
        if _size(entry) > MAX_BYTES or not entry["MessageBody"]:
            return "InvalidParameterValue", "The message is empty or too long."
        if not 0 <= entry.get("DelaySeconds", 0) <= MAX_DELAY:
            return "InvalidParameterValue", "DelaySeconds must be between 0 and 900."
        return None

    def _send(self, queue: MemoryQueue, entry: Mapping[str, Any]) -> str:
        now, unique = self.clock.now, entry.get("MessageDeduplicationId")
        if unique in queue.seen and now - queue.seen[unique][0] < DEDUPLICATION:
            return queue.seen[unique][1]
        message = StoredMessage(
            id=f"{next(self._ids):08x}-0000-4000-8000-000000000000",
            body=entry["MessageBody"].translate(REPLACED),
            sent_at=self.clock.time(),
            visible_at=now + entry.get("DelaySeconds", queue.delay),
            group=entry.get("MessageGroupId"),
            attributes=entry.get("MessageAttributes", {}),
        )
        queue.messages[message.id] = message
        queue.wake_at(message.visible_at)
        if unique:
            queue.seen[unique] = (now, message.id)
        return message.id

    # Receiving.

    def receive_message(
        self,
        *,
        QueueUrl: str,
        MaxNumberOfMessages: int = 1,
        WaitTimeSeconds: int = 0,
        VisibilityTimeout: int | None = None,
        MessageAttributeNames: Sequence[str] = (),
        MessageSystemAttributeNames: Sequence[str] = (),
    ) -> dict[str, Any]:
        queue = self._queue("ReceiveMessage", QueueUrl)
        if not 1 <= MaxNumberOfMessages <= MAX_BATCH:
            raise error("ReceiveMessage", "InvalidParameterValue", "MaxNumberOfMessages must be between 1 and 10.")
        visible = queue.visible(self.clock.now)
        if visible and self.random and not queue.fifo:
            self.random.shuffle(visible)
            if self.random.random() < self.mischief.few:
                visible = visible[: self.random.randint(1, len(visible))]
        visibility = queue.visibility if VisibilityTimeout is None else VisibilityTimeout
        received = []
        for message in visible:
            if len(received) == MaxNumberOfMessages:
                break
            if queue.max_receives and message.receives >= queue.max_receives:
                self._bury(queue, message)
                continue
            self._receive(queue, message, visibility)
            received.append(_as_received(message, MessageAttributeNames, MessageSystemAttributeNames))
        return {"Messages": received} if received else {}

    def _receive(self, queue: MemoryQueue, message: StoredMessage, visibility: int) -> None:
        message.receives += 1
        message.handle = f"{message.id}#{message.receives}"
        if message.first_received is None:
            message.first_received = self.clock.time()
        message.in_flight = True
        message.visible_at = self.clock.now + visibility
        if self._happens(self.mischief.twice) and not queue.fifo:
            message.visible_at = self.clock.now
            self.repeated.append(message.id)
        queue.wake_at(message.visible_at)

    def _bury(self, queue: MemoryQueue, message: StoredMessage) -> None:
        """Move a message to the dead-letter queue, where it keeps its id and its receive count continues."""
        if queue.dead_letters_arn not in self._by_arn:  # it was deleted
            return
        del queue.messages[message.id]
        queue.died.append(message.id)
        message.source_arn, message.in_flight, message.handle = queue.arn, False, ""
        message.visible_at = self.clock.now
        self._by_arn[queue.dead_letters_arn].messages[message.id] = message

    # Deleting and hiding.

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> dict[str, Any]:
        if refusal := self._delete(self._queue("DeleteMessage", QueueUrl), ReceiptHandle):
            raise error("DeleteMessage", *refusal)
        return {}

    def delete_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        queue, answer = self._queue("DeleteMessageBatch", QueueUrl), _Answer()
        _check_batch("DeleteMessageBatch", Entries)
        for entry in Entries:
            if refusal := self._delete(queue, entry["ReceiptHandle"]):
                answer.fail(entry["Id"], *refusal)
            else:
                answer.succeed(entry["Id"])
        return answer.asdict()

    def _delete(self, queue: MemoryQueue, handle: str) -> tuple[str, str] | None:
        """Delete the message of a receipt handle. SQS accepts a stale handle, and deletes nothing then."""
        message = queue.messages.get(handle.partition("#")[0])
        if message is None or message.handle != handle:
            return None if "#" in handle else ("ReceiptHandleIsInvalid", "The receipt handle is not valid.")
        if queue.fifo and message.visible_at <= self.clock.now:
            return "InvalidParameterValue", "The receipt handle has expired."
        if self._happens(self.mischief.back) and not queue.fifo:
            message.visible_at = self.clock.now
            queue.wake_at(message.visible_at)
            self.repeated.append(message.id)
            return None
        del queue.messages[message.id]
        queue.wake_at(self.clock.now)  # the next of its group becomes visible
        return None

    def change_message_visibility(self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> dict[str, Any]:
        queue = self._queue("ChangeMessageVisibility", QueueUrl)
        if refusal := self._hide(queue, ReceiptHandle, VisibilityTimeout):
            raise error("ChangeMessageVisibility", *refusal)
        return {}

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        queue, answer = self._queue("ChangeMessageVisibilityBatch", QueueUrl), _Answer()
        _check_batch("ChangeMessageVisibilityBatch", Entries)
        for entry in Entries:
            if refusal := self._hide(queue, entry["ReceiptHandle"], entry["VisibilityTimeout"]):
                answer.fail(entry["Id"], *refusal)
            else:
                answer.succeed(entry["Id"])
        return answer.asdict()

    def _hide(self, queue: MemoryQueue, handle: str, seconds: int) -> tuple[str, str] | None:
        message = queue.messages.get(handle.partition("#")[0])
        if not 0 <= seconds <= MAX_VISIBILITY:
            return "InvalidParameterValue", "VisibilityTimeout must be between 0 and 43200."
        if message is None or message.handle != handle:
            return "InvalidParameterValue", "The receipt handle has expired, or its message was deleted."
        if message.visible_at <= self.clock.now:
            return "AWS.SimpleQueueService.MessageNotInflight", "The message is not in flight."
        message.visible_at = self.clock.now + seconds
        message.in_flight = seconds > 0
        queue.wake_at(message.visible_at)
        return None

    def _happens(self, probability: float) -> bool:
        return bool(probability) and self.random is not None and self.random.random() < probability

    def queue(self, url: str) -> MemoryQueue | None:
        """Return the queue at `url`, unless it was deleted."""
        return self._by_url.get(url)

    def _queue(self, operation: str, url: str) -> MemoryQueue:
        if url not in self._by_url:
            raise _no_queue(operation)
        return self._by_url[url]


class _Answer:
    """The answer to a batch request. SQS leaves out a list that would be empty."""

    def __init__(self) -> None:
        self._lists: dict[str, list[dict[str, Any]]] = {}

    def succeed(self, entry_id: str, **more: Any) -> None:
        self._lists.setdefault("Successful", []).append({"Id": entry_id, **more})

    def fail(self, entry_id: str, code: str, message: str) -> None:
        failure = {"Id": entry_id, "Code": code, "Message": message, "SenderFault": True}
        self._lists.setdefault("Failed", []).append(failure)

    def asdict(self) -> dict[str, Any]:
        return self._lists


def error(operation: str, code: str, message: str, status: int = 400) -> ClientError:
    """Return the exception that boto3 raises for an error of SQS."""
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)


def _no_queue(operation: str) -> ClientError:
    return error(operation, "AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")


def _check_batch(operation: str, entries: Sequence[Mapping[str, Any]]) -> None:
    if not entries:
        raise error(operation, "AWS.SimpleQueueService.EmptyBatchRequest", "The request has no entries.")
    if len(entries) > MAX_BATCH:
        raise error(operation, "AWS.SimpleQueueService.TooManyEntriesInBatchRequest", "More than 10 entries.")
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise error(operation, "AWS.SimpleQueueService.BatchEntryIdsNotDistinct", "Two entries have the same Id.")


def _size(entry: Mapping[str, Any]) -> int:
    attributes: Iterable[tuple[str, Mapping[str, str]]] = entry.get("MessageAttributes", {}).items()
    named = sum(len(name) + len(value["DataType"]) + len(value["StringValue"].encode()) for name, value in attributes)
    return len(entry["MessageBody"].encode()) + named


def _as_received(message: StoredMessage, attribute_names: Sequence[str], system_names: Sequence[str]) -> dict[str, Any]:
    received: dict[str, Any] = {"MessageId": message.id, "ReceiptHandle": message.handle, "Body": message.body}
    every = "All" in system_names
    if system_names:
        system = {
            "ApproximateReceiveCount": str(message.receives),
            "SentTimestamp": str(int(message.sent_at * 1000)),
            "ApproximateFirstReceiveTimestamp": str(int((message.first_received or 0) * 1000)),
            "MessageGroupId": message.group,
            "DeadLetterQueueSourceArn": message.source_arn,
        }
        received["Attributes"] = {k: v for k, v in system.items() if v and (every or k in system_names)}
    wanted = {k: v for k, v in message.attributes.items() if "All" in attribute_names or k in attribute_names}
    if wanted:
        received["MessageAttributes"] = wanted
    return received
