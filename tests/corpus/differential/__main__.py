"""Compare the renditions of public images with independent decoders: python -m tests.corpus.differential.

The images come from packages with pinned hashes, and are kept in .corpora/ with a picture of each comparison. The exit
status is 1 if explained.toml lacks the reason for a difference, or contains a reason without a difference.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.corpus.differential import corpora
from tests.corpus.differential.compare import (
    THRESHOLD,
    Comparer,
    Comparison,
    Explanation,
    Rendered,
    counts,
    explanations,
    reason_for,
    sources,
    stale,
    unexplained,
)

console = Console()


def main() -> int:
    summary, _, exit_codes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m tests.corpus.differential", description=summary, epilog=exit_codes)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="compare the files whose names match")
    options = parser.parse_args()
    python, folder = corpora.decoders(), corpora.images()
    todo = list(sources(folder, options.only))
    comparer = Comparer(python, corpora.FOLDER / "pictures")
    results = list(track(comparer.run(todo), "Comparing", total=len(todo), console=console, transient=True))
    known = explanations()
    show(results, known)
    bad = unexplained(results, known)
    for each in bad:
        how = f"{each.decibels} dB, {comparer.picture(each.name)}" if each.decibels is not None else each.code
        console.print(f"unexplained: {each.name}: {how}", markup=False, highlight=False, soft_wrap=True)
    unneeded = stale(results, known) if options.only == "*" else []
    for pattern in unneeded:
        console.print(f"no longer needed in explained.toml: {pattern}", markup=False, highlight=False, soft_wrap=True)
    console.print("NOT GOOD" if bad or unneeded else "good", style="bold red" if bad or unneeded else "green")
    return 1 if bad or unneeded else 0


def show(results: Sequence[Comparison], known: Sequence[Explanation]) -> None:
    """Print the files by format and by who rendered them, and the differences by reason."""
    table = Table(
        "format", *(each.value for each in Rendered), f"below {THRESHOLD:g} dB", title=f"{len(results)} files"
    )
    for name in sorted({each.format for each in results}):
        of_format = [each for each in results if each.format == name]
        found = counts(of_format)
        below = sum(each.differs and each.by is Rendered.BOTH for each in of_format)
        table.add_row(name, *(str(found[each]) for each in Rendered), str(below))
    found, below = counts(results), sum(each.differs and each.by is Rendered.BOTH for each in results)
    table.add_row("all", *(str(found[each]) for each in Rendered), str(below), style="bold")
    console.print(table)
    table = Table("files", "worst", "reason", title="Differences")
    by_reason = defaultdict(list)
    for each in results:
        if each.differs:
            by_reason[reason_for(each.name, known) or "unexplained"].append(each)
    for reason, files in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        measured = [each.decibels for each in files if each.decibels is not None]
        table.add_row(str(len(files)), f"{min(measured)} dB" if measured else files[0].code, reason)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
