"""The queues: how each is used, its URL and attributes, and the creation of missing queues."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

#: Seconds that a received message is hidden. The messages of a dead worker are redelivered after this time.
VISIBILITY_TIMEOUT = 45

#: Receives after which SQS itself moves a message to the dead-letter queue, in case all other handling fails.
MAX_RECEIVES = 10

#: The receive at which a message moves to quarantine, and the receive there at which it is given up. One receive is
#: normal, and each worker that dies while it leases the message adds one. In quarantine, the message was alone with it.
QUARANTINE_AT, GIVE_UP_AT = 4, 3

#: The limits of SQS: seconds that it keeps a message, seconds of a poll, and bytes of a message with its attributes.
RETENTION, LONG_POLL, MAX_MESSAGE_BYTES = 14 * 86400, 20, 1024 * 1024

MISSING_QUEUE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})


@dataclass(frozen=True)
class Queue:
    """How a queue is used. All names are without the namespace."""

    name: str
    dead_letters: str  #: the queue for messages that were given up
    bulk: bool = False  #: whether its messages give way to those of all other queues
    is_quarantine: bool = False  #: whether its messages were received often, perhaps because they kill their workers
    ask: Callable[[], Mapping[Any, str]] = field(default=dict, compare=False, repr=False)  #: returns its attributes
    attributes: dict[str, str] = field(default_factory=dict, init=False, compare=False, repr=False)  #: as last loaded

    def load(self) -> None:
        """Load the attributes, as the broker's `join` asks for."""
        self.attributes.update(self.ask())


class Queues(dict[str, Queue]):
    """The queues that a broker consumes and sends to, by name, and the URLs of these and of dead-letter queues."""

    def __init__(
        self,
        namespace: str | None,
        client: Callable[[], SQSClient],
        known: Iterable[Queue],
        quarantine: Mapping[str, str],
        *,
        retention: int,
        tags: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.namespace = namespace
        self._client = client
        self._known = {queue.name: queue for queue in known}
        self.quarantine = quarantine
        self._retention, self._tags = retention, tags
        self._urls: dict[str, str] = {}

    def declare(self, name: str) -> None:
        known = self._known.get(name, Queue(name, dead_letters=f"{name}_dlq"))
        self[name] = replace(known, ask=partial(self._attributes, name))
        if quarantine := self.quarantine.get(name):
            self._known[quarantine] = Queue(quarantine, self[name].dead_letters, is_quarantine=True)

    def dead_letters(self, name: str) -> str:
        return self[name].dead_letters if name in self else f"{name}_dlq"

    def is_dead_letters(self, name: str) -> bool:
        """Return whether `name` is a dead-letter queue of a known queue."""
        return any(queue.dead_letters == name for queue in (*self._known.values(), *self.values()))

    def may_wait(self, target: str, name: str) -> bool:
        """Return whether dead letters for the dead-letter queue `target` may wait in the queue `name`.

        They belong to that queue, or to none that is declared. Senders must not write to the dead letters of others.
        """
        is_of_another = any(queue.dead_letters == target for queue in self.values())
        return target == self[name].dead_letters or (self.is_dead_letters(target) and not is_of_another)

    def url(self, name: str) -> str:
        """Return the URL of a declared queue or of a dead-letter queue, and create the queue if it does not exist."""
        full_name = self._full(name)
        if full_name not in self._urls:
            if name in self:
                spec = QueueSpec(full_name, self._full(self[name].dead_letters), self._retention, self._tags)
            else:
                spec = QueueSpec(full_name, tags=self._tags)
            self._urls[full_name] = ensure_queue(self._client(), spec)
        return self._urls[full_name]

    def forget_url(self, name: str) -> None:
        """Look the queue up again at its next use, and create it if it was deleted."""
        self._urls.pop(self._full(name), None)

    def knows_url(self, name: str) -> bool:
        return self._full(name) in self._urls

    def _full(self, name: str) -> str:
        return f"{self.namespace}_{name}" if self.namespace else name

    def _attributes(self, name: str) -> Mapping[Any, str]:
        return self._client().get_queue_attributes(QueueUrl=self.url(name), AttributeNames=["All"])["Attributes"]


@dataclass(frozen=True)
class QueueSpec:
    """A queue that should exist, and its dead-letter queue, by their full names."""

    name: str
    dead_letters: str | None = None
    retention: int = RETENTION  #: seconds that it keeps a message
    tags: Mapping[str, str] = field(default_factory=dict)

    def attributes(self, dead_letters_arn: str | None) -> dict[QueueAttributeNameType, str]:
        wanted: dict[QueueAttributeNameType, str] = {
            "MessageRetentionPeriod": str(self.retention),
            "VisibilityTimeout": str(VISIBILITY_TIMEOUT),
            "MaximumMessageSize": str(MAX_MESSAGE_BYTES),
            "ReceiveMessageWaitTimeSeconds": "20",
        }
        if dead_letters_arn:
            policy = {"deadLetterTargetArn": dead_letters_arn, "maxReceiveCount": MAX_RECEIVES}
            wanted["RedrivePolicy"] = json.dumps(policy)
        return wanted


def find_queue(client: SQSClient, name: str) -> str | None:
    """Return the URL of the queue `name`, or None if it does not exist."""
    try:
        return client.get_queue_url(QueueName=name)["QueueUrl"]
    except ClientError as error:
        if error.response["Error"]["Code"] in MISSING_QUEUE:
            return None
        raise


def ensure_queue(client: SQSClient, spec: QueueSpec) -> str:
    """Return the URL of a queue, and create it and its dead-letter queue if it does not exist."""
    url = find_queue(client, spec.name) or _create(client, spec)
    if spec.tags:
        client.tag_queue(QueueUrl=url, Tags=spec.tags)
    return url


def _create(client: SQSClient, spec: QueueSpec) -> str:
    dead_letters = QueueSpec(spec.dead_letters, tags=spec.tags) if spec.dead_letters else None
    arn = queue_arn(client, ensure_queue(client, dead_letters)) if dead_letters else None
    try:
        return client.create_queue(QueueName=spec.name, Attributes=spec.attributes(arn))["QueueUrl"]
    except ClientError:
        if url := find_queue(client, spec.name):  # another process has created it meanwhile
            return url
        raise


def queue_arn(client: SQSClient, url: str) -> str:
    return client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
