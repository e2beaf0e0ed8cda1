"""Sending: entries are checked, share batches with those of other threads, and count only once SQS has confirmed them.

A message that waits long carries its due time, and hops through its queue until then.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.encoder import Encoder
from dramatiq.logging import get_logger

from pipeline.sqs.in_hand import InHand
from pipeline.sqs.looks import Looks
from pipeline.sqs.loop import Clock
from pipeline.sqs.queues import MISSING_QUEUE, Queues
from pipeline.sqs.wire import BACKLOG, DUE, GROUP, MAX_BATCH, SINCE, Reason, SendEntry, SendFailed, describe, encode

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

logger = get_logger(__name__)

#: How many batches of one call are sent in parallel. Sent in sequence, they reach only 60 % of the endpoint's rate.
MAX_PARALLEL_BATCHES = 8

#: The longest time that a batch waits for other threads that may soon send, in seconds. A thread that works alone never
#: waits. Under load this halves the number of requests. Beside sources that hang, live jobs wait as long in each stage.
BATCH_WINDOW = 0.1

#: Seconds after which a waiting thread looks by itself whether it may send. It is woken before that, except if a time
#: limit struck the thread that should have woken it, or if it was sending at that moment.
LONGEST_SLEEP = 1.0

#: Sends a batch, and returns an error or None for each of its entries, in order.
Commit = Callable[[list[SendEntry]], list[Exception | None]]


@dataclass(eq=False)
class _Ticket:
    entry: SendEntry
    caller: threading.Condition  #: notified when the entry is settled, or when its thread may send the next batch
    settled: bool = False
    error: Exception | None = None


@dataclass(eq=False)
class GroupCommit:
    """Sends entries in batches, from whichever calling thread finds fewer than `most` batches being sent.

    Entries that arrive meanwhile share the next batch. It needs no thread, so nothing has to be stopped, and every
    entry has a caller that waits for its outcome. A batch wakes only the callers of its entries, and the next sender.
    """

    commit: Commit
    expected: Callable[[], int] = lambda: 0  #: returns how many threads may soon submit or are waiting here
    window: float = BATCH_WINDOW  #: how long a batch waits for that many entries, in seconds
    most: int = 4  #: how many batches are sent at a time, or one if batches wait

    def __post_init__(self) -> None:
        self._lock = threading.Lock()  # guards the three attributes below
        self._arrived = threading.Condition(self._lock)
        self._waiting: list[_Ticket] = []
        self._under_way = 0

    def submit(self, entries: Sequence[SendEntry]) -> list[Exception | None]:
        """Commit entries and wait for their outcomes, which are returned in order."""
        caller = threading.Condition(self._lock)
        tickets = [_Ticket(entry, caller) for entry in entries]
        with self._lock:  # not a condition: a time limit could strike after that took the lock
            self._waiting += tickets
            if self._is_complete():
                self._arrived.notify()
            try:
                while not all(ticket.settled for ticket in tickets):
                    if self._may_send:
                        self._commit_next_batch()
                    else:
                        caller.wait(LONGEST_SLEEP)
            except BaseException:  # a time limit: no thread would send what it leaves
                self._waiting = [ticket for ticket in self._waiting if ticket.caller is not caller]
                raise
            finally:
                self._wake_sender()
        return [ticket.error for ticket in tickets]

    @property
    def _may_send(self) -> bool:
        return bool(self._waiting) and self._under_way < (1 if self.expected() else self.most)

    def _is_complete(self) -> bool:
        """Return whether the next batch has nothing to wait for."""
        return len(self._waiting) >= min(self.expected(), MAX_BATCH)

    def _wake_sender(self) -> None:
        if self._may_send:
            self._waiting[0].caller.notify()

    def _commit_next_batch(self) -> None:
        batch, errors = list[_Ticket](), list[Exception | None]()
        self._under_way += 1
        try:
            self._arrived.wait_for(self._is_complete, self.window)
            entries = next(SendEntry.in_batches(ticket.entry for ticket in self._waiting), [])
            batch, self._waiting = self._waiting[: len(entries)], self._waiting[len(entries) :]
            self._wake_sender()
            try:
                self._arrived.release()
                errors = self.commit(entries) if entries else []
            finally:
                self._arrived.acquire()
        finally:  # the other threads must also wake up if a time limit interrupts the thread that sends for them
            self._under_way -= 1
            errors = errors or [SendFailed("the thread that sent the batch was interrupted")] * len(batch)
            for ticket, error in zip(batch, errors, strict=True):
                ticket.error, ticket.settled = error, True
            for ticket in batch:
                ticket.caller.notify()


@dataclass(eq=False)
class Sender:
    """Sends entries to queues."""

    queues: Queues
    client: Callable[[], SQSClient]
    encoder: Encoder
    clock: Clock  #: long delays are due by it
    in_hand: InHand  #: knows how many threads may soon send
    oversize: Callable[[bytes], str] | None = None  #: stores a body that leaves no room for a reason; returns its key
    window: float = BATCH_WINDOW  #: how long a batch waits for other threads, in seconds
    is_hurried: Callable[[dramatiq.Message[Any]], bool] = lambda _: False  #: whether a message is to wait no longer
    _fair: bool = field(default=True, init=False)  # whether the endpoint accepts message groups on standard queues
    _groups: dict[str, GroupCommit] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._looks = Looks(self.clock)

    def entry(self, message: dramatiq.Message[Any], delay: int = 0) -> SendEntry:
        """Return the entry of a message that is due in `delay` milliseconds."""
        options = {key: value for key, value in message.options.items() if key not in {DUE, BACKLOG}}
        if not delay and self.in_hand.has_backlog(bulk=self._is_bulk(message.queue_name)):
            options[BACKLOG] = True
        now, look = int(self.clock.time() * 1000), self._looks.after(delay / 1000)
        if look < delay / 1000:
            options |= {DUE: now + delay, SINCE: max(now, options.get(SINCE, 0))}  # `is_hurried` may set a later one
        body = encode(message, self.encoder, options=options)
        return SendEntry(body, delay=math.ceil(look), group=options.get(GROUP))

    def hop(self, message: dramatiq.Message[Any], body: str) -> SendEntry:
        """Return the entry of a message that was received before it is due: the same body, so it cannot grow."""
        left = max(0.0, message.options[DUE] / 1000 - self.clock.time())
        return SendEntry(body, delay=math.ceil(self._looks.after(left)), group=message.options.get(GROUP))

    def dead_letter(self, body: str, reason: Reason) -> SendEntry:
        """Return the entry of a dead letter. A body that leaves no room for the reason is stored elsewhere.

        Raises:
            Unavailable: The store failed.
        """
        entry = SendEntry.of_dead_letter(body, reason)
        if entry.is_too_large and self.oversize:
            entry = SendEntry.of_dead_letter("{}", replace(reason, key=self.oversize(body.encode())))
        return entry

    def bury(self, target: str, letters: Sequence[SendEntry], *, wait_in: str) -> list[Exception | None]:
        """Send dead letters to the dead-letter queue `target`; returns an error or None for each, in order.

        Dead letters that it does not take wait in the queue `wait_in`, from which they are sent again. So a dead-letter
        queue that refuses them holds up neither a thread nor a lease.
        """
        errors = self.send(target, letters)
        waiting = {index: letters[index].waiting_for(target) for index, error in enumerate(errors) if error}
        waiting = {index: entry for index, entry in waiting.items() if not (letters[index].error() or entry.error())}
        if waiting:
            logger.warning("%s takes no dead letters. %d wait in %s.", target, len(waiting), wait_in)
        again = self.send(wait_in, list(waiting.values()), at_once=True)
        for index, error in zip(waiting, again, strict=True):
            errors[index] = error
        return errors

    def send(self, queue_name: str, entries: Sequence[SendEntry], *, at_once: bool = False) -> list[Exception | None]:
        """Send entries; returns an error or None for each, in order. Unless `at_once`, threads may share a batch."""
        commit = partial(self._send_batch, queue_name)
        expected = partial(self.in_hand.expected_sends, bulk=self._is_bulk(queue_name))
        new = GroupCommit(commit, expected, self.window)
        group = self._groups.setdefault(queue_name, new)
        errors = [entry.error() for entry in entries]
        good = (entry for entry, error in zip(entries, errors, strict=True) if error is None)
        batches = list(SendEntry.in_batches(good))
        outcomes: Iterable[list[Exception | None]]
        if len(batches) <= 1:
            outcomes = map(commit if at_once else group.submit, batches)
        else:  # full batches gain nothing from waiting for other threads
            with ThreadPoolExecutor(min(len(batches), MAX_PARALLEL_BATCHES), thread_name_prefix="send") as pool:
                outcomes = pool.map(commit, batches)
        of_good = chain.from_iterable(outcomes)
        return [error or next(of_good) for error in errors]

    def _is_bulk(self, queue_name: str) -> bool:
        return queue_name in self.queues and self.queues[queue_name].bulk

    def _send_batch(self, queue_name: str, batch: list[SendEntry]) -> list[Exception | None]:
        """Make one request. Entries that the answer does not name successful are not confirmed."""
        grouped = self._fair and any(entry.group for entry in batch)
        errors: list[Exception | None] = [SendFailed("SQS did not confirm a message: the answer omits it")] * len(batch)
        try:
            answer: Any = self.client().send_message_batch(
                QueueUrl=self.queues.url(queue_name),
                Entries=[entry.request(str(index), grouped=grouped) for index, entry in enumerate(batch)],
            )
            for success in answer.get("Successful", []):
                errors[int(success["Id"])] = None
            failures = {int(failure["Id"]): failure for failure in answer.get("Failed", [])}
        except Exception as error:  # from boto3 or a parser below it, or an answer of another form
            if describe(error) in MISSING_QUEUE:
                self.queues.forget_url(queue_name)
            failed = {"Code": describe(error), "Message": str(error)}
            failures = dict.fromkeys(range(len(batch)), failed)
        for index, failure in failures.items():
            errors[index] = SendFailed(f"SQS did not confirm a message: {failure.get('Code')}")
        if grouped and any("MessageGroupId" in failure.get("Message", "") for failure in failures.values()):
            self._fair = False
            logger.warning("This SQS endpoint does not support fair queues. Messages are sent without a group.")
            again = self._send_batch(queue_name, [batch[index] for index in failures])
            for index, outcome in zip(failures, again, strict=True):
                errors[index] = outcome
        return errors
