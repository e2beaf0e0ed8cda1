"""What travels through SQS: entries checked against its limits, the reasons of dead letters, and bodies.

Sources of the limits: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
"""

from __future__ import annotations

import re
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dramatiq
from botocore.exceptions import ClientError
from dramatiq.errors import BrokerConnectionError
from dramatiq_sqs.broker import MAX_DELAY_SECONDS
from dramatiq_sqs.exceptions import MessageTooLarge

from pipeline.sqs.queues import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

#: Entries of one batch, and attributes of one message, at the most.
MAX_BATCH = 10
MAX_ATTRIBUTES = 10

#: The longest DelaySeconds.
MAX_DELAY = MAX_DELAY_SECONDS

#: The option that holds when a message is due (Unix time in ms), where that is further off than one delay reaches.
DUE = "due"

#: The option of a message that is suspected of killing its workers, and runs alone: how often it was sent again as a
#: copy, of which SQS counts the receives anew.
SUSPECT = "suspect"

#: The option of such a copy: SQS's id of the message that it is a copy of.
COPY_OF = "first"

#: The option that counts a message's failed attempts, by the list of delays that each followed.
ATTEMPTS = "attempts"

#: The option that names a message's group: SQS fair queues keep one group's flood from starving the others.
GROUP = "group"

#: What SQS takes in bodies and attributes (the XML 1.0 characters); anything else is replaced.
_REFUSED_CHARACTERS = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_GROUP_ID = re.compile(r"[A-Za-z0-9!-/:-@\[-`{-~]{1,128}")


class SendFailed(BrokerConnectionError):
    """SQS did not confirm a message; it may or may not be there."""


@dataclass(frozen=True)
class Reason:
    """Why a message is a dead letter. Times are Unix time in seconds."""

    code: str
    message: str
    stage: str = ""
    attempts: int = 1
    first: float | None = None
    last: float | None = None
    key: str = ""  #: where the body waits in staging, if it was too large to keep beside its reason

    def attributes(self) -> dict[str, str]:
        """The message attributes of the dead letter; SQS takes no empty ones."""
        named = {
            "stage": self.stage,
            "error_code": self.code,
            "error_message": self.message[:1000],
            "attempts": str(self.attempts),
            "first_at": _iso(self.first),
            "last_at": _iso(self.last or time.time()),
            "staging_key": self.key,
        }
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True)
class SendEntry:
    """One message as SQS is to take it."""

    body: str
    delay: int = 0
    group: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_dead_letter(cls, body: str, reason: Reason) -> SendEntry:
        """A dead letter, its reason beside it."""
        return cls(body, attributes=tuple(reason.attributes().items()))

    @cached_property
    def size(self) -> int:
        """Bytes that SQS counts: the body, and each attribute's name, type and value."""
        named = sum(len(name.encode()) + len("String") + len(value.encode()) for name, value in self.attributes)
        return len(self.body.encode()) + named

    @property
    def is_too_large(self) -> bool:
        """Whether SQS would refuse it for its size."""
        return self.size > MAX_MESSAGE_BYTES

    def check(self) -> None:
        """Raises what SQS would refuse it for.

        Raises:
            MessageTooLarge: body and attributes are over 1 MiB.
            ValueError: any other limit is broken.
        """
        if self.is_too_large:
            raise MessageTooLarge(f"A message of {self.size} bytes is too large: SQS takes {MAX_MESSAGE_BYTES}.")
        if not self.body or _REFUSED_CHARACTERS.search(self.body):
            raise ValueError("The body is empty or holds a character that SQS refuses.")
        if not 0 <= self.delay <= MAX_DELAY:
            raise ValueError(f"A delay of {self.delay} s is not between 0 and {MAX_DELAY}.")
        if len(self.attributes) > MAX_ATTRIBUTES or not all(value for _, value in self.attributes):
            raise ValueError(f"SQS takes up to {MAX_ATTRIBUTES} attributes, none of them empty.")
        if self.group is not None and not is_group(self.group):
            raise ValueError(f"{self.group!r} is no group id: 1 to 128 letters, digits and punctuation.")

    def request(self, entry_id: str, *, grouped: bool) -> SendMessageBatchRequestEntryTypeDef:
        """The entry as SendMessageBatch wants it; not `grouped`, for an endpoint that knows no fair queues."""
        request: SendMessageBatchRequestEntryTypeDef = {"Id": entry_id, "MessageBody": self.body}
        if self.delay:
            request["DelaySeconds"] = self.delay
        if self.group and grouped:
            request["MessageGroupId"] = self.group
        if self.attributes:
            request["MessageAttributes"] = {
                name: {"DataType": "String", "StringValue": _REFUSED_CHARACTERS.sub("?", value)}
                for name, value in self.attributes
            }
        return request


def in_batches(entries: Iterable[SendEntry]) -> Iterator[list[SendEntry]]:
    """`entries` in their order, as many in each list as SQS takes in one request."""
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


def is_group(value: object) -> bool:
    """Whether SQS takes `value` as a MessageGroupId."""
    return isinstance(value, str) and bool(_GROUP_ID.fullmatch(value))


def encode(message: dramatiq.Message[Any], **changes: Any) -> str:
    """A message, some of its fields changed, as the body of an SQS message."""
    return dramatiq.get_encoder().encode(message.asdict() | changes).decode()


def decode(body: str) -> dramatiq.Message[Any]:
    """The message in a body, ours or upstream's.

    Raises:
        ValueError: the body is no dramatiq message; its text names no part of the body.
    """
    try:
        message = dramatiq.Message.decode(body.encode() if body.startswith("{") else b64decode(body, validate=True))
    except Exception as error:
        raise ValueError(f"it cannot be decoded ({type(error).__name__})") from None
    for name, is_good in _FIELDS.items():
        if not is_good(getattr(message, name)):
            raise ValueError(f"its field {name} has no value of its kind")
    for name, is_good in _OPTIONS.items():
        if name in message.options and not is_good(message.options[name]):
            raise ValueError(f"its option {name} has no value of its kind")
    return message


def _is(*kinds: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool)


def _counts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is(int), value.values()))


#: What a message's fields and options must be, so that nothing that reads them later can stumble. `eta` is how dramatiq
#: delays messages in other brokers; here it would only hold a place.
_FIELDS: dict[str, Callable[[object], bool]] = {
    "queue_name": _is(str),
    "actor_name": _is(str),
    "args": _is(tuple),
    "kwargs": _is(dict),
    "options": _is(dict),
    "message_id": _is(str),
    "message_timestamp": _is(int),
}
_OPTIONS: dict[str, Callable[[object], bool]] = {
    DUE: _is(int),
    SUSPECT: _is(int),
    COPY_OF: _is(str),
    GROUP: is_group,
    ATTEMPTS: _counts,
    "eta": lambda value: False,
}


def describe(error: Exception) -> str:
    """An error of boto3 in a few words, without the request."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "Unknown"))
    return type(error).__name__


def _iso(seconds: float | None) -> str:
    try:
        return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # a message's own timestamp, in another unit than milliseconds
        return ""
