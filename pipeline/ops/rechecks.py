"""Re-checks started by hand: counts what is due, starts a run, follows it, and lists failing sources."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline.events import RecheckOutcome
from pipeline.ops.prices import requests_of_cover
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
        return (", ".join(words) or "nothing was asked for") + written


def progress_of(run: run_state.Run, *, over: bool) -> RecheckProgress:
    """Return the progress of a run as it was read."""
    counts = {outcome.value: number for outcome in RecheckOutcome if (number := run.counts.get(outcome.value, 0))}
    return RecheckProgress(run.claimed, counts, run.counts.get(recheck.WRITTEN, 0), over)


def start(
    collections: Sequence[str] = tuple(SWEPT),
    *,
    limit: int | None = None,
    everything: bool = False,
    outdated: bool = False,
) -> str:
    """Start a run now, and return its id.

    Args:
        collections: Names of the collections.
        limit: Maximum number of covers.
        everything: Whether covers that are not due are asked for too.
        outdated: Whether only outdated covers are taken, due or not.

    Raises:
        RetryableError: MongoDB or SQS fails, and the run has not begun.
    """
    run = f"{RECHECK.name}-manual-{secrets.token_hex(6)}"
    recheck.begin(run, collections, limit=limit, everything=everything, outdated=outdated)
    send_first_page(RECHECK, run)
    return run


def follow(run: str) -> Iterator[RecheckProgress]:
    """Yield the progress of a run until it has ended."""
    return (progress_of(found, over=over) for found, over in follow_run(run))


@dataclass
class DueCover:
    """A URL that a run would ask for, and what has it."""

    documents: int = 0
    folders: set[str] = field(default_factory=set)


def due(collections: Sequence[str], *, everything: bool = False, outdated: bool = False) -> dict[str, DueCover]:
    """Return the covers that a run would ask for now, by URL. This reads whole collections."""
    scope = recheck.scope_of(collections, datetime.now(UTC), everything=everything, outdated=outdated)
    settings, found = get_settings(), dict[str, DueCover]()
    recipe = settings.recipe
    for name in collections:
        after: list[object] = []
        while True:
            page, after = documents.read_settled(SWEPT[name], after, recheck.PAGE_SIZE)
            images = [image for of_one in recheck.images_of(name, page) for image in of_one]
            known = sources.find_all(image.url for image in images)
            for image in images:
                record = known.get(image.url)
                is_due = image.url in found or scope.is_due(image.url, record, settings.recheck_days)
                if is_due and scope.selects(image, record, recipe):
                    each = found.setdefault(image.url, DueCover())
                    each.documents += 1
                    each.folders.add(image.folder)
            if not after:
                break
    return found


def cost(covers: Iterable[DueCover]) -> dict[str, int]:
    """Return the requests that renewing covers takes, by the key of their price. Each folder has its own pictures."""
    times = sum(len(each.folders) for each in covers)
    return {key: times * number for key, number in requests_of_cover(get_settings()).items()}
