"""Simulates as many histories as asked for: `make simulate SEEDS=1-50000`."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.themes import THEMES
from tests.simulation.world import histories, history

#: Seeds that one process takes at a time.
PORTION = 500


def seeds(text: str) -> Iterable[int]:
    """Return the seeds of `7` or of `1-500`."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def portions(given: list[Iterable[int]]) -> Iterator[list[int]]:
    every = [seed for some in given for seed in some]
    for start in range(0, len(every), PORTION):
        yield every[start : start + PORTION]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate")
    parser.add_argument("seeds", nargs="+", type=seeds, help="seeds and ranges of seeds, for example 7 or 1-5000")
    parser.add_argument("--theme", action="append", choices=THEMES, help="all in this theme; can be repeated")
    parser.add_argument("--show", action="store_true", help="print every history")
    asked = parser.parse_args()
    if asked.show:
        print(
            *(history(seed, theme) for theme in asked.theme or [""] for some in asked.seeds for seed in some),
            sep="\n\n",
        )
        return 0
    themes, work = asked.theme or [""], list(portions(asked.seeds))
    failed = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for theme in themes:
            began, count = time.monotonic(), sum(map(len, work))
            violations = [violation for found in pool.map(partial(histories, theme=theme), work) for violation in found]
            seconds, name = time.monotonic() - began, theme or "all themes"
            print(f"{name}: {count} histories in {seconds:.0f} s, {len(violations)} violations")
            print(*violations[:3], sep="\n\n", end="\n" * bool(violations))
            failed += len(violations)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
