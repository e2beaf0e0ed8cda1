"""The runs of sweeps for the pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.clients import mongo
from pipeline.errors import RetryableError
from pipeline.events import RecheckOutcome
from pipeline.net.http_errors import shown
from pipeline.ops.rechecks import progress_of
from pipeline.ops.sweeps import Progress, sample
from pipeline.schedule import Schedule
from pipeline.settings import Settings
from pipeline.sweeps import documents, run_state
from pipeline.sweeps.documents import RECHECK, SWEPT, Swept
from pipeline.sweeps.run_state import Run
from pipeline.text import format_duration, plural

#: Maximum number of runs to show per collection, of documents before a run, and of documents with marks.
SHOWN, PREVIEWED, MARKED = 10, 10, 100


@dataclass(frozen=True)
class RunView:
    """One run. Counts are in documents, those of a re-check in covers; only `under_way` is in jobs."""

    run: Run
    under_way: int
    done: int
    invalid: int
    failed: int
    changed: int
    ended: int
    recheck: str = ""  #: counts of a re-check, for people

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.run.walked and not self.under_way

    @property
    def status(self) -> str:
        """The style of its state."""
        return "done" if self.over else "under_way"

    @property
    def words(self) -> str:
        """The state as a label."""
        if self.over:
            return "stopped" if self.run.stopped else "over"
        return "ends" if self.run.stopped else "under way"

    def left(self, now: datetime) -> str:
        """The documents that it has taken and that have not ended, and how long they may take, for people."""
        left = self.run.claimed - self.ended
        if self.over or left <= 0 or self.recheck:
            return ""
        text = f"{plural(left, 'document')} left"
        seconds = (now - self.run.started).total_seconds() if self.run.started else 0
        if self.ended and seconds > 0:
            text += f", about {format_duration(left * seconds / self.ended, whole=True)}"
        return text if self.run.walked else f"{text}; it is still looking for more"

    @property
    def counts(self) -> str:
        """The number of documents by outcome, for people."""
        claimed = self.run.claimed
        if self.recheck:
            return f"{plural(claimed, 'cover')} asked for: {self.recheck}"
        outcomes = [(self.done, "done"), (self.invalid, "invalid"), (self.failed, "failed"), (self.changed, "changed")]
        ended = ", ".join(f"{count:,} {word}" for count, word in outcomes if count) or "none ended yet"
        return f"{plural(claimed, 'document')} claimed: {ended}" if claimed else "nothing had changed"


def read() -> list[RunView]:
    """Return the latest runs of both collections and of re-checks, latest first.

    Raises:
        RetryableError: MongoDB fails.
    """
    found = [_view(run) for swept in (*SWEPT.values(), RECHECK) for run in run_state.latest(swept, SHOWN)]
    return sorted(found, key=lambda view: view.run.started.timestamp() if view.run.started else 0.0, reverse=True)


def _view(run: Run) -> RunView:
    under_way = run_state.under_way(run)
    if run.collection != RECHECK.name:
        counts = Progress(**run.counts, over=run.walked and not under_way)
        return RunView(run, under_way, counts.done, counts.invalid, counts.failed, counts.changed, counts.ended)
    progress = progress_of(run, over=run.walked and not under_way)
    failed, changed = (progress.counts.get(each, 0) for each in (RecheckOutcome.FAILED, RecheckOutcome.CHANGED))
    return RunView(run, under_way, progress.ended - failed, 0, failed, changed, progress.ended, progress.text)


@dataclass(frozen=True)
class ChangedCover:
    """A cover that a re-check found replaced."""

    id: str
    urls: tuple[str, ...]  #: as host and path
    replaced: int  #: number of documents with new pictures
    at: datetime


def changed_covers(run: str) -> list[ChangedCover]:
    """Return the covers that a re-check found replaced, latest first.

    Raises:
        RetryableError: MongoDB fails.
    """
    return [
        ChangedCover(
            each["_id"].rsplit("/", 1)[-1], tuple(map(shown, each["urls"].values())), each["replaced"], each["at"]
        )
        for each in run_state.changed_covers(run, MARKED)
    ]


def picture_of(run: str, cover: str, which: str) -> str | None:
    """Return the URL of a picture that the documents of a replaced cover had `before` or have `after`."""
    found = run_state.find_changed(f"cover/{run}/{cover}")
    if not found:
        return None
    stored: dict[str, Any] = next(iter((found["outcome"] or {}).get("stored", {}).values()), {})
    pictures = found["before"] if which == "before" else stored
    return next((str(each.get("url")) for each in pictures.values()), None)


@dataclass(frozen=True)
class PreviewRow:
    """One document that a run would take."""

    id: str
    title: str
    folder: str
    changed: tuple[str, ...]  #: fields with their URLs as host and path


def preview(swept: Swept) -> tuple[int | None, list[PreviewRow]]:
    """Return the documents that a run would take now: their number, or None if counting takes too long; and the first.

    Raises:
        RetryableError: MongoDB fails.
    """
    with mongo.within():
        rows = [
            PreviewRow(
                str(document.id),
                str(document.title or ""),
                folder,
                tuple(f"{name}: {shown(url)}" for name, url in document.urls.items()),
            )
            for document, folder in sample(swept, PREVIEWED)
        ]
        try:
            return documents.count_stale(swept), rows
        except RetryableError:
            return None, rows


def next_runs(settings: Settings, now: datetime) -> list[tuple[str, datetime]]:
    """Return the next scheduled time of each collection."""
    crons = {"channels": settings.sweep_channels_cron, "episodes": settings.sweep_episodes_cron}
    if settings.recheck_days:
        crons[RECHECK.name] = settings.recheck_cron
    return [(name, Schedule(cron).following(now)) for name, cron in crons.items()]
