"""Compare the renditions of public images with independent decoders: python -m tests.corpus.differential.

The images come from packages with pinned hashes, and are kept in .corpora/ with a picture of each comparison. The exit
status is 1 if explained.toml lacks the reason for a difference, or contains a reason without a difference.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.progress import track

from tests.corpus.differential import corpora
from tests.corpus.differential.compare import (
    Comparer,
    counts,
    explanations,
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
    for rendered, number in sorted(counts(results).items()):
        console.print(f"{number} files rendered by {rendered}")
    bad = unexplained(results, known)
    for each in bad:
        how = f"{each.decibels} dB, {comparer.picture(each.name)}" if each.decibels is not None else each.code
        console.print(f"unexplained: {each.name}: {how}", markup=False, highlight=False, soft_wrap=True)
    unneeded = stale(results, known) if options.only == "*" else []
    for pattern in unneeded:
        console.print(f"no longer needed in explained.toml: {pattern}", markup=False, highlight=False, soft_wrap=True)
    console.print("NOT GOOD" if bad or unneeded else "good", style="bold red" if bad or unneeded else "green")
    return 1 if bad or unneeded else 0


if __name__ == "__main__":
    sys.exit(main())
