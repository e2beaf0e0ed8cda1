"""Redrives that were asked for on the page: one at a time, in the background, each with its progress."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.dashboard.filters import plural
from pipeline.errors import PipelineError
from pipeline.ops.dead_letters.actions import RATE, Counts, redrive
from pipeline.ops.dead_letters.letter import Filter

logger = logging.getLogger(__name__)

#: Seconds that one which has ended is shown, and that one under way may take to end when the dashboard does.
SHOWN, STOP_GRACE = 300, 5.0


@dataclass(frozen=True)
class Redrive:
    """How far one is."""

    stage: str
    code: str
    total: int  #: dead letters of that cause, when it began
    sent: int = 0
    left: tuple[str, ...] = ()  #: why some were left, for people
    over_at: float | None = None  #: when it ended, in Unix seconds
    trouble: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.over_at is not None

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        what = f"{self.code} in {self.stage}"
        if not self.over:
            return f"Redriving {what} …"
        return f"The redrive of {what} has stopped" if self.trouble else f"Redrove {what}"

    @property
    def text(self) -> str:
        """How far it is, or how it ended, in a sentence."""
        sent = f"{plural(self.sent, 'dead letter')} sent through again."
        return " ".join([sent, *self.left, self.trouble]).strip()


class _Stopped(Exception):
    """The dashboard ends."""


class Redrives:
    """Starts redrives. `reading` is held while the dead letters are read: two readers would hide them from each other.

    `after` is called when one has ended.
    """

    def __init__(self, reading: threading.Lock, after: Callable[[], None]) -> None:
        self._reading = reading
        self._after = after
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.latest: Redrive | None = None

    @property
    def shown(self) -> Redrive | None:
        """The one that is under way, or ended a short while ago."""
        latest = self.latest
        recent = latest and (latest.over_at is None or time.time() - latest.over_at < SHOWN)
        return latest if recent else None

    @property
    def busy(self) -> bool:
        """Whether one is under way."""
        return self.latest is not None and not self.latest.over

    def start(self, stage: str, code: str, total: int) -> bool:
        """Start a redrive of all dead letters of that cause, unless one is under way; returns whether it has begun.

        Raises:
            ValueError: there is no such stage.
        """
        wanted = Filter(stage=stage, code=code)
        with self._lock:
            if self.busy:
                return False
            self.latest = Redrive(stage, code, total)
        self._thread = threading.Thread(target=self._run, args=[wanted], name="redrive", daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        """End the one under way after the letters in hand; what it has not sent is visible to others again."""
        self._stopping.set()
        if self._thread:
            self._thread.join(STOP_GRACE)

    def _run(self, wanted: Filter) -> None:
        trouble = ""
        try:
            with self._reading:
                if self._stopping.is_set():
                    raise _Stopped
                self._note(redrive(wanted, rate=RATE, progress=self._note))
        except _Stopped:
            trouble = "The dashboard was ended: the rest is still there."
        except PipelineError as error:
            trouble = error.message
        except Exception as error:
            logger.exception("a redrive ended")
            trouble = f"{type(error).__name__}: the dashboard's log has more."
        if self.latest:
            self.latest = replace(self.latest, over_at=time.time(), trouble=trouble)
        self._after()

    def _note(self, counts: Counts) -> None:
        """Note how far it is. What this raises ends the redrive, which gives back what it has not sent."""
        if self.latest:
            left = [f"{number:,} left: {why}" for why, number in (counts.left + counts.unsent).most_common(3)]
            self.latest = replace(self.latest, sent=counts.sent.total(), left=tuple(left))
        if self._stopping.is_set():
            raise _Stopped
