"""What an operator does with dead letters: look at them, send them through again, delete them.

A redrive sends what a letter holds to the queue that it names, with the bytes that wait in staging, and deletes the
letter once SQS has confirmed the message. If it is ended between the two, the letter is there still, and sending it
again gives the same result under the same id. What fails again comes back as a new letter, which the same redrive
leaves alone: it takes no letter that is newer than those it has looked at first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event, Lock
from typing import TYPE_CHECKING

from dramatiq_sqs.utils import batched

from pipeline.actors import broker
from pipeline.errors import PipelineError
from pipeline.ops.dead_letters.letter import NO_REASON, DeadLetter, Filter, payload_of, read_letter, to_send
from pipeline.ops.dead_letters.reader import Reading, open_readings, read_through
from pipeline.payload import parse_json
from pipeline.producer import send_message
from pipeline.settings import SettingsError, get_settings
from pipeline.sqs.wire import MAX_BATCH
from pipeline.stages import INGEST_DEAD_LETTER_QUEUE
from pipeline.storage.staging import staging

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

__all__ = [
    "EVERYTHING",
    "NO_REASON",
    "RATE",
    "Counts",
    "DeadLetter",
    "Filter",
    "Survey",
    "browse",
    "payload",
    "purge",
    "redrive",
    "survey",
]

#: Letters that a redrive sends in a second, where it is not told otherwise.
RATE = 100.0

EVERYTHING = Filter()


@dataclass
class Survey:
    """What a look at the dead-letter queues found."""

    #: Letters that the filter takes, by stage, code, and why a redrive would leave them (empty: it would not).
    groups: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    says: dict[tuple[str, str], str] = field(default_factory=dict)  #: the sentence of one of them, by stage and code
    latest: list[DeadLetter] = field(default_factory=list)  #: the latest of them, as many as were asked for
    waiting: int = 0  #: letters in the queues, those included that the filter does not take; SQS's approximate count
    elsewhere: int = 0  #: letters that another reader holds, and nobody else can see meanwhile; approximate too
    newest: float = 0.0  #: when the newest letter that was found came, by SQS's clock, in Unix seconds
    complete: bool = True  #: whether all letters could be looked at

    @property
    def total(self) -> int:
        """Letters that the filter takes."""
        return self.groups.total()

    @property
    def sendable(self) -> int:
        """Those of them that a redrive would send."""
        return sum(number for (*_, obstacle), number in self.groups.items() if not obstacle)


@dataclass
class Counts:
    """How far a redrive is, or how it ended."""

    sent: Counter[tuple[str, str]] = field(default_factory=Counter)  #: by stage and code
    left: Counter[str] = field(default_factory=Counter)  #: by the sentence that says why
    unsent: Counter[str] = field(default_factory=Counter)  #: SQS did not take them, by what it said; they stay
    kept: int = 0  #: sent, but SQS would not delete their letters: they would be sent again
    complete: bool = True  #: whether all letters could be read

    @property
    def done(self) -> int:
        """Letters that were dealt with."""
        return self.sent.total() + self.left.total() + self.unsent.total()


def browse(filter: Filter = EVERYTHING, limit: int | None = None) -> list[DeadLetter]:
    """The letters that `filter` takes, the latest first; up to `limit`, whichever SQS gives first.

    Raises:
        SettingsError: none of the queues is there.
        RetryableError: SQS refuses, or cannot be reached.
    """
    found: list[DeadLetter] = []
    stopped = Event()

    def take(_: Reading, meant: list[_Pair]) -> None:
        found.extend(letter for letter, _ in meant)
        if limit is not None and len(found) >= limit:
            stopped.set()

    _go_through(filter, take, stopped)
    return _latest(found, limit)


def survey(filter: Filter = EVERYTHING, keep: int = 0) -> Survey:
    """Count the letters that `filter` takes: what a redrive or a purge would meet; and keep the latest ones.

    Raises:
        SettingsError, RetryableError: as `browse` does.
    """
    found, lock = Survey(), Lock()

    def count(_: Reading, meant: list[_Pair]) -> None:
        letters = [letter for letter, _ in meant]
        with lock:
            found.groups.update((letter.stage, letter.code, letter.obstacle) for letter in letters)
            found.says |= {(letter.stage, letter.code): letter.message for letter in letters}
            found.newest = max(found.newest, *(letter.sent_at for letter in letters))
            found.latest = _latest([*found.latest, *letters], keep)

    readings = _go_through(filter, count, Event())
    found.waiting = sum(reading.waiting for reading in readings)
    found.elsewhere = sum(reading.elsewhere for reading in readings)
    found.complete = all(reading.complete for reading in readings)
    return found


def payload(letter: DeadLetter) -> str:
    """What the producer sent, as text without what looks like a secret.

    Raises:
        PipelineError: it waits in staging, and cannot be read.
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
    """Send the letters that `filter` takes through again, and delete each once SQS has its message.

    Args:
        rate: letters a second at the most, of all stages together.
        limit: letters to send at the most.
        until: takes only letters that came until then, as `Survey.newest` has it; by default it looks by itself.
        progress: is called after each batch, from several threads, one at a time.

    Raises:
        SettingsError, RetryableError: as `browse` does; what was sent until then is what `progress` was told last.
    """
    until = survey(filter).newest if until is None else until
    counts, lock, stopped = Counts(), Lock(), Event()
    pace = Pace(rate, stopped)
    begun = 0

    def send(reading: Reading, meant: list[_Pair]) -> None:
        nonlocal begun
        going = [pair for pair in meant if not pair[0].obstacle]
        with lock:
            counts.left.update(letter.obstacle for letter, _ in meant if letter.obstacle)
            going = going[: None if limit is None else limit - begun]
            begun += len(going)
        for batch in batched(going, pace.batch):
            pairs = list(batch)
            if not pace.wait(len(pairs)):
                return
            errors = _send([letter for letter, _ in pairs])
            sent = [pair for pair, error in zip(pairs, errors, strict=True) if error is None]
            try:
                kept = len(sent)
                kept = len(reading.delete([message for _, message in sent]))
            finally:
                with lock:
                    counts.sent.update((letter.stage, letter.code) for letter, _ in sent)
                    counts.unsent.update(error for error in errors if error)
                    counts.kept += kept
                    if limit is not None and counts.sent.total() + counts.unsent.total() >= limit:
                        stopped.set()
                    if progress:
                        progress(counts)

    readings = _go_through(filter, send, stopped, until=until, rate=rate)
    counts.complete = all(reading.complete for reading in readings)
    return counts


def purge(filter: Filter, *, until: float | None = None, progress: Callable[[int], object] | None = None) -> int:
    """Delete the letters that `filter` takes; returns how many. What their jobs have in staging expires by itself.

    Args:
        until: as in `redrive`.
        progress: is called with the number deleted so far, from several threads, one at a time.

    Raises:
        SettingsError, RetryableError: as `browse` does.
    """
    until = survey(filter).newest if until is None else until
    lock, deleted = Lock(), 0

    def delete(reading: Reading, meant: list[_Pair]) -> None:
        nonlocal deleted
        refused = reading.delete([message for _, message in meant])
        with lock:
            deleted += len(meant) - len(refused)
            if progress:
                progress(deleted)

    _go_through(filter, delete, Event(), until=until)
    return deleted


class Pace:
    """Lets letters go at `rate` a second, those of all threads together; none any more once `stopped` is set."""

    def __init__(self, rate: float, stopped: Event, clock: Callable[[], float] = time.monotonic) -> None:
        self.batch = max(1, min(MAX_BATCH, int(rate)))  #: letters that may go at once
        self._rate = rate
        self._stopped = stopped
        self._clock = clock
        self._lock = Lock()
        self._next = 0.0

    def wait(self, number: int) -> bool:
        """Wait until `number` letters may go; False if none may."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + number / self._rate
        return not self._stopped.wait(turn - now)


_Pair = tuple[DeadLetter, "MessageTypeDef"]


def _go_through(
    filter: Filter,
    each: Callable[[Reading, list[_Pair]], None],
    stopped: Event,
    *,
    until: float | None = None,
    rate: float | None = None,
) -> list[Reading]:
    """Hand what `filter` takes to `each`, from several threads; all that is not deleted is visible again then."""
    prefix, now = f"{get_settings().queue_namespace}_", datetime.now(UTC)
    names = [prefix + queue for queue in filter.queues]
    readings = open_readings(names, stopped=stopped, until=until, rate=rate)
    if not readings:
        raise SettingsError(
            f"QUEUE_NAMESPACE={get_settings().queue_namespace!r}: there is no queue {names[0]}. Is that the namespace "
            "and the region of the service? `image-pipeline provision` creates its queues."
        )

    def handle(reading: Reading, messages: list[MessageTypeDef]) -> None:
        letters = [read_letter(message, reading.name.removeprefix(prefix), _staged) for message in messages]
        if meant := [pair for pair in zip(letters, messages, strict=True) if filter.takes(pair[0], now)]:
            each(reading, meant)

    read_through(readings, handle, stopped)
    return readings


def _send(letters: Sequence[DeadLetter]) -> list[str | None]:
    """Send letters of one queue; returns what SQS said, or None, for each."""
    if letters[0].queue == INGEST_DEAD_LETTER_QUEUE:
        return [_send_input(letter) for letter in letters]
    return [str(error) if error else None for error in broker.enqueue_many([to_send(letter) for letter in letters])]


def _send_input(letter: DeadLetter) -> str | None:
    try:
        send_message(parse_json(letter.body))
    except PipelineError as error:
        return error.message
    return None


def _latest(letters: list[DeadLetter], number: int | None) -> list[DeadLetter]:
    return sorted(letters, key=lambda letter: (letter.last_at, letter.sent_at), reverse=True)[:number]


def _staged(key: str) -> str:
    return staging().get(key).decode(errors="replace")
