"""Measures the end-to-end cost of an image, compared with alternatives, on the embedded SQS and S3.

`make bench` gives all contenders the same jobs, alternating between them: a message in, three renditions in S3, one
postback. It measures CPU, requests, memory, throughput and waiting, at saturation and at equal rates, and prints them.
A full run also writes docs/performance.md. `--quick` measures saturation only, in about half a minute per contender.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "images"))

import measure  # noqa: E402
import report  # noqa: E402
import stack  # noqa: E402
import world  # noqa: E402
from entrants import ENTRANTS, ROOT  # noqa: E402
from figures import Figures  # noqa: E402
from peers import Peers, commands, environ  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.markdown import Markdown  # noqa: E402

SIDES = (1400, 3000)

#: Milliseconds until SQS and S3 answer.
DELAY = [10.0, 20.0]


def rendering_alone(sources: Path, side: int, seconds: float) -> dict[str, Any]:
    """Measure CPU milliseconds of rendering an image.

    Returns:
        The figures on one core while the others idle, and on all cores at once.
    """
    covers = sorted(sources.glob(f"*-{side}.jpg"))
    command = [sys.executable, HERE / "rendering.py", str(seconds), *covers]

    def once() -> float:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)  # noqa: S603
        return float(json.loads(done.stdout)["cpu"])

    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        together = [each.result() for each in [pool.submit(once) for _ in range(cores)]]
    return {"side": side, "alone": once(), "on all cores": sum(together) / cores}


def sharp_alone(peers: Peers, side: int, seconds: float) -> float | None:
    """Measure CPU milliseconds of sharp per image, as the mean of the covers. Returns None without sharp."""
    if not peers.node:
        return None
    taken = []
    for cover in sorted(peers.sources.glob(f"*-{side}.jpg")):
        with tempfile.TemporaryDirectory() as folder:
            command = [*commands(peers)["sharp"], cover, folder, "1000", str(seconds)]
            done = subprocess.run(command, env=environ(), stdout=subprocess.PIPE, check=True)  # noqa: S603
        cpu = json.loads(done.stdout)["cpu"]
        taken.append(1000 * sum(cpu) / len(cpu))
    return sum(taken) / len(taken)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ENTRANTS, default=list(ENTRANTS), help="contenders (default: all)")
    parser.add_argument("--size", nargs="+", type=int, choices=SIDES, default=list(SIDES), help="sides of the covers")
    parser.add_argument("--jobs", type=int, default=320, help="jobs per burst (default: %(default)s)")
    delay = "milliseconds until they answer (default: 10 20)"
    parser.add_argument("--delay", nargs=2, type=float, metavar=("SQS", "S3"), default=DELAY, help=delay)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all contenders (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one burst each and no rates; writes nothing")
    parser.add_argument("--save", type=Path, help="file for the results, as JSON")
    parser.add_argument("--show", type=Path, help="file of saved results: show and report them, measure nothing")
    return parser.parse_args()


def measured(options: argparse.Namespace, peers: Peers) -> Iterator[dict[str, Any]]:
    """Yield the measurements one by one: `what` is `rendering`, `sharp`, or a contender's key."""
    with world.serving(peers.sources, options.size) as shown:
        for number in range(1 if options.quick else options.rounds):
            for side in options.size:
                yield {"what": "rendering", **rendering_alone(peers.sources, side, 2.0)}
                if not options.quick and (taken := sharp_alone(peers, side, 2.0)):
                    yield {"what": "sharp", "side": side, "cpu": taken}
            for key in options.only:
                with tempfile.TemporaryDirectory() as folder:
                    what = ENTRANTS[key], Path(folder), shown
                    for found in measure.measure(*what, options.size, options.jobs, quick=options.quick):
                        yield {"what": key, "round": number, **found}


def main() -> None:
    """Measure and report."""
    options = arguments()
    stack.clear_environment()
    stack.use_own_emulator(*(each / 1000 for each in options.delay))
    console, peers = Console(width=150), Peers()
    if options.show:
        results = json.loads(options.show.read_text())
    else:
        results = []
        began = time.monotonic()
        for found in measured(options, peers):
            results.append({"delay": options.delay, **found})
            burst = found.get("phases", {}).get(measure.SATURATION)
            line = f"{sum(burst['cpu'].values()):.1f} ms/image, {burst['rate']:.1f} images/s" if burst else ""
            console.print(f"[dim]{time.monotonic() - began:4.0f} s  {found['what']} {found['side']} {line}[/dim]")
            if options.save:
                options.save.write_text(json.dumps(results))
    figures = Figures(results)
    console.print(Markdown("\n\n".join(report.tables(figures))))
    is_whole = figures.contenders == list(ENTRANTS) and figures.sides == list(SIDES) and figures.delay == DELAY
    if is_whole and figures.steady:
        report.write(figures, peers.sources)


if __name__ == "__main__":
    sys.exit(main())
