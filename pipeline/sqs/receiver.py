"""Receiving from one queue: polls, leases, and transfers of received messages to other queues.

A consumer transfers the few messages that its worker must not process. `ingest` transfers all of them.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger

from pipeline.sqs.leases import DELETE_WAIT, Lease, Leases, sqs_backoff
from pipeline.sqs.loop import Loop, MakeLoop
from pipeline.sqs.queues import MISSING_QUEUE
from pipeline.sqs.sender import Sender
from pipeline.sqs.wire import SendEntry, SendFailed, Unavailable, describe

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

logger = get_logger(__name__)

#: Seconds that `close` waits for pending deletes. Messages whose delete is not confirmed are redelivered.
CLOSE_TIMEOUT = 2.0

#: The parts of a received message without which nothing can be done with it.
NEEDED = {"MessageId", "ReceiptHandle", "Body"}

#: A received message and its lease.
Received = tuple["MessageTypeDef", Lease]


@dataclass(eq=False)
class Transfer:
    """A received message that goes to another queue before it is deleted.

    Attributes:
        lease: Its lease.
        route: Returns the queue and the entry. If it raises BrokerConnectionError, it is called again later.
        if_refused: As `route`, for an entry that can never be sent because of the given error; None: it is released.
        entry: What `route` has returned.
    """

    lease: Lease
    route: Callable[[], tuple[str, SendEntry]]
    if_refused: Callable[[Exception], tuple[str, SendEntry]] | None = None
    entry: tuple[str, SendEntry] | None = None


@dataclass(eq=False, kw_only=True)
class Receiver:
    """Receives the messages of one queue, and keeps their leases. Its threads run from `start` to `close`."""

    name: str  #: the queue's name for logs and threads
    url: Callable[[], str]  #: returns the queue's URL
    sender: Sender
    visibility: int  #: how long a received message stays hidden unless its lease is extended, in seconds
    rng: random.Random
    loop: MakeLoop
    receive: Callable[[], float | None]  #: called when it may receive; returns the seconds until it may again
    is_stopping: Callable[[], bool]
    home: str  #: the queue in which dead letters wait that their queue does not take
    attributes: Sequence[str] = ()  #: the message attributes to ask for
    threads: int = 1  #: how many may receive at a time
    delete_wait: float = DELETE_WAIT  #: how long deletes wait for a full batch, in seconds
    freed: Callable[[], None] = lambda: None  #: called when there may be more room
    sent: Callable[[str], None] = lambda _: None  #: called with the queue of each transfer that SQS has confirmed

    def __post_init__(self) -> None:
        clock = self._clock = self.sender.clock
        keep = self.loop(f"keep-{self.name}", lambda: self.leases.step(), clock)  # noqa: PLW0108 - it is made next
        leased = (self.name, self.url, self.sender.client, self.visibility, clock, self.rng)
        self.leases = Leases(*leased, self.delete_wait, wake=keep.wake, freed=self.freed)
        self._keeper = keep
        self._polls = [self.loop(f"receive-{self.name}", self.step, clock) for _ in range(self.threads)]
        self._transfers: deque[Transfer] = deque()
        self._retry_at = 0.0  # when transfers that could not be sent are retried, in monotonic seconds
        self._backoff = sqs_backoff(self.rng)
        self._asking_since: float | None = None
        self._unsent_since: float | None = None
        self._blocked_since: float | None = None  # when leases began to keep it from receiving
        self._fails_to_store = False  # whether the last failed transfer waits for the application, not for SQS
        self._failing: set[Lease] = set()  # of transfers whose last attempt failed, also while it is tried again

    @property
    def loops(self) -> list[Loop]:
        """Its threads."""
        return [self._keeper, *self._polls]

    @property
    def unanswered_since(self) -> float | None:
        """When polls, transfers, deletes or extensions began to fail, in monotonic seconds; None if they do not."""
        since = (self._asking_since, self._unsent_since, self._blocked_since)
        return min((each for each in since if each is not None), default=None)

    @property
    def waits_for(self) -> str:
        """Who leaves its requests unanswered."""
        if self._unsent_since is not None and self._fails_to_store:
            return "the store of large messages"
        return "SQS"

    def is_blocked(self) -> bool:
        """Return whether to receive nothing more, because SQS refuses deletes or extensions, and note since when."""
        is_blocked = self.leases.blocks_receiving
        self._blocked_since = (self._blocked_since or self._clock.monotonic()) if is_blocked else None
        return is_blocked

    @property
    def is_failing(self) -> bool:
        """Whether the last transfers could not be sent, also while another thread tries it again."""
        return self._unsent_since is not None

    @property
    def transfers(self) -> int:
        """The number of transfers that were not sent yet."""
        return len(self._transfers)

    def start(self) -> None:
        """Start the threads."""
        for each in self.loops:
            each.start()

    def wake(self) -> None:
        """Let the threads check again whether they may receive."""
        for each in self._polls:
            each.wake()

    def step(self) -> float | None:
        """Send transfers that are due, then receive; returns the seconds until the next step."""
        if self.is_stopping():
            self.send_transfers()
            return None
        if self._transfers and self._retry_at <= self._clock.monotonic():
            self.send_transfers()
        wait = self.receive()
        if not self._transfers:
            return wait
        retry = max(0.0, self._retry_at - self._clock.monotonic())
        return retry if wait is None else min(wait, retry)

    def poll(self, count: int, seconds: int) -> list[Received] | None:
        """Receive up to `count` messages, and lease them; waits so many seconds for the first.

        Returns:
            The messages that this process has not received before, or None if SQS did not answer.
        """
        self._asking_since = self._asking_since or self._clock.monotonic()
        try:
            response = self.sender.client().receive_message(
                QueueUrl=self.url(),
                MaxNumberOfMessages=count,
                WaitTimeSeconds=seconds,
                VisibilityTimeout=self.visibility,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
                MessageAttributeNames=self.attributes,
            )
            received = [each for each in response.get("Messages", []) if each.keys() >= NEEDED]
        except Exception as error:  # from boto3 or a parser below it; this thread must survive
            if not self.is_stopping():
                logger.warning("%s: cannot receive (%s). It is retried soon.", self.name, describe(error))
            if describe(error) in MISSING_QUEUE:
                self.sender.queues.forget_url(self.name)
            return None
        self._asking_since = None
        added = [(message, self.leases.add(message["MessageId"], message["ReceiptHandle"])) for message in received]
        return [(message, lease) for message, lease in added if lease]

    def rest(self) -> None:
        """Note that it does not ask now, so that no answer is missing."""
        self._asking_since = None

    def transfer(self, *transfers: Transfer) -> None:
        """Note transfers for the next step."""
        self._transfers.extend(transfers)

    def send_transfers(self) -> None:
        """Send the transfers, grouped by queue. Those that fail are kept for a retry, or released at a stop."""
        pending = dict[Lease, Transfer]()  # a message that ends after a stop may have a second one
        with suppress(IndexError):  # two threads may come here
            while True:
                transfer = self._transfers.popleft()
                pending.setdefault(transfer.lease, transfer)
        by_queue: dict[str, list[Transfer]] = {}
        for transfer in pending.values():
            if transfer.lease in self.leases and (queue := self._queue_of(transfer)):
                by_queue.setdefault(queue, []).append(transfer)
        for queue, transfers in by_queue.items():
            entries = [transfer.entry[1] for transfer in transfers if transfer.entry]
            errors: list[Exception | None]
            try:
                if self.sender.queues.is_dead_letters(queue):
                    errors = self.sender.bury(queue, entries, wait_in=self.home)
                else:
                    errors = self.sender.send(queue, entries, at_once=True)
            except Exception as failure:  # such as a thread that cannot be started; the transfers must not be lost
                errors = [SendFailed(describe(failure))] * len(entries)
            for transfer, error in zip(transfers, errors, strict=True):
                if error is None:
                    # A crash before the delete would repeat a dead letter, or a message that may crash every worker,
                    # or make two jobs of one that waits: it hops so often that many are always about to be deleted.
                    known = self.sender.queues.get(queue)
                    at_once = known is None or known.is_quarantine or queue == self.name
                    self.leases.delete(transfer.lease, at_once=at_once)
                    self.sent(queue)
                else:
                    self._failed(transfer, error)
        if not pending:
            return
        self._failing -= pending.keys()
        self._failing |= {each.lease for each in list(self._transfers) if each.lease in pending}
        if not self._failing:
            self._backoff.reset()
            self._unsent_since = None
            return
        self._retry_at = self._clock.monotonic() + self._backoff.next()
        self._unsent_since = self._unsent_since or self._clock.monotonic()
        self.freed()  # until now they counted as messages that need threads

    def _queue_of(self, transfer: Transfer) -> str:
        """Return the queue of a transfer, or nothing if its route failed."""
        try:
            transfer.entry = transfer.entry or transfer.route()
        except Exception as error:  # such as the store of long bodies
            self._failed(transfer, error)
            return ""
        return transfer.entry[0]

    def _failed(self, transfer: Transfer, error: Exception) -> None:
        can_retry = isinstance(error, BrokerConnectionError)
        self._fails_to_store = isinstance(error, Unavailable)
        if can_retry and not self.is_stopping():
            logger.warning("%s: a message is not sent (%s). It is retried soon.", self.name, describe(error))
            self._transfers.append(transfer)
            return
        logger.error("%s: a message cannot be sent (%s).", self.name, describe(error))
        if transfer.if_refused and not can_retry:
            self._transfers.append(Transfer(transfer.lease, partial(transfer.if_refused, error)))
        else:
            self.leases.release([transfer.lease], 0 if can_retry else self.visibility)

    def close(self, for_polls: float, close_by: float) -> None:
        """Wait for polls that are out, and then until SQS has confirmed the last requests.

        SQS may answer a poll with messages, which would stay hidden for the whole visibility timeout if no one released
        them. While a poll has no answer, and after `close_by`, no transfer is sent either, because each request could
        take half a minute more. The messages of such transfers are released.

        Args:
            for_polls: The seconds to wait for polls.
            close_by: When the process must not wait any more, in seconds of `time.monotonic`.
        """
        polls_by = time.monotonic() + for_polls
        self.leases.close()
        for each in self._polls:
            each.end()
        for each in self._polls:
            each.join(max(0.0, polls_by - time.monotonic()))
        if not any(each.is_alive for each in self._polls) and time.monotonic() < close_by:
            self.send_transfers()
        self.leases.release([transfer.lease for transfer in list(self._transfers)])
        deadline = min(close_by, time.monotonic() + CLOSE_TIMEOUT)
        while not self.leases.is_idle and self._keeper.is_alive and time.monotonic() < deadline:
            time.sleep(0.01)
        self._keeper.end()
