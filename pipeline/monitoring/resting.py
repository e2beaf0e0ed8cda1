"""Hosts that rest: sentences for people, from the heartbeats of all processes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from pipeline.monitoring.processes import Process, Resting
from pipeline.text import format_duration, printable

#: Names of the jobs that wait for each kind of host: of one, and of several.
WAITING = {"source": ("job waits", "jobs wait"), "receiver": ("delivery waits", "deliveries wait")}


def resting_sentences(processes: Iterable[Process], now: datetime) -> list[str]:
    """Return a sentence for each host whose circuit is open in a running process, the longest first."""
    found: dict[tuple[str, str, str], list[Resting]] = {}
    for process in processes:
        if process.is_alive(now):
            for each in process.work.resting:
                found.setdefault((each.kind, each.host, each.folder), []).append(each)
    return [_sentence(of_one, now) for of_one in sorted(found.values(), key=lambda each: min(r.since for r in each))]


def _sentence(found: list[Resting], now: datetime) -> str:
    host = found[0]
    since = min(each.since for each in found)
    folder = f" of the folder {printable(host.folder)}" if host.folder else ""
    waiting = sum(each.waiting for each in found)
    age = format_duration((now - since).total_seconds(), whole=True)
    wait = WAITING[host.kind][waiting != 1]
    return f"The {host.kind} {printable(host.host)}{folder} has been resting for {age}. {waiting:,} {wait}."
