"""Simulates a crowd of jobs that wait for one host, and counts the messages that they send meanwhile.

    python benchmarks/crowds.py [--jobs 1000 100000 1000000] [--processes 20]

The host takes a second for each request. Each process is a host limiter, and time is virtual. After all jobs of the
crowd were received once, a single job of another folder arrives.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.crowd import RECEIVED, Fleet, other_folders, rate
from tests.support.limiter import Clock

HOUR = 3600


def measured(jobs: int, processes: int) -> list[str]:
    """Return a row of the table."""
    fleet = Fleet(processes, seconds=1.0, clock=Clock())
    fleet.send(["CROWD"] * jobs)
    received = math.ceil(jobs / RECEIVED)
    fleet.run(until=received + 1)
    sent = fleet.now
    (other,) = fleet.send([next(other_folders("CROWD"))])
    fleet.run()
    first, last = received, max(received + 1, min(received + HOUR, int(fleet.now)))
    return [
        f"{jobs:,}",
        f"{rate(fleet.snoozes, first, last):.0f}",
        f"{rate(fleet.sends, first, last):.0f}",
        f"{sum(fleet.snoozes.values()) / jobs:.1f}",
        f"{sum(fleet.sends.values()) / jobs:.1f}",
        f"{fleet.now:.0f} s ({jobs / fleet.served:.0f} s)",
        f"{fleet.ended[other] - sent:.0f} s",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--processes", type=int, default=20)
    arguments = parser.parse_args()
    columns = ("jobs", "snoozes/s", "messages/s", "snoozes/job", "messages/job", "all ended (at best)", "other folder")
    table = Table(*columns, title=f"{arguments.processes} processes; rates of the first hour")
    for jobs in arguments.jobs:
        table.add_row(*measured(jobs, arguments.processes))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
