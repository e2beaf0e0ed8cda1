"""The runs of sweeps for the pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pipeline.ops.sweeps import Progress
from pipeline.sweeps import run_state
from pipeline.sweeps.documents import SWEPT
from pipeline.sweeps.run_state import Run
from pipeline.text import plural

#: Maximum number of runs to show per collection.
SHOWN = 10


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

    @property
    def status(self) -> str:
        """The style of its state."""
        return "done" if self.over else "under_way"

    @property
    def words(self) -> str:
        """The state as a label."""
        return "over" if self.over else "under way"

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
    )
