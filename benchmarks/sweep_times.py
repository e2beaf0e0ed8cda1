"""Loaded by the sweeping worker beside the actors: notes where the time of its pages goes.

A line of JSON for each page, in the file that SWEEP_TIMES names: seconds since the start in MongoDB's commands, in the
hand-over, and in the page as a whole, and how many jobs were handed over.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pymongo.monitoring

import actors.sweeps
from pipeline.sweeps import sweep

FILE = os.environ["SWEEP_TIMES"]

spent: Counter[str] = Counter()


class Commands(pymongo.monitoring.CommandListener):
    """Adds up what MongoDB's commands take."""

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None: ...

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None:
        spent["mongodb"] += event.duration_micros / 1e6  # type: ignore[assignment]
        spent[f"mongodb {event.command_name}"] += event.duration_micros / 1e6  # type: ignore[assignment]

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None:
        spent["mongodb"] += event.duration_micros / 1e6  # type: ignore[assignment]
        spent["troubles"] += 1


def timed(place: Any, name: str, what: str) -> None:
    """Let the time that `name` takes be noted as `what`."""
    work: Callable[..., Any] = getattr(place, name)

    def work_in_time(*args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            return work(*args, **kwargs)
        finally:
            spent[what] += time.monotonic() - began  # type: ignore[assignment]
            if what == "hand-over":
                spent["jobs"] += len(args[0])
            else:
                spent["pages"] += 1
                with open(FILE, "a", encoding="utf-8") as file:
                    file.write(json.dumps(spent) + "\n")

    setattr(place, name, work_in_time)


pymongo.monitoring.register(Commands())
timed(actors.sweeps, "_hand_over", "hand-over")
timed(sweep, "take_page", "page")
