"""Redrives, purges and counts started on the page: one at a time, in the background, with their progress."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.errors import PipelineError
from pipeline.ops.dead_letters.actions import RATE, Counts, Survey, purge, redrive, survey
from pipeline.ops.dead_letters.dead_letter import Filter
from pipeline.text import plural

logger = logging.getLogger(__name__)

Act = Literal["redrive", "purge", "count"]

#: A title while each act runs, a noun for it, and a title after it.
WORDS: dict[Act, tuple[str, str, str]] = {
    "redrive": ("Redriving", "redrive", "Redrove"),
    "purge": ("Deleting", "deletion", "Deleted"),
    "count": ("Counting", "count", "Counted"),
}

#: The past participle of each act.
DONE: dict[Act, str] = {"redrive": "sent", "purge": "deleted", "count": "counted"}

#: Seconds to show a finished redrive and to act on a count, and to wait for a running one when the dashboard stops.
SHOWN, STOP_TIMEOUT = 300, 5.0


@dataclass(frozen=True)
class Redrive:
    """The progress of an act on dead letters."""

    stage: str
    code: str
    act: Act = "redrive"
    total: int | None = None  #: the confirmed number of dead letters, of which there may be more; None: all
    until: float | None = None  #: dead letters that arrived later are left, in Unix seconds; None: after its start
    job: str = ""  #: id of the job, if only its dead letters are meant
    sent: int = 0  #: or deleted, or counted
    left: tuple[str, ...] = ()  #: why some were left or failed, for people
    over_at: float | None = None  #: when it ended, in Unix seconds
    error: str = ""

    @property
    def over(self) -> bool:
        """Whether the redrive has ended."""
        return self.over_at is not None

    @property
    def title(self) -> str:
        """A short title for people."""
        cause = f"job {self.job[:8]}" if self.job else f"{self.code} in {self.stage}"
        going, noun, gone = WORDS[self.act]
        if not self.over:
            return f"{going} {cause} …"
        return f"The {noun} of {cause} has stopped" if self.error else f"{gone} {cause}"

    @property
    def text(self) -> str:
        """The progress or result for people."""
        sent = f"{plural(self.sent, 'dead letter')} {DONE[self.act]}."
        missing = (self.total or 0) - self.sent if self.over and not (self.left or self.error) else 0
        gone = f"{missing:,} of {self.total:,} are gone already, or another reader holds them." if missing > 0 else ""
        return " ".join(filter(None, [sent, *self.left, gone, self.error]))


class _Stopped(Exception):
    """The dashboard is stopping."""


class Redrives:
    """Starts redrives, and keeps the latest.

    Args:
        letters_lock: Held while dead letters are read because two readers would hide them from each other.
        on_end: Called after each redrive.
    """

    def __init__(self, letters_lock: threading.Lock, on_end: Callable[[], None]) -> None:
        self._letters_lock = letters_lock
        self._on_end = on_end
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._counts: dict[tuple[str, str], tuple[Survey, float]] = {}
        self.latest: Redrive | None = None

    @property
    def shown(self) -> Redrive | None:
        """The running redrive, or the latest if it ended recently."""
        latest = self.latest
        recent = latest and (latest.over_at is None or time.time() - latest.over_at < SHOWN)
        return latest if recent else None

    @property
    def busy(self) -> bool:
        """Whether a redrive is running."""
        return self.latest is not None and not self.latest.over

    def counted(self) -> dict[tuple[str, str], Survey]:
        """Return the counts of the last minutes, by stage and code."""
        since = time.time() - SHOWN
        return {cause: count for cause, (count, at) in list(self._counts.items()) if at > since}

    def start(self, wanted: Redrive) -> bool:
        """Start an act in the background; return False if one is running already.

        Raises:
            ValueError: The stage does not exist.
        """
        filter_ = Filter(stage=wanted.stage, code=wanted.code or None, job=wanted.job or None)
        with self._lock:
            if self.busy:
                return False
            self.latest = wanted
        self._thread = threading.Thread(target=self._run, args=[wanted, filter_], name="redrive", daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        """Stop the running redrive after its current batch, and release the dead letters that it has not sent."""
        self._stopping.set()
        if self._thread:
            self._thread.join(STOP_TIMEOUT)

    def _run(self, wanted: Redrive, filter_: Filter) -> None:
        failure = ""
        try:
            with self._letters_lock:
                if self._stopping.is_set():
                    raise _Stopped
                self._act(wanted, filter_)
        except _Stopped:
            failure = "The dashboard was stopped; the other dead letters remain."
        except PipelineError as error:
            failure = error.message
        except Exception as error:
            logger.exception("a redrive failed")
            failure = f"{type(error).__name__}: see the dashboard's log."
        if self.latest:
            self.latest = replace(self.latest, over_at=time.time(), error=failure)
        self._on_end()

    def _act(self, wanted: Redrive, filter_: Filter) -> None:
        if wanted.act == "count":
            self._counts[wanted.stage, wanted.code] = survey(filter_, progress=self._note_number), time.time()
            return
        self._counts.clear()
        if wanted.act == "purge":
            self._note_number(purge(filter_, until=wanted.until, limit=wanted.total, progress=self._note_number))
        else:
            self._note(redrive(filter_, rate=RATE, until=wanted.until, limit=wanted.total, progress=self._note))

    def _note_number(self, number: int) -> None:
        if self.latest:
            self.latest = replace(self.latest, sent=number)
        if self._stopping.is_set():
            raise _Stopped

    def _note(self, counts: Counts) -> None:
        """Record the progress. Raising _Stopped here ends the redrive, which then releases its dead letters."""
        if self.latest:
            left = [f"{number:,} left: {why}" for why, number in (counts.left + counts.unsent).most_common(3)]
            self.latest = replace(self.latest, sent=counts.sent.total(), left=tuple(left))
        if self._stopping.is_set():
            raise _Stopped
