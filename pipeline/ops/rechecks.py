"""Re-checks started by hand: counts what is due, starts a run, follows it, and lists failing sources."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.events import RecheckOutcome
from pipeline.ops.sweeps import follow_run, send_first_page
from pipeline.settings import get_settings
from pipeline.sweeps import documents, recheck, run_state, sources
from pipeline.sweeps.documents import RECHECK, SWEPT


@dataclass(frozen=True)
class RecheckProgress:
    """The progress of a re-check, in covers by outcome, and in documents that were written."""

    taken: int
    counts: dict[str, int]  #: by `RecheckOutcome`; outcomes without a cover are left out
    documents: int
    over: bool

    @property
    def ended(self) -> int:
        """Number of covers whose jobs have ended."""
        return sum(self.counts.values())

    @property
    def text(self) -> str:
        """The counts for people."""
        words = [f"{number:,} {name.replace('_', ' ')}" for name, number in self.counts.items()]
        written = f"; {self.documents:,} documents have new pictures" if self.documents else ""
        return (", ".join(words) or "nothing was due") + written


def progress_of(run: run_state.Run, *, over: bool) -> RecheckProgress:
    """Return the progress of a run as it was read."""
    counts = {outcome.value: number for outcome in RecheckOutcome if (number := run.counts.get(outcome.value, 0))}
    return RecheckProgress(run.claimed, counts, run.counts.get(recheck.WRITTEN, 0), over)


def start(collections: Sequence[str] = tuple(SWEPT), *, limit: int | None = None, everything: bool = False) -> str:
    """Start a run now, and return its id.

    Args:
        collections: Names of the collections.
        limit: Maximum number of covers.
        everything: Whether covers that are not due are asked for too.

    Raises:
        RetryableError: MongoDB or SQS fails, and the run has not begun.
    """
    run = f"{RECHECK.name}-manual-{secrets.token_hex(6)}"
    recheck.begin(run, collections, limit=limit, everything=everything)
    send_first_page(RECHECK, run)
    return run


def follow(run: str) -> Iterator[RecheckProgress]:
    """Yield the progress of a run until it has ended."""
    return (progress_of(found, over=over) for found, over in follow_run(run))


def due(collections: Sequence[str], *, everything: bool = False) -> Iterator[tuple[str, int]]:
    """Yield each URL that a run would ask for now, and its number of documents. This reads whole collections."""
    scope = recheck.scope_of(collections, datetime.now(UTC), everything=everything)
    days, found = get_settings().recheck_days, dict[str, int]()
    for name in collections:
        after: list[object] = []
        while True:
            page, after = documents.read_settled(SWEPT[name], after, recheck.PAGE_SIZE)
            urls = [url for each in page for url in each.urls.values()]
            known = sources.find_all(urls)
            for url in urls:
                if url in found or scope.is_due(url, known.get(url), days):
                    found[url] = found.get(url, 0) + 1
            if not after:
                break
    yield from found.items()
