"""Loaded by the sweeping worker beside the actors: it is killed once at each step of a page, and soon comes back."""

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

broker.visibility = 2
sweep.PAGE_SIZE = 10

#: A file for each step at which the worker died already: the ids of the documents of the page that was in hand.
DEATHS = Path(os.environ["DEATHS"])

in_hand: list[int] = []


def dies_after(place: Any, name: str, calls: int) -> None:
    """Let the process be killed when `name` has returned for the so-manyth time, of all processes one."""
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


def take_in_hand(claim: Callable[..., list[Document]]) -> Callable[..., list[Document]]:
    """`claim`, with a note of what it claimed."""

    def claim_and_note(*args: Any) -> list[Document]:
        claimed = claim(*args)
        in_hand[:] = [each.id for each in claimed]
        return claimed

    return claim_and_note


documents.claim = take_in_hand(documents.claim)
dies_after(documents, "claim", 2)
dies_after(run_state, "join", 1)
dies_after(actors.sweeps, "_hand_over", 2)
dies_after(run_state, "advance", 1)
dies_after(actors.sweeps, "send_page", 2)
