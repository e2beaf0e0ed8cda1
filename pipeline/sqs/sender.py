"""Sending: entries are checked, share batches with those of other threads, and count only once SQS has confirmed them.

A message that is due later than SQS can delay it carries its due time, and hops through its queue until then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import dramatiq
from botocore.exceptions import BotoCoreError, ClientError
from dramatiq.encoder import Encoder
from dramatiq.logging import get_logger
from dramatiq_sqs.exceptions import MessageTooLarge

from pipeline.sqs.group_commit import BATCH_WINDOW, GroupCommit
from pipeline.sqs.loop import Clock
from pipeline.sqs.queues import MAX_MESSAGE_BYTES, Queues
from pipeline.sqs.wire import (
    DUE,
    GROUP,
    MAX_BATCH,
    MAX_DELAY,
    Reason,
    SendEntry,
    SendFailed,
    describe,
    encode,
    in_batches,
)

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: How many batches of one call are sent in parallel. Sent in sequence, they reach only 60 % of the endpoint's rate.
MAX_PARALLEL_BATCHES = 8


class Sender:
    """Sends entries to queues.

    Args:
        queues: The queues.
        client: Returns the SQS client that all threads share.
        encoder: Encodes messages.
        clock: The time. Delays beyond 15 minutes are due by it.
        oversize: Stores a body that is too large to share a dead letter with its reason, and returns its key.
        expected: Returns how many threads may soon send.
        window: How long a batch waits for them, in seconds.
    """

    def __init__(
        self,
        queues: Queues,
        client: Callable[[], SQSClient],
        encoder: Encoder,
        clock: Clock,
        *,
        oversize: Callable[[bytes], str] | None = None,
        expected: Callable[[], int] = lambda: 0,
        window: float = BATCH_WINDOW,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self._queues = queues
        self._client = client
        self._encoder = encoder
        self._clock = clock
        self._oversize = oversize
        self._expected = expected
        self._window = window
        self._fair = True  # whether the endpoint accepts message groups on standard queues
        self._lock = threading.Lock()
        self._commits: dict[str, GroupCommit[SendEntry]] = {}

    def entry(self, message: dramatiq.Message[Any], delay: int = 0) -> SendEntry:
        """Return the entry of a message that is to be received after `delay` milliseconds."""
        options = {key: value for key, value in message.options.items() if key != DUE}
        if delay > MAX_DELAY * 1000:
            options[DUE] = int(self._clock.time() * 1000) + delay
        return SendEntry(
            body=encode(message, self._encoder, options=options),
            delay=min(-(-delay // 1000), MAX_DELAY),
            group=options.get(GROUP),
        )

    def hop(self, message: dramatiq.Message[Any]) -> SendEntry:
        """Return the entry of a message that was received before it is due, with as much of its delay as SQS allows."""
        return self.entry(message, max(0, message.options[DUE] - int(self._clock.time() * 1000)))

    def letter(self, body: str, reason: Reason) -> SendEntry:
        """Return the entry of a dead letter. A body that leaves no room for the reason is stored elsewhere.

        Raises:
            RetryableError: The store failed.
        """
        entry = SendEntry.of_dead_letter(body, reason)
        if entry.is_too_large and self._oversize:
            entry = SendEntry.of_dead_letter("{}", replace(reason, key=self._oversize(body.encode())))
        return entry

    def send(self, queue_name: str, entries: Sequence[SendEntry]) -> list[Exception | None]:
        """Send entries; if they fit into one batch, they share it with those of other threads.

        Returns:
            An error or None for each entry, in order.
        """
        return self._send(
            queue_name,
            entries,
            lambda good: self._commit_of(queue_name).submit([(entry, entry.size) for entry in good]),
        )

    def send_at_once(self, queue_name: str, entries: Sequence[SendEntry]) -> list[Exception | None]:
        """Send entries without waiting for those of other threads; returns an error or None for each, in order."""
        return self._send(queue_name, entries, partial(self._try_batch, queue_name))

    def _send(
        self,
        queue_name: str,
        entries: Sequence[SendEntry],
        send_one_batch: Callable[[list[SendEntry]], Sequence[Exception | None]],
    ) -> list[Exception | None]:
        errors = [_error_in(entry) for entry in entries]
        good = [entry for entry, error in zip(entries, errors, strict=True) if error is None]
        batches = list(in_batches(good))
        outcomes: Iterator[Exception | None]
        if len(batches) <= 1:
            outcomes = iter(send_one_batch(good) if good else [])
        else:  # full batches gain nothing from waiting for other threads
            with ThreadPoolExecutor(min(len(batches), MAX_PARALLEL_BATCHES), thread_name_prefix="send") as pool:
                outcomes = chain.from_iterable(pool.map(partial(self._try_batch, queue_name), batches))
        return [error or next(outcomes) for error in errors]

    def _commit_of(self, queue_name: str) -> GroupCommit[SendEntry]:
        with self._lock:
            if queue_name not in self._commits:
                self._commits[queue_name] = GroupCommit(
                    partial(self._send_batch, queue_name),
                    max_entries=MAX_BATCH,
                    max_bytes=MAX_MESSAGE_BYTES,
                    expected=self._expected,
                    window=self._window,
                )
            return self._commits[queue_name]

    def _try_batch(self, queue_name: str, batch: list[SendEntry]) -> Sequence[Exception | None]:
        try:
            return self._send_batch(queue_name, batch)
        except Exception as error:
            return [error] * len(batch)

    def _send_batch(self, queue_name: str, batch: list[SendEntry]) -> list[Exception | None]:
        grouped = self._fair and any(entry.group for entry in batch)
        try:
            response = self._client().send_message_batch(
                QueueUrl=self._queues.url(queue_name),
                Entries=[entry.request(str(place), grouped=grouped) for place, entry in enumerate(batch)],
            )
        except (BotoCoreError, ClientError) as error:
            if grouped and "MessageGroupId" in str(error):
                return self._resend_ungrouped(queue_name, batch)
            raise SendFailed(f"SQS did not confirm {len(batch)} messages: {describe(error)}") from error
        confirmed = {int(success["Id"]) for success in response.get("Successful", [])}
        failures = {int(failure["Id"]): failure for failure in response.get("Failed", [])}
        if grouped and any("MessageGroupId" in failure.get("Message", "") for failure in failures.values()):
            places = sorted(failures)
            again = dict(zip(places, self._resend_ungrouped(queue_name, [batch[p] for p in places]), strict=True))
        else:
            again = {p: SendFailed(f"SQS refused a message: {failure['Code']}") for p, failure in failures.items()}
        unnamed = SendFailed("SQS did not confirm a message: the answer does not contain it")
        return [None if place in confirmed else again.get(place, unnamed) for place in range(len(batch))]

    def _resend_ungrouped(self, queue_name: str, batch: list[SendEntry]) -> list[Exception | None]:
        """Send a batch without message groups, and remember that the endpoint does not support fair queues."""
        self._fair = False
        self.logger.warning("This SQS endpoint does not support fair queues. Messages are sent without a group.")
        return self._send_batch(queue_name, batch)


def _error_in(entry: SendEntry) -> Exception | None:
    try:
        entry.check()
    except (MessageTooLarge, ValueError) as error:
        return error
    return None
