"""Run the chaos suite and print a table for each seed: python -m tests.chaos --seed 1 --jobs 1000."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.run import Report, run

console = Console()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="one run per seed")
    parser.add_argument("--jobs", type=int, default=1000, help="orders per run")
    parser.add_argument("--log", type=Path, help="write all log lines of the last run to this file")
    options = parser.parse_args()
    good = True
    for seed in options.seed:
        console.print(f"Seed {seed}: {options.jobs} jobs …", style="dim")
        report = run(seed, options.jobs)
        show(report)
        good = good and report.is_good
        if options.log:
            options.log.write_text("\n".join(report.log))
    return 0 if good else 1


def show(report: Report) -> None:
    """Print the tables of a run and its problems."""
    outcome = report.outcome
    faults = Table("fault", "times", title=f"Seed {report.seed}: faults", title_justify="left")
    for name, count in sorted(report.thrown.items()):
        faults.add_row(name, str(count))
    console.print(faults)
    table = Table("", "", title=f"Seed {report.seed}: outcome", title_justify="left", show_header=False)
    rows = {
        "jobs": report.jobs,
        "lost": len(outcome.lost),
        "corrupt": len(outcome.corrupt),
        **outcome.numbers,
        "longest take-over (upper bound)": f"{outcome.longest_take_over:.1f} s",
        "requests troubled by the proxy": sum(report.acts.values()),
        "processes started again": report.restarts,
        "faults thrown": sum(report.thrown.values()),
        "duration": f"{report.seconds:.0f} s",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)
    for problem in outcome.problems:
        console.print(problem, markup=False, highlight=False, soft_wrap=True)
    console.print("good" if report.is_good else "NOT GOOD", style="green" if report.is_good else "bold red")


if __name__ == "__main__":
    sys.exit(main())
