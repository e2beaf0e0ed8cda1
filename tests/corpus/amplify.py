"""Measure what each bomb costs in fetch and in resize, at 1 MB and at the size limit: python -m tests.corpus.amplify.

The exit status is 1 if one takes more than its bounds. In fetch these are a second of CPU, and 20 MiB of memory besides
the file; in resize a second for each megabyte and 20 times its size, in addition to what any small image may take. Both
stages run without the limits of the sandbox.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from pipeline.images.identify import identify
from pipeline.images.render import render
from pipeline.recipe import Recipe
from tests.corpus.bombs import BOMBS
from tests.corpus.child import MIB, Child, ChildResult, Kind, Limits


class Bounds(NamedTuple):
    """What a stage may take for an image: whatever its size, and in addition for each byte."""

    memory: int
    memory_a_byte: int
    seconds: float
    seconds_a_megabyte: float


BOUNDS: Final = {
    "fetch": Bounds(120 * MIB, 1, 1.0, 0.0),  # 100 MiB are the process's own
    "resize": Bounds(320 * MIB, 20, 1.0, 1.0),  # of which 320 MiB include the pixels of a small picture
}
SIZES: Final = (1_000_000, 52_000_000)
_RECIPE: Final = Recipe.decode({"renditions": ["50x50"], "fit": "cover"})


class Cost(NamedTuple):
    """Time and memory that a stage took for a bomb."""

    bomb: str
    stage: str
    size: int
    result: ChildResult

    @property
    def is_acceptable(self) -> bool:
        bounds = BOUNDS[self.stage]
        return (
            self.result.kind in (Kind.OK, Kind.REFUSED)
            and self.result.peak <= bounds.memory + bounds.memory_a_byte * self.size
            and self.result.seconds <= bounds.seconds + bounds.seconds_a_megabyte * self.size / 1_000_000
        )


def fetched(source: bytes) -> Mapping[str, bytes]:
    """Do what fetch does with the bytes."""
    identify(source, max_pixels=178_000_000)
    return {}


def resized(source: bytes) -> Mapping[str, bytes]:
    """Do what the sandbox does with them."""
    render(source, _RECIPE, max_pixels=178_000_000, max_decoded_pixels=50_000_000)
    return {}


def costs(size: int, names: Sequence[str] = ()) -> Iterator[Cost]:
    """Measure every bomb of about this size in both stages."""
    children = {"fetch": Child(Limits(8192 * MIB, 120), fetched), "resize": Child(Limits(8192 * MIB, 120), resized)}
    try:
        for name in names or BOMBS:
            source = BOMBS[name](size)
            for stage, child in children.items():
                yield Cost(name, stage, len(source), child.render(source))
    finally:
        for child in children.values():
            child.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.corpus.amplify", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("--size", type=int, action="append", help="bytes of the bombs (default: 1 MB and 52 MB)")
    parser.add_argument("names", nargs="*", metavar="BOMB", help=f"one of: {'; '.join(BOMBS)} (default: all)")
    options = parser.parse_args()
    console = Console()
    failed = False
    for size in options.size or SIZES:
        table = Table("bomb", "stage", "MB", "CPU", "memory", "result", title=f"{size / 1e6:.0f} MB")
        for cost in costs(size, options.names):
            kind, detail, seconds, peak = cost.result
            failed = failed or not cost.is_acceptable
            table.add_row(
                cost.bomb, cost.stage, f"{cost.size / 1e6:.1f}", f"{seconds:.2f} s", f"{peak / MIB:.0f} MiB",
                f"{kind} {detail}", style=None if cost.is_acceptable else "red",
            )  # fmt: skip
        console.print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
