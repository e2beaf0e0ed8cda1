"""Measures how many processes and threads a stage should have: the Procfile with one stage changed at a time.

`make bench-threads` delays the answers of hosts, SQS and S3 to realistic times. It measures each variant as
`make bench` measures contenders: a burst, single jobs, and the same steady load for all. It prints a table and writes
it to docs/scaling.md.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "images"))

import stack  # noqa: E402
import world  # noqa: E402
from entrants import ENTRANTS, ROOT  # noqa: E402
from figures import percentile  # noqa: E402
from markdown import replace_marked, rows  # noqa: E402
from measure import Phase, moments, running  # noqa: E402
from peers import Peers  # noqa: E402

PROCFILE = (ROOT / "Procfile").read_text(encoding="utf-8")
CORES = os.cpu_count() or 1

#: The processes and threads to try for each stage; all other stages are as in the Procfile.
VARIANTS: dict[str, list[tuple[int, int]]] = {
    "fetch": [(1, 4), (1, 8), (1, 16), (1, 32), (2, 8)],
    "resize": [(1, CORES), (CORES, 1), (CORES, 2), (CORES, 3), (CORES, 4), (CORES, 6), (2 * CORES, 2)],
    "upload": [(1, 2), (1, 4), (1, 8), (1, 16), (2, 4)],
    "notify": [(1, 4), (1, 8), (1, 16), (1, 32), (2, 8)],
}


@dataclass
class Figures:
    """The measurements of a variant in one round."""

    burst: Phase
    idle: list[float]  #: seconds from message to postback
    load: list[float]

    @property
    def cpu(self) -> float:
        """Return milliseconds per image."""
        return sum(self.burst.cpu.values())

    @property
    def sqs(self) -> float:
        """Return requests per image."""
        return sum(count for kind, count in self.burst.requests.items() if kind.startswith("sqs"))


def procfile_with(stage: str, processes: int, threads: int) -> str:
    """Return the Procfile with this many processes and threads for one stage."""
    command = rf"^({stage}: .*dramatiq pipeline\.actors)(?: --processes \d+)? --threads \d+"
    text, found = re.subn(command, rf"\1 --processes {processes} --threads {threads}", PROCFILE, flags=re.MULTILINE)
    if found != 1:
        raise ValueError(f"the Procfile has no line for {stage} with --threads")
    return text


def chosen(stage: str) -> tuple[int, int]:
    """Return the processes and threads of a stage in the Procfile."""
    line = re.search(rf"^{stage}: .*", PROCFILE, re.MULTILINE)
    given = dict(re.findall(r"--(processes|threads) (\d+)", line[0] if line else ""))
    return int(given.get("processes", CORES)), int(given["threads"])


def measured(procfile: str, options: argparse.Namespace, shown: world.World) -> Figures:
    """Measure one round of a variant."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "Procfile"
        path.write_text(procfile, encoding="utf-8")
        with running(replace(ENTRANTS[options.staging], procfile=path), Path(folder), shown) as variant:
            variant.warm_up(options.size, options.jobs)
            burst = variant.burst(options.size, options.jobs)
            idle = [variant.steady(options.size, [0.0]).waits[0] for _ in range(options.idle)]
            return Figures(burst, idle, variant.steady(options.size, moments(options.rate, options.load)).waits)


def table(found: dict[tuple[str, int, int], list[Figures]]) -> str:
    """Make a row for each variant, with the Procfile's in bold."""
    heading = ["stage", "processes x threads", "images/s", "CPU ms", "SQS", "MB", "idle, p50", "load, p50", "load, p95"]
    body = []
    for (stage, processes, threads), rounds in found.items():
        idle, load = ([each for one in rounds for each in getattr(one, name)] for name in ("idle", "load"))
        cells = [
            f"{processes} x {threads}",
            f"{median(each.burst.rate for each in rounds):.1f}",
            f"{median(each.cpu for each in rounds):.1f}",
            f"{median(each.sqs for each in rounds):.2f}",
            f"{mean(each.burst.memory for each in rounds) / 1e6:.0f}",
            *(f"{1000 * percentile(waits, at):.0f}" for waits, at in ((idle, 50), (load, 50), (load, 95))),
        ]
        is_chosen = (processes, threads) == chosen(stage)
        body.append([stage, *(f"**{cell}**" if is_chosen else cell for cell in cells)])
    return rows(heading, body)


def variants(stages: list[str]) -> Iterator[tuple[str, int, int]]:
    """List the variants of each stage without duplicates on this machine."""
    for stage in stages:
        for processes, threads in dict.fromkeys(VARIANTS[stage]):
            yield stage, processes, threads


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="stages (default: all)")
    parser.add_argument("--size", type=int, default=3000, help="side of the covers in pixels (default: %(default)s)")
    parser.add_argument("--delay", type=float, default=0.2, help="seconds until a host answers (default: %(default)s)")
    parser.add_argument("--aws", type=float, default=0.02, help="the same for SQS and S3 (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=240, help="jobs per burst (default: %(default)s)")
    parser.add_argument("--idle", type=int, default=8, help="single jobs (default: %(default)s)")
    parser.add_argument("--load", type=float, default=8.0, help="seconds of steady load (default: %(default)s)")
    parser.add_argument(
        "--rate", type=float, default=20.0, help="jobs per second of steady load (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="rounds of all variants (default: %(default)s)")
    parser.add_argument("--staging", choices=["file", "s3"], default="s3", help="staging storage (default: s3)")
    options = parser.parse_args()
    stack.clear_environment()
    stack.use_own_emulator(options.aws, options.aws)
    found: dict[tuple[str, int, int], list[Figures]] = {}
    with world.serving(Peers().sources, [options.size], options.delay) as shown:
        for _ in range(options.rounds):
            for variant in variants(options.only):
                figures = measured(procfile_with(*variant), options, shown)
                found.setdefault(variant, []).append(figures)
                print(variant, f"{figures.burst.rate:.1f} images/s, {figures.cpu:.1f} ms", flush=True)  # noqa: T201
    rounds = "One round" if options.rounds == 1 else f"Medians of {options.rounds} rounds"
    sentence = (
        f"{rounds}: bursts of {options.jobs} covers of {options.size} px, {options.staging}:// staging, hosts that "
        f"answer after {1000 * options.delay:g} ms, SQS and S3 after {1000 * options.aws:g}; waiting in ms, *load* "
        f"is {options.rate:g} jobs per second. In bold: the Procfile's, on this machine of {CORES} cores."
    )
    shown_table = table(found)
    print(shown_table)  # noqa: T201
    if options.only == list(VARIANTS):
        replace_marked(ROOT / "docs/scaling.md", "bench-threads", f"{shown_table}\n\n{sentence}")


if __name__ == "__main__":
    main()
