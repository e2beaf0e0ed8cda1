"""Measures the cost of rendering a cover: this project against sharp, pyvips, plain Pillow, and ImageMagick.

`make bench-images` makes all contenders render the same inputs on one core, alternating between them several times. It
prints CPU time, quality, bytes and memory, and writes them to docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from peers import HERE, Peers, commands, environ
from rich.progress import track


def measure(command: list[str | Path], source: Path, folder: Path, runs: int) -> dict[str, object]:
    """Run one child; return the CPU seconds of each run, and the peak memory that rendering took."""
    done = subprocess.run(  # noqa: S603
        [*command, source, folder, str(runs)], env=environ(), stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all contenders (default: %(default)s)")
    parser.add_argument(
        "--runs", type=int, default=3, help="maximum renderings of an input per round (default: %(default)s)"
    )
    parser.add_argument("--only", default="", help="only inputs whose name contains this: animals-3000, .webp, ...")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    peers = Peers()
    contenders = commands(peers)
    sources = sorted(each for each in peers.sources.iterdir() if each.suffix and options.only in each.name)
    with tempfile.TemporaryDirectory() as temporary:
        results = []
        todo = [(source, name) for _ in range(options.rounds) for source in sources for name in contenders]
        for source, name in track(todo, "Rendering"):
            folder = Path(temporary, source.name, name)
            folder.mkdir(parents=True, exist_ok=True)
            measured = measure(contenders[name], source, folder, options.runs)
            results.append({"contender": name, "source": source.name, **measured})
        order = Path(temporary, "results.json")
        order.write_text(json.dumps({"results": results, "missing": peers.missing, "is_partial": bool(options.only)}))
        subprocess.run([peers.python, HERE / "report.py", order, peers.sources, temporary], check=True)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
