"""Loaded by the sweep worker together with the actors: records how the time of its pages is spent.

It writes a line of JSON for each page to the file in SWEEP_TIMES. The line holds the seconds spent so far in
MongoDB's commands, in the hand-over and in pages as a whole, and the number of jobs that were handed over.
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
    """Sums the durations of MongoDB's commands."""

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None: ...

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None:
        spent["mongodb"] += event.duration_micros / 1e6  # type: ignore[assignment]
        spent[f"mongodb {event.command_name}"] += event.duration_micros / 1e6  # type: ignore[assignment]

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None:
        spent["mongodb"] += event.duration_micros / 1e6  # type: ignore[assignment]
        spent["troubles"] += 1


def timed(place: Any, name: str, what: str) -> None:
    """Wrap the function `name` to record its duration as `what`."""
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
