"""Lists, redrives and purges dead letters.

A redrive sends the message of a dead letter to its target queue, with the bytes that wait in staging, and deletes it
once SQS has confirmed the message. If the redrive stops between the two steps, the dead letter remains, and sending it
again gives the same result under the same id. A job that fails again becomes a new dead letter. The same redrive
ignores it because it takes none newer than its first survey.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING

from dramatiq_sqs.utils import batched

from pipeline.actors import broker
from pipeline.errors import PipelineError, SettingsError
from pipeline.ops.dead_letters.dead_letter import DeadLetter, Filter, payload_of, read_letter, to_send
from pipeline.ops.dead_letters.reader import QueueReader, open_readers, read_all
from pipeline.payload import parse_json
from pipeline.producer import send_again
from pipeline.settings import get_settings
from pipeline.sqs.wire import MAX_BATCH
from pipeline.stages import INGEST_DEAD_LETTER_QUEUE
from pipeline.storage.staging import staging

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

#: Default limit of a redrive, in dead letters per second.
RATE = 100.0

EVERYTHING = Filter()

_Pair = tuple[DeadLetter, "MessageTypeDef"]


@dataclass
class Survey:
    """The dead letters that match a filter, counted."""

    #: Number of dead letters by stage, code and obstacle (why a redrive would leave them; empty if it would send them).
    groups: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(
        default_factory=dict
    )  #: the message of one dead letter, by stage and code
    latest: list[DeadLetter] = field(default_factory=list)  #: summaries of the latest, as many as `survey` was to keep
    waiting: int = 0  #: approximate number of visible messages in the queues, whether they match or not
    hidden: int = 0  #: approximate number of messages that other readers have leased
    newest: float = 0.0  #: arrival of the newest dead letter, in Unix seconds by SQS's clock
    complete: bool = True  #: whether all dead letters were read, except messages leased by other readers

    @property
    def is_exact(self) -> bool:
        """Whether no dead letter was left out."""
        return self.complete and not self.hidden

    @property
    def total(self) -> int:
        """Number of dead letters that match."""
        return self.groups.total()

    @property
    def sendable(self) -> int:
        """Number of matching dead letters that a redrive would send."""
        return sum(number for (*_, obstacle), number in self.groups.items() if not obstacle)

    def add(self, letters: Sequence[DeadLetter], keep: int) -> None:
        """Count dead letters, and keep summaries of the latest `keep` of all."""
        self.groups.update((letter.stage, letter.code, letter.obstacle) for letter in letters)
        self.examples |= {(letter.stage, letter.code): letter.message for letter in letters}
        self.newest = max(self.newest, *(letter.sent_at for letter in letters))
        self.latest = _latest([*self.latest, *(letter.summary() for letter in letters)], keep)


@dataclass
class Counts:
    """Progress and result of a redrive or a purge, in dead letters."""

    sent: Counter[tuple[str, str]] = field(default_factory=Counter)  #: by stage and code
    left: Counter[str] = field(default_factory=Counter)  #: not sent, by obstacle
    unsent: Counter[str] = field(default_factory=Counter)  #: refused by SQS and still there, by SQS's error
    kept: int = 0  #: sent, but not deleted, so that another redrive would send them again
    complete: bool = True  #: whether all dead letters could be read

    @property
    def attempted(self) -> int:
        """Number of dead letters that were sent or refused."""
        return self.sent.total() + self.unsent.total()

    @property
    def deleted(self) -> int:
        """Number of dead letters that were deleted."""
        return self.sent.total() - self.kept


def browse(filter: Filter = EVERYTHING) -> list[DeadLetter]:
    """Return the dead letters that match with all their content, latest first.

    Raises:
        SettingsError: None of the queues exists.
        RetryableError: SQS refuses the request or cannot be reached.
    """
    found: list[DeadLetter] = []

    def collect(_: QueueReader, pairs: list[_Pair]) -> None:
        found.extend(letter for letter, _ in pairs)

    _read(filter, collect, Event())
    return _latest(found, None)


def survey(
    filter: Filter = EVERYTHING,
    keep: int = 0,
    *,
    limit: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Survey:
    """Count the dead letters that a redrive or a purge with this filter would take.

    Args:
        filter: The dead letters to count.
        keep: Number of dead letters to return as `Survey.latest`.
        limit: Stop once there are more than this many, in the order in which SQS delivers them.
        progress: Called with the number counted so far, from several threads, one at a time.

    Raises:
        SettingsError: None of the queues exists.
        RetryableError: SQS refuses the request or cannot be reached.
    """
    found, lock, stopped = Survey(), Lock(), Event()

    def count(_: QueueReader, pairs: list[_Pair]) -> None:
        with lock:
            found.add([letter for letter, _ in pairs], keep)
            if limit is not None and found.total > limit:
                found.complete = False
                stopped.set()
            if progress:
                progress(found.total)

    readers = _read(filter, count, stopped)
    found.waiting = sum(reader.waiting for reader in readers)
    found.hidden = sum(reader.hidden for reader in readers)
    found.complete = found.complete and all(reader.complete for reader in readers)
    return found


def payload(letter: DeadLetter) -> str:
    """Return the payload that the producer sent, as text without probable secrets.

    Raises:
        PipelineError: The payload waits in staging and cannot be read.
    """
    return payload_of(letter, _staged)


def redrive(
    filter: Filter = EVERYTHING,
    *,
    rate: float = RATE,
    limit: int | None = None,
    until: float | None = None,
    progress: Callable[[Counts], object] | None = None,
) -> Counts:
    """Send the dead letters that match through the pipeline again, and delete each once SQS has confirmed its message.

    Args:
        filter: The dead letters to send.
        rate: Maximum number of dead letters per second, over all stages.
        limit: Maximum number of dead letters to send.
        until: Ignore dead letters that arrived later, in Unix seconds as `Survey.newest`. A survey is the default.
        progress: Called after each batch, from several threads, one at a time.

    Raises:
        SettingsError: None of the queues exists.
        RetryableError: SQS refuses the request or cannot be reached. The last call of `progress` has the counts.
    """
    return _run(filter, _Run(_send, limit, progress, rate), until, rate)


def purge(
    filter: Filter,
    *,
    until: float | None = None,
    limit: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Delete the dead letters that match. The bytes of their jobs in staging expire by themselves.

    Args:
        filter: The dead letters to delete.
        until: As in `redrive`.
        limit: Maximum number of dead letters to delete.
        progress: Called with the number deleted so far, from several threads, one at a time.

    Returns:
        The number of deleted dead letters.

    Raises:
        SettingsError: None of the queues exists.
        RetryableError: SQS refuses the request or cannot be reached.
    """
    return _run(filter, _Run(None, limit, progress and (lambda counts: progress(counts.deleted))), until).deleted


def _run(filter: Filter, run: _Run, until: float | None, rate: float | None = None) -> Counts:
    until = survey(filter).newest if until is None else until
    readers = _read(filter, run.handle, run.stopped, until=until, rate=rate)
    run.counts.complete = all(reader.complete for reader in readers)
    return run.counts


class _Run:
    """One redrive, or one purge, which sends nothing. Several threads call `handle`; the lock guards the counts."""

    def __init__(
        self,
        send: Callable[[Sequence[DeadLetter]], list[str | None]] | None,
        limit: int | None,
        progress: Callable[[Counts], object] | None,
        rate: float = math.inf,
    ) -> None:
        self.counts = Counts()
        self.stopped = Event()
        self._send = send
        self._pace = Pace(rate, self.stopped)
        self._limit = limit
        self._progress = progress
        self._lock = Lock()
        self._claimed = 0  # dead letters that a thread has begun to send or to delete

    def handle(self, reader: QueueReader, pairs: list[_Pair]) -> None:
        """Take the dead letters that can be taken, batch by batch."""
        for batch in batched(self._claim(pairs), self._pace.batch):
            members = list(batch)
            if not self._pace.wait(len(members)):
                return
            self._take(reader, members)

    def _claim(self, pairs: list[_Pair]) -> list[_Pair]:
        """Count the dead letters that stay because of an obstacle; return the others, up to the limit."""
        obstacles = [letter.obstacle for letter, _ in pairs if self._send and letter.obstacle]
        free = [pair for pair in pairs if not (self._send and pair[0].obstacle)]
        with self._lock:
            self.counts.left.update(obstacles)
            free = free[: None if self._limit is None else self._limit - self._claimed]
            self._claimed += len(free)
        return free

    def _take(self, reader: QueueReader, pairs: list[_Pair]) -> None:
        """Send dead letters, and delete each from its queue once SQS has confirmed it."""
        letters = [letter for letter, _ in pairs]
        errors = self._send(letters) if self._send else [None] * len(letters)
        sent = [pair for pair, error in zip(pairs, errors, strict=True) if error is None]
        kept = len(sent)
        try:
            kept = len(reader.delete([message for _, message in sent]))
        finally:
            self._record([letter for letter, _ in sent], [error for error in errors if error], kept)

    def _record(self, sent: list[DeadLetter], errors: list[str], kept: int) -> None:
        with self._lock:
            self.counts.sent.update((letter.stage, letter.code) for letter in sent)
            self.counts.unsent.update(errors)
            self.counts.kept += kept
            if self._limit is not None and self.counts.attempted >= self._limit:
                self.stopped.set()
            if self._progress:
                self._progress(self.counts)


class Pace:
    """Limits the dead letters of all threads together to `rate` per second, and stops them once `stopped` is set."""

    def __init__(self, rate: float, stopped: Event, clock: Callable[[], float] = time.monotonic) -> None:
        self.batch = int(min(MAX_BATCH, max(1.0, rate)))  #: maximum number of dead letters to send at once
        self._rate = rate
        self._stopped = stopped
        self._clock = clock
        self._lock = Lock()
        self._next = 0.0

    def wait(self, number: int) -> bool:
        """Wait until `number` dead letters may be sent; return False if the redrive was stopped."""
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + number / self._rate
        return not self._stopped.wait(start - now)


def _read(
    filter: Filter,
    handle: Callable[[QueueReader, list[_Pair]], None],
    stopped: Event,
    *,
    until: float | None = None,
    rate: float | None = None,
) -> list[QueueReader]:
    """Call `handle` with the matching dead letters from several threads, then make all that it kept visible again."""
    prefix = f"{get_settings().queue_namespace}_"
    names = [prefix + queue for queue in filter.queues]
    readers = open_readers(names, stopped=stopped, until=until, rate=rate)
    if not readers:
        raise SettingsError(
            f"QUEUE_NAMESPACE={get_settings().queue_namespace!r}: the queue {names[0]} does not exist. Check the "
            "namespace and the region. `image-pipeline provision` creates the queues."
        )

    def handle_matching(reader: QueueReader, messages: list[MessageTypeDef]) -> None:
        letters = [read_letter(message, reader.name.removeprefix(prefix), _staged) for message in messages]
        if matching := [pair for pair in zip(letters, messages, strict=True) if filter.matches(pair[0])]:
            handle(reader, matching)

    read_all(readers, handle_matching, stopped)
    return readers


def _send(letters: Sequence[DeadLetter]) -> list[str | None]:
    """Send dead letters of one queue; return SQS's error, or None, for each."""
    if letters[0].queue == INGEST_DEAD_LETTER_QUEUE:
        return [_send_input(letter) for letter in letters]
    return [str(error) if error else None for error in broker.enqueue_many([to_send(letter) for letter in letters])]


def _send_input(letter: DeadLetter) -> str | None:
    try:
        send_again(parse_json(letter.body), letter.id)
    except PipelineError as error:
        return error.message
    return None


def _latest(letters: list[DeadLetter], number: int | None) -> list[DeadLetter]:
    return sorted(letters, key=lambda letter: (letter.last_at, letter.sent_at), reverse=True)[:number]


def _staged(key: str) -> str:
    return staging().get(key).decode(errors="replace")
