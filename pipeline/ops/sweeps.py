"""Sweeps started by hand: shows a sample, starts a run, and follows its progress."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import RetryableError
from pipeline.stages import SWEEP_ACTORS
from pipeline.sweeps import documents, run_state
from pipeline.sweeps.documents import RECHECK, SWEPT, Document, Swept

#: Interval between two queries of a run, in seconds.
INTERVAL = 0.5

#: Runs of each collection that may still take documents.
LATEST = 20


@dataclass(frozen=True)
class Progress:
    """The progress of a run, in documents by outcome."""

    done: int = 0
    invalid: int = 0
    failed: int = 0  #: failed after all retries
    changed: int = 0  #: their URLs changed during the run
    claimed: int = 0
    over: bool = False  #: whether the run has ended

    @property
    def ended(self) -> int:
        """Number of documents whose jobs have ended."""
        return self.done + self.invalid + self.failed + self.changed


def sample(swept: Swept, size: int) -> list[tuple[Document, str]]:
    """Return the first `size` stale documents with their folders, without claiming them."""
    found, _ = documents.read(swept, "", [], size)
    folders = documents.folders(swept, found)
    return [(document, folders[document.key]) for document in found]


def start(swept: Swept, limit: int | None) -> str:
    """Start a run now, and return its id.

    Args:
        swept: The collection.
        limit: Maximum number of documents.

    Raises:
        RetryableError: MongoDB or SQS fails, and the run has not begun.
    """
    run = f"{swept.name}-manual-{secrets.token_hex(6)}"
    run_state.begin(swept, run, limit=limit)
    send_first_page(swept, run)
    return run


def send_first_page(swept: Swept, run: str) -> None:
    """Send the message for the first page of a run.

    Raises:
        RetryableError: SQS fails.
    """
    from dramatiq.errors import BrokerError  # noqa: PLC0415 - slow to import, and not needed for a sample

    import pipeline.actors  # noqa: PLC0415, F401 - builds the broker
    from actors.sweeps import send_page  # noqa: PLC0415 - needs the broker

    try:
        send_page(swept, run)
    except BrokerError as error:
        raise RetryableError(
            "sqs_error", f"Could not send to the queue {SWEEP_ACTORS[swept.actor]}: {error}"
        ) from error


def stop(run: str | None = None) -> list[str]:
    """Stop a run, or all runs that still take documents; return the ids of the runs that were stopped.

    A stopped run takes no more documents. The jobs that it has sent go on and are written back.

    Raises:
        RetryableError: MongoDB fails.
    """
    ids = (
        [run] if run else [each.id for swept in (*SWEPT.values(), RECHECK) for each in run_state.latest(swept, LATEST)]
    )
    return [each for each in ids if run_state.stop(each)]


def follow(run: str) -> Iterator[Progress]:
    """Yield the progress of a run until all its pages were read and all its documents were written back."""
    for found, over in follow_run(run):
        yield Progress(**found.counts, claimed=found.claimed, over=over)


def follow_run(run: str) -> Iterator[tuple[run_state.Run, bool]]:
    """Yield a run, and whether it has ended, until it has."""
    over = False
    while not over and (found := run_state.load(run)):
        over = found.walked and not run_state.under_way(found)
        yield (run_state.load(run) or found if over else found), over  # counts are complete once no job is under way
        if not over:
            time.sleep(INTERVAL)
