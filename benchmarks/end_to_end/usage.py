"""Reads the usage of process groups from Linux's /proc: CPU time, including that of ended children, and memory."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")

_PSS = re.compile(r"^Pss:\s+(\d+)", re.MULTILINE)


def processes(groups: Collection[int]) -> Iterator[tuple[int, int, list[int]]]:
    """Yield each living process of these groups: its group, its id, and the fields 14 to 17 of its stat (proc(5))."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if (group := int(fields[2])) in groups:
                yield group, int(path.parent.name), [int(each) for each in fields[11:15]]


def cpu_seconds(groups: Collection[int]) -> dict[int, float]:
    """Return the CPU time of each group: of its processes, and of the children that they have waited for."""
    used = dict.fromkeys(groups, 0)
    for group, _, ticks in processes(groups):
        used[group] += sum(ticks)
    return {group: ticks / TICKS for group, ticks in used.items()}


def memory_bytes(groups: Collection[int]) -> int:
    """Return the groups' proportional set size, which counts a shared page once."""
    return sum(_sizes(groups))


def highest_bytes(groups: Collection[int]) -> int:
    """Return the proportional set size of the largest process of these groups."""
    return max(_sizes(groups), default=0)


def _sizes(groups: Collection[int]) -> Iterator[int]:
    for _, pid, _ in processes(groups):
        with suppress(OSError):
            yield 1024 * sum(map(int, _PSS.findall(Path(f"/proc/{pid}/smaps_rollup").read_text())))


class Peak:
    """The highest memory seen while `watching`."""

    bytes = 0


@contextmanager
def watching(groups: Callable[[], Collection[int]], interval: float = 0.5) -> Iterator[Peak]:
    """Sample the memory of the groups every `interval` seconds."""
    peak, over = Peak(), threading.Event()

    def look() -> None:
        while True:
            peak.bytes = max(peak.bytes, memory_bytes(groups()))
            if over.wait(interval):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
