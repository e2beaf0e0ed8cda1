"""The wire format: entries checked against the limits of SQS, reasons of dead letters, and message bodies.

Source of the limits: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dramatiq
from botocore.exceptions import ClientError
from dramatiq.encoder import Encoder, JSONEncoder
from dramatiq.errors import BrokerConnectionError
from dramatiq_sqs.broker import MAX_DELAY_SECONDS
from dramatiq_sqs.exceptions import MessageTooLarge

from pipeline.sqs.queues import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

#: Entries per batch, and the longest DelaySeconds.
MAX_BATCH, MAX_DELAY = 10, MAX_DELAY_SECONDS

#: Message options: the number of failed attempts, by the kind of retry that followed each; and the message group. SQS
#: fair queues keep the backlog of one group from delaying the others.
ATTEMPTS, GROUP = "attempts", "group"

#: Message options of a wait that one delay does not cover: when the message is due and since when it waits, in Unix
#: milliseconds; and of any wait after an error: its code.
DUE, SINCE, CODE = "due", "since", "code"

#: Message option: the message was sent from a backlog. It has waited anyway, so it may wait for a batch.
BACKLOG = "backlog"

#: Limits of options: seconds until a message is due, more than any delay of the service with its jitter; and counts.
MAX_DUE, MAX_COUNT = 21 * 86400, 1_000_000

#: The year 10,000 in Unix milliseconds, where datetime ends. Larger integers do not even become floats.
MAX_TIMESTAMP = 253_402_300_800_000

#: Characters that SQS refuses or replaces in bodies and attributes, because they are not XML 1.0 characters.
_REFUSED_CHARACTERS = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_GROUP_ID = re.compile(r"[A-Za-z0-9!-/:-@\[-`{-~]{1,128}")

#: Ids that messages may carry. They appear in logs and headers, so senders may not choose freely.
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_IDS = uuid.uuid5(uuid.NAMESPACE_DNS, "message.image-pipeline")
_JSON = JSONEncoder()


#: Message attribute of a dead letter that its queue refused: it waits in the queue of a stage, and names the queue that
#: it is for.
WAITING_FOR = "waiting_for"

#: Seconds until such a dead letter is sent again.
LETTER_WAIT = 60


class SendFailed(BrokerConnectionError):
    """SQS did not confirm a message, which may or may not have been sent."""


class Unavailable(BrokerConnectionError):
    """The application cannot decide or store something now. The layer asks again."""


#: The message attributes of dead letters, in the order of `Reason.attributes`.
REASON_ATTRIBUTES = (
    "stage",
    "error_code",
    "error_message",
    "attempts",
    "first_at",
    "last_at",
    "staging_key",
)


@dataclass(frozen=True)
class Reason:
    """Why a message is a dead letter."""

    code: str
    message: str  #: a sentence for people
    stage: str = ""  #: the queue or stage that gave the message up
    attempts: int = 1
    first: float | None = None  #: when the message was first sent, in Unix seconds
    last: float | None = None  #: when the last attempt failed, in Unix seconds; by default now
    key: str = ""  #: the key of a body that was stored elsewhere, because it left no room for the reason

    def attributes(self) -> dict[str, str]:
        """Return the message attributes of the dead letter. SQS refuses empty values, so those are left out."""
        first, last = _iso(self.first), _iso(self.last or time.time())
        values = (self.stage, self.code, self.message[:1000], str(self.attempts), first, last, self.key)
        return {name: value for name, value in zip(REASON_ATTRIBUTES, values, strict=True) if value}


@dataclass(frozen=True)
class SendEntry:
    """One message of a request to SQS."""

    body: str
    delay: int = 0  #: seconds until the message can be received
    group: str | None = None  #: the message group, for fair queues
    attributes: tuple[tuple[str, str], ...] = ()  #: names and values of message attributes, all of them strings

    @classmethod
    def of_dead_letter(cls, body: str, reason: Reason) -> SendEntry:
        return cls(body, attributes=tuple(reason.attributes().items()))

    def waiting_for(self, target: str) -> SendEntry:
        """Return the dead letter as it waits for the queue `target` in another queue."""
        return replace(self, delay=LETTER_WAIT, attributes=(*self.attributes, (WAITING_FOR, target)))

    @staticmethod
    def in_batches(entries: Iterable[SendEntry]) -> Iterator[list[SendEntry]]:
        """Yield entries in order, in lists that each fit into one request."""
        batch: list[SendEntry] = []
        size = 0
        for entry in entries:
            if len(batch) == MAX_BATCH or (batch and size + entry.size > MAX_MESSAGE_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(entry)
            size += entry.size
        if batch:
            yield batch

    @cached_property
    def size(self) -> int:
        """The size that SQS counts, in bytes: the body, and the name, type and value of each attribute."""
        named = sum(len(name.encode()) + len("String") + len(value.encode()) for name, value in self.attributes)
        return len(self.body.encode()) + named

    @property
    def is_too_large(self) -> bool:
        return self.size > MAX_MESSAGE_BYTES

    def error(self) -> Exception | None:
        """Return which limit of SQS the entry breaks: MessageTooLarge, or ValueError for all others."""
        if self.is_too_large:
            limit = f"SQS accepts up to {MAX_MESSAGE_BYTES} bytes."
            return MessageTooLarge(f"A message of {self.size} bytes is too large. {limit}")
        if not self.body or _REFUSED_CHARACTERS.search(self.body):
            return ValueError("The body is empty or contains a character that SQS refuses.")
        if not 0 <= self.delay <= MAX_DELAY:
            return ValueError(f"A delay of {self.delay} s is not between 0 and {MAX_DELAY}.")
        if self.group is not None and not is_group(self.group):
            return ValueError(f"{self.group!r} is not a message group: 1 to 128 letters, digits and punctuation marks.")
        return None

    def request(self, entry_id: str, *, grouped: bool) -> SendMessageBatchRequestEntryTypeDef:
        """Return the entry for SendMessageBatch, without its group unless `grouped`."""
        request: SendMessageBatchRequestEntryTypeDef = {"Id": entry_id, "MessageBody": self.body}
        if self.delay:
            request["DelaySeconds"] = self.delay
        if self.group and grouped:
            request["MessageGroupId"] = self.group
        if good := [(name, _REFUSED_CHARACTERS.sub("?", value)) for name, value in self.attributes]:
            request["MessageAttributes"] = {n: {"DataType": "String", "StringValue": value} for n, value in good}
        return request


def is_group(value: object) -> bool:
    """Return whether SQS accepts `value` as a MessageGroupId."""
    return isinstance(value, str) and bool(_GROUP_ID.fullmatch(value))


def encode(message: dramatiq.Message[Any], encoder: Encoder = _JSON, **changes: Any) -> str:
    """Return the SQS message body of a message, with some of its fields changed."""
    return encoder.encode(message.asdict() | changes).decode()


def decode(body: str, encoder: Encoder = _JSON) -> dramatiq.Message[Any]:
    """Return the message in a body, whose fields and options have the types that later code relies on.

    Raises:
        ValueError: The body is not a dramatiq message. The error does not quote any of it.
    """
    try:
        fields = encoder.decode(body.encode())
        message: dramatiq.Message[Any] = dramatiq.Message(**{**fields, "args": tuple(fields["args"])})
    except Exception as error:
        raise ValueError(f"it cannot be decoded ({type(error).__name__})") from None
    for name, kind in _FIELDS.items():
        if not _is(getattr(message, name), kind):
            raise ValueError(f"its field {name} has a value of the wrong type")
    if not 0 <= message.message_timestamp < MAX_TIMESTAMP:
        raise ValueError("its timestamp is not in Unix milliseconds")
    for name, is_good in _OPTIONS.items():
        if name in message.options and not is_good(message.options[name]):
            raise ValueError(f"its option {name} has a value of the wrong type")
    return message


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


_FIELDS: dict[str, type] = dict.fromkeys(("queue_name", "actor_name", "message_id"), str)
_FIELDS |= {"args": tuple, "kwargs": dict, "options": dict, "message_timestamp": int}

#: dramatiq's other brokers delay messages by `eta`; here such a message would only occupy a place in the prefetch.
#: `throws` names exception types, which JSON cannot: dramatiq's thread would end as it compares them with an error.
_OPTIONS: dict[str, Callable[[Any], bool]] = {
    DUE: lambda due: _is(due, int),
    SINCE: lambda since: _is(since, int) and 0 <= since < MAX_TIMESTAMP,
    CODE: lambda code: _is(code, str),
    GROUP: is_group,
    BACKLOG: lambda value: isinstance(value, bool),
    ATTEMPTS: lambda counts: _is(counts, dict) and all(_is(n, int) and 0 <= n < MAX_COUNT for n in counts.values()),
    "eta": lambda eta: False,
    "throws": lambda throws: False,
}


def with_good_id(message: dramatiq.Message[Any], sqs_id: str) -> dramatiq.Message[Any]:
    """Return a received message; an id that is not 1 to 64 letters, digits and hyphens becomes a UUID of `sqs_id`.

    `sqs_id` is the message's first id in SQS, so that it has the same id in quarantine.
    """
    if _ID.fullmatch(message.message_id):
        return message
    changed: dramatiq.Message[Any] = message.copy(message_id=str(uuid.uuid5(_IDS, sqs_id)))
    return changed


def describe(error: BaseException) -> str:
    """Return the error code of an AWS error, or the type of any other error. Neither reveals the request."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "Unknown"))
    return type(error).__name__


def _iso(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
