"""The runs of sweeps for the pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pipeline.clients import mongo
from pipeline.errors import RetryableError
from pipeline.net.http_errors import shown
from pipeline.ops.sweeps import Progress, sample
from pipeline.schedule import Schedule
from pipeline.settings import Settings
from pipeline.sweeps import documents, run_state
from pipeline.sweeps.documents import SWEPT, Swept
from pipeline.sweeps.run_state import Run
from pipeline.text import format_duration, plural

#: Maximum number of runs to show per collection, of documents before a run, and of documents with marks.
SHOWN, PREVIEWED, MARKED = 10, 10, 100


@dataclass(frozen=True)
class RunView:
    """One run. Counts are in documents; only `under_way` is in jobs."""

    id: str
    collection: str
    started: datetime | None
    claimed: int
    done: int
    invalid: int
    failed: int
    changed: int
    ended: int
    under_way: int
    over: bool
    takes_more: bool = False  #: whether it may take more documents
    stopped: bool = False  #: whether a person stopped it

    @property
    def status(self) -> str:
        """The style of its state."""
        return "done" if self.over else "under_way"

    @property
    def words(self) -> str:
        """The state as a label."""
        if self.over:
            return "stopped" if self.stopped else "over"
        return "ends" if self.stopped else "under way"

    def left(self, now: datetime) -> str:
        """The documents that it has taken and that have not ended, and how long they may take, for people."""
        left = self.claimed - self.ended
        if self.over or left <= 0:
            return ""
        text = f"{plural(left, 'document')} left"
        seconds = (now - self.started).total_seconds() if self.started else 0
        if self.ended and seconds > 0:
            text += f", about {format_duration(left * seconds / self.ended, whole=True)}"
        return f"{text}; it is still looking for more" if self.takes_more else text

    @property
    def counts(self) -> str:
        """The number of documents by outcome, for people."""
        outcomes = [(self.done, "done"), (self.invalid, "invalid"), (self.failed, "failed"), (self.changed, "changed")]
        ended = ", ".join(f"{count:,} {word}" for count, word in outcomes if count) or "none ended yet"
        return f"{plural(self.claimed, 'document')} claimed: {ended}" if self.claimed else "nothing had changed"


def read() -> list[RunView]:
    """Return the latest runs of both collections, latest first.

    Raises:
        RetryableError: MongoDB fails.
    """
    found = [_view(run) for swept in SWEPT.values() for run in run_state.latest(swept, SHOWN)]
    return sorted(found, key=lambda run: run.started.timestamp() if run.started else 0.0, reverse=True)


def _view(run: Run) -> RunView:
    under_way = run_state.under_way(run)
    progress = Progress(**run.counts, claimed=run.claimed, over=run.walked and not under_way)
    return RunView(
        id=run.id,
        collection=run.collection,
        started=run.started,
        claimed=progress.claimed,
        done=progress.done,
        invalid=progress.invalid,
        failed=progress.failed,
        changed=progress.changed,
        ended=progress.ended,
        under_way=under_way,
        over=progress.over,
        takes_more=not run.walked,
        stopped=run.stopped,
    )


@dataclass(frozen=True)
class Preview:
    """The documents that a run over a collection would take now."""

    collection: str
    total: int | None  #: number of documents; None if they could not be counted in time
    rows: tuple[PreviewRow, ...]


@dataclass(frozen=True)
class PreviewRow:
    """One document that a run would take."""

    id: str
    title: str
    folder: str
    changed: tuple[str, ...]  #: fields with their URLs as host and path


def preview(swept: Swept) -> Preview:
    """Return what a run would take now: the first documents, and their number if it can be counted in time.

    Raises:
        RetryableError: MongoDB fails.
    """
    with mongo.within():
        rows = tuple(
            PreviewRow(
                str(document.id),
                str(document.title or ""),
                folder,
                tuple(f"{name}: {shown(url)}" for name, url in document.urls.items()),
            )
            for document, folder in sample(swept, PREVIEWED)
        )
        try:
            total = documents.count_stale(swept)
        except RetryableError:
            total = None
    return Preview(swept.name, total, rows)


def next_runs(settings: Settings, now: datetime) -> list[tuple[str, datetime]]:
    """Return the next scheduled time of each collection."""
    crons = {"channels": settings.sweep_channels_cron, "episodes": settings.sweep_episodes_cron}
    return [(name, Schedule(cron).following(now)) for name, cron in crons.items()]
