"""An SQS client whose answers the test chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from botocore.exceptions import EndpointConnectionError

Entry = dict[str, Any]
Answer = dict[str, Any]


class ScriptedSQS:
    """Records each batch request, and confirms all of its entries unless the test sets another answer.

    Attributes:
        requests: The operation and the entries of each request.
        answers: Makes the answer to an operation from its entries, or raises.
        waiting: The messages that the next receives return.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, list[Entry]]] = []
        self.answers: dict[str, Callable[[list[Entry]], Answer]] = {}
        self.waiting: list[Answer] = []

    def of(self, operation: str) -> list[list[Entry]]:
        """Return the entries of each request of one operation."""
        return [entries for name, entries in self.requests if name == operation]

    def handles(self, operation: str) -> list[list[str]]:
        """Return the receipt handles of each request of one operation."""
        return [[entry["ReceiptHandle"] for entry in entries] for entries in self.of(operation)]

    def send_message_batch(self, *, QueueUrl: str, Entries: list[Entry]) -> Answer:
        return self._answer("send_message_batch", [{**entry, "QueueUrl": QueueUrl} for entry in Entries])

    def delete_message_batch(self, *, QueueUrl: str, Entries: list[Entry]) -> Answer:
        return self._answer("delete_message_batch", Entries)

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[Entry]) -> Answer:
        return self._answer("change_message_visibility_batch", Entries)

    def receive_message(self, **request: Any) -> Answer:
        self.requests.append(("receive_message", [request]))
        count = request["MaxNumberOfMessages"]
        found, self.waiting = self.waiting[:count], self.waiting[count:]
        return {"Messages": found} if found else {}  # as boto3 does

    def get_queue_url(self, *, QueueName: str) -> Answer:
        return {"QueueUrl": f"http://sqs/{QueueName}"}

    def _answer(self, operation: str, entries: list[Entry]) -> Answer:
        self.requests.append((operation, entries))
        return self.answers.get(operation, confirm)(entries)


def confirm(entries: Sequence[Entry]) -> Answer:
    """Confirm every entry. SQS leaves out an empty list of failures."""
    return {"Successful": [{"Id": entry["Id"]} for entry in entries]}


def fail(entries: Sequence[Entry]) -> Answer:
    """Lose the request."""
    raise ConnectionError


def confirm_nothing(entries: Sequence[Entry]) -> Answer:
    """Name none of the entries."""
    return {"Successful": [], "Failed": []}


def blame_sender(entries: Sequence[Entry]) -> Answer:
    """Report every handle as stale."""
    return {"Failed": [{"Id": entry["Id"], "SenderFault": True, "Code": "ReceiptHandleIsInvalid"} for entry in entries]}


def blame_service(entries: Sequence[Entry]) -> Answer:
    """Fail every entry inside SQS."""
    return {"Failed": [{"Id": entry["Id"], "SenderFault": False, "Code": "InternalError"} for entry in entries]}


def unreachable(entries: Sequence[Entry]) -> Answer:
    """Lose the connection, as boto3 reports it."""
    raise EndpointConnectionError(endpoint_url="http://down")


class StillLoop:
    """Stands for a thread that only the test steps."""

    is_alive = False
    late = 0.0

    def __init__(self, name: str, step: Callable[[], float | None], clock: object = None) -> None:
        self.name = name
        self.woken = 0

    def start(self) -> None: ...

    def wake(self) -> None:
        self.woken += 1

    def end(self) -> None: ...

    def join(self, timeout: float) -> None: ...
