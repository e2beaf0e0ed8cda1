"""Render every file below a folder in a child with limits, and print the results: python -m tests.corpus FOLDER.

The exit status is 1 if any file crashed, hung, exceeded its memory, raised an error without a code, or gave a wrong
rendition.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.corpus.child import MIB, Child, ChildResult, Kind, Limits
from tests.corpus.run import Sample, run, samples

console = Console()
Result = tuple[Sample, ChildResult]


def main() -> int:
    summary, _, exit_codes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=summary, epilog=exit_codes)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mutate", type=int, default=0, metavar="N", help="also render N broken copies of each file")
    parser.add_argument("--seed", type=int, default=1, help="seed of the broken copies (default: %(default)s)")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="limit per file (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="limit per file (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="files at a time (default: one per CPU)")
    parser.add_argument("--log", type=Path, help="write a line per file to this file")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy files with a bad result to this folder")
    options = parser.parse_args()
    todo = list(samples(options.folder, copies=options.mutate, seed=options.seed))
    if not todo:
        parser.error(f"{options.folder} has no files")
    limits = Limits(memory=options.memory * MIB, seconds=options.seconds)
    rendered = run(todo, jobs=options.jobs, make_child=lambda: Child(limits))
    results = list(track(rendered, "Rendering", total=len(todo), console=console, transient=True))
    show(results)
    if options.log:
        options.log.write_text("".join(line(result) + "\n" for result in results))
    bad = [result for result in results if not result[1].kind.is_good]
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        for sample, _ in bad:
            (options.keep / sample.name.replace("/", "__")).write_bytes(sample.read())
    return 1 if bad else 0


def line(result: Result) -> str:
    """Format a result as tab-separated text."""
    sample, (kind, detail, seconds, peak) = result
    return f"{kind}\t{detail}\t{seconds:.3f} s\t{peak / MIB:.0f} MiB\t{sample.name}"


def show(results: Sequence[Result]) -> None:
    """Print the counts, the slowest and largest files, and every bad result."""
    kinds = list(Kind)
    counts = Counter((outcome.kind, outcome.detail) for _, outcome in results)
    table = Table("outcome", "", "files", title=f"{len(results)} files", title_justify="left")
    for (kind, detail), count in sorted(counts.items(), key=lambda item: (kinds.index(item[0][0]), -item[1])):
        table.add_row(kind, detail, str(count), style=None if kind.is_good else "red")
    console.print(table)
    most: dict[str, Callable[[Result], float]] = {
        "Slowest": lambda result: result[1].seconds,
        "Largest in memory": lambda result: result[1].peak,
    }
    for title, measure in most.items():
        table = Table("CPU", "memory", "outcome", "file", title=title, title_justify="left")
        for sample, (kind, detail, seconds, peak) in sorted(results, key=measure, reverse=True)[:5]:
            table.add_row(f"{seconds:.2f} s", f"{peak / MIB:.0f} MiB", f"{kind} {detail}", sample.name)
        console.print(table)
    bad = [result for result in results if not result[1].kind.is_good]
    for result in bad:
        console.print(line(result), markup=False, highlight=False, soft_wrap=True)
    console.print("NOT GOOD" if bad else "good", style="bold red" if bad else "green")


if __name__ == "__main__":
    sys.exit(main())
