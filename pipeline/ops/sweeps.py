"""Sweeps from the command line: starting a run now, looking on, and a look beforehand."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import RetryableError
from pipeline.sweeps import documents, run_state
from pipeline.sweeps.documents import Document, Swept

#: Seconds between two looks at a run.
LOOK_EVERY = 0.5


@dataclass(frozen=True)
class Progress:
    """How far a run is: documents by how they ended, and whether all of it is over."""

    done: int = 0
    invalid: int = 0
    failed: int = 0  #: given up after retries
    changed: int = 0  #: their URLs changed meanwhile
    claimed: int = 0
    over: bool = False

    @property
    def ended(self) -> int:
        """Documents whose jobs have ended."""
        return self.done + self.invalid + self.failed + self.changed


def sample(swept: Swept, size: int) -> list[tuple[Document, str]]:
    """The first stale documents, and the folder of each; claims nothing."""
    found, _ = documents.read(swept, "", [], size)
    folders = documents.folders(swept, found)
    return [(document, folders[document.key]) for document in found]


def start(swept: Swept, limit: int | None) -> str:
    """Start a run now; returns its id.

    Raises:
        RetryableError: MongoDB or SQS is in trouble; then no run has begun.
    """
    from dramatiq.errors import BrokerError  # noqa: PLC0415 - slow to import, and not needed for a look

    import pipeline.actors  # noqa: PLC0415, F401 - builds the broker, on which the actors are declared
    from actors.sweeps import send_page  # noqa: PLC0415

    run = f"{swept.name}-manual-{secrets.token_hex(6)}"
    run_state.begin(swept, run, limit=limit)
    try:
        send_page(swept, run)
    except BrokerError as error:
        raise RetryableError("sqs_error", f"Could not send to the queue {swept.queue}: {error}") from error
    return run


def follow(run: str) -> Iterator[Progress]:
    """Look at a run until it is over: walked to its end, and every document written."""
    while True:
        found = run_state.load(run)
        if found is None:
            return
        over = found.walked and not run_state.under_way(run)
        if over:
            found = run_state.load(run) or found  # counts are written before a job is under way no more
        yield Progress(**found.counts, claimed=found.claimed, over=over)
        if over:
            return
        time.sleep(LOOK_EVERY)
