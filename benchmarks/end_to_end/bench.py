"""What an image costs from end to end: this project, and what one would use instead, on the embedded SQS and S3.

`make bench` has all contenders do the same jobs in turn, several times: a message in, three renditions in S3, one
postback. It measures CPU, requests, memory, throughput and waiting, prints them, and writes docs/performance.md. With
`--quick` there is one burst of jobs and no report: CPU by process type, in about half a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
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
from tables import summary  # noqa: E402

SIDES = (1400, 3000)


def rendering_alone(sources: Path, side: int, seconds: float) -> dict[str, Any]:
    """CPU milliseconds of rendering an image: on one core while the others idle, and on all at once; and on one with
    the memory of a worker."""
    covers = sorted(sources.glob(f"*-{side}.jpg"))
    command = [sys.executable, HERE / "rendering.py", str(seconds)]

    def once(*more: str) -> float:
        done = subprocess.run(  # noqa: S603
            [*command, *more, *covers], env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, check=True
        )
        return float(json.loads(done.stdout)["cpu"])

    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        together = [each.result() for each in [pool.submit(once) for _ in range(cores)]]
    alone, as_worker = once(), once("--as-worker")
    return {"side": side, "alone": alone, "on all cores": sum(together) / cores, "as a worker": as_worker}


def sharp_alone(peers: Peers, side: int, seconds: float) -> float | None:
    """CPU milliseconds in which sharp makes the renditions of an image, the mean of the covers; None without sharp."""
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
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ENTRANTS, default=list(ENTRANTS), help="contenders (default: all)")
    parser.add_argument("--size", nargs="+", type=int, choices=SIDES, default=list(SIDES), help="sides of the covers")
    parser.add_argument("--jobs", type=int, default=160, help="jobs of a burst (default: %(default)s)")
    parser.add_argument("--idle", type=int, default=15, help="single jobs of a round (default: %(default)s)")
    parser.add_argument("--load", type=float, default=10.0, help="seconds of steady load (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all contenders in turn (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one burst each; nothing is written")
    parser.add_argument("--save", type=Path, help="a file for the results, as JSON")
    parser.add_argument("--show", type=Path, help="a file of results: show and report them, and measure nothing")
    return parser.parse_args()


def measured(options: argparse.Namespace, peers: Peers) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is measured, as it comes: `rendering`, `sharp`, or a contender's key, and the figures."""
    plan = measure.Plan(options.jobs, 0 if options.quick else options.idle, 0.0 if options.quick else options.load)
    with world.serving(peers.sources, options.size) as shown:
        for number in range(1 if options.quick else options.rounds):
            for side in options.size:
                yield "rendering", rendering_alone(peers.sources, side, 2.0)
                if not options.quick and (taken := sharp_alone(peers, side, 2.0)):
                    yield "sharp", {"side": side, "cpu": taken}
            for key in options.only:
                with tempfile.TemporaryDirectory() as folder:
                    for found in measure.measure(ENTRANTS[key], Path(folder), shown, options.size, plan):
                        yield key, {"round": number, **found}


def main() -> None:
    """Measure and report."""
    options = arguments()
    stack.clear_environment()
    stack.use_own_emulator()
    console, peers = Console(width=150), Peers()
    if options.show:
        results = json.loads(options.show.read_text())
    else:
        results = []
        for key, found in measured(options, peers):
            results.append({"what": key, **found})
            burst = found.get("burst")
            line = f"{sum(burst['cpu'].values()):.1f} ms/image, {burst['rate']:.1f} images/s" if burst else ""
            console.print(f"[dim]{key} {found['side']} {line}[/dim]")
            if options.save:
                options.save.write_text(json.dumps(results))
    figures = Figures(results)
    console.print(*summary(figures), sep="\n")
    if figures.contenders == list(ENTRANTS) and figures.sides == list(SIDES) and not options.quick:
        report.write(figures, peers)


if __name__ == "__main__":
    sys.exit(main())
