"""Redrives and purges started on the page: one at a time, in the background, with their progress."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.errors import PipelineError
from pipeline.ops.dead_letters.actions import RATE, Counts, purge, redrive
from pipeline.ops.dead_letters.letter import Filter
from pipeline.text import plural

logger = logging.getLogger(__name__)

#: Seconds to show a finished redrive, and to wait for a running one when the dashboard stops.
SHOWN, STOP_TIMEOUT = 300, 5.0


@dataclass(frozen=True)
class Redrive:
    """The progress of a redrive or a purge."""

    stage: str
    code: str
    total: int  #: number of dead letters at the start
    job: str = ""  #: id of the job, if only its letters are meant
    purges: bool = False  #: whether the letters are deleted
    sent: int = 0  #: or deleted
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
        going, noun, gone = ("Deleting", "deletion", "Deleted") if self.purges else ("Redriving", "redrive", "Redrove")
        if not self.over:
            return f"{going} {cause} …"
        return f"The {noun} of {cause} has stopped" if self.error else f"{gone} {cause}"

    @property
    def text(self) -> str:
        """The progress or result for people."""
        sent = f"{plural(self.sent, 'dead letter')} {'deleted' if self.purges else 'sent'}."
        return " ".join([sent, *self.left, self.error]).strip()


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

    def start(self, stage: str, code: str, total: int, *, job: str = "", purges: bool = False) -> bool:
        """Start a redrive or purge of the dead letters of a cause; return False if one is running already.

        Args:
            stage: The stage of the letters.
            code: Their code.
            total: The number of letters, from which the progress is computed.
            job: Only letters of the job with this id.
            purges: Delete the letters instead.

        Raises:
            ValueError: The stage does not exist.
        """
        filter_ = Filter(stage=stage, code=code or None, ids=(job,) if job else ())
        with self._lock:
            if self.busy:
                return False
            self.latest = Redrive(stage, code, total, job, purges)
        self._thread = threading.Thread(target=self._run, args=[filter_], name="redrive", daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        """Stop the running redrive after its current batch, and release the letters that it has not sent."""
        self._stopping.set()
        if self._thread:
            self._thread.join(STOP_TIMEOUT)

    def _run(self, filter_: Filter) -> None:
        failure = ""
        try:
            with self._letters_lock:
                if self._stopping.is_set():
                    raise _Stopped
                self._act(filter_)
        except _Stopped:
            failure = "The dashboard was stopped; the other letters remain."
        except PipelineError as error:
            failure = error.message
        except Exception as error:
            logger.exception("a redrive failed")
            failure = f"{type(error).__name__}: see the dashboard's log."
        if self.latest:
            self.latest = replace(self.latest, over_at=time.time(), error=failure)
        self._on_end()

    def _act(self, filter_: Filter) -> None:
        if self.latest and self.latest.purges:
            self._note_deleted(purge(filter_, progress=self._note_deleted))
        else:
            self._note(redrive(filter_, rate=RATE, progress=self._note))

    def _note_deleted(self, number: int) -> None:
        if self.latest:
            self.latest = replace(self.latest, sent=number)
        if self._stopping.is_set():
            raise _Stopped

    def _note(self, counts: Counts) -> None:
        """Record the progress. Raising _Stopped here ends the redrive, which then releases its letters."""
        if self.latest:
            left = [f"{number:,} left: {why}" for why, number in (counts.left + counts.unsent).most_common(3)]
            self.latest = replace(self.latest, sent=counts.sent.total(), left=tuple(left))
        if self._stopping.is_set():
            raise _Stopped
