"""Loaded by the sweep worker together with the actors: it is killed once at each step of a page and soon restarts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import actors.sweeps
from pipeline.actors import broker
from pipeline.sweeps import documents, run_state, sweep
from pipeline.sweeps.documents import Document

broker.visibility_timeout = 2
sweep.PAGE_SIZE = 10

#: Holds a file for each step at which a worker died; it lists the document ids of the current page.
DEATHS = Path(os.environ["DEATHS"])

in_hand: list[int] = []


def dies_after(place: Any, name: str, calls: int) -> None:
    """Kill one process once, when `name` has returned for the `calls`-th time."""
    work: Callable[..., Any] = getattr(place, name)
    count = 0

    def work_and_die(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        result = work(*args, **kwargs)
        count += 1
        note = DEATHS / name
        if count == calls and not note.exists():
            note.write_text(json.dumps(in_hand))
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(place, name, work_and_die)


def remember_claimed(claim: Callable[..., list[Document]]) -> Callable[..., list[Document]]:
    """Wrap `claim` to remember the documents that it claimed."""

    def claim_and_note(*args: Any) -> list[Document]:
        claimed = claim(*args)
        in_hand[:] = [each.id for each in claimed]
        return claimed

    return claim_and_note


documents.claim = remember_claimed(documents.claim)
dies_after(documents, "claim", 2)
dies_after(run_state, "join", 1)
dies_after(actors.sweeps, "_hand_over", 2)
dies_after(run_state, "advance", 1)
dies_after(actors.sweeps, "send_page", 2)
