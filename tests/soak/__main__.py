"""Run the whole Procfile for longer than its timeouts: python -m tests.soak --minutes 60.

It fails on growth, on a probe of a running process that is not live, and on a lost, repeated or wrong result.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from rich.console import Console
from rich.table import Table

from pipeline.local.embedded import EmbeddedStack
from tests.chaos.checker import Checker
from tests.chaos.proxy import Proxy
from tests.chaos.service import ROOT, Service, running_service
from tests.chaos.world import World
from tests.soak.phases import Soak, phases
from tests.soak.watch import Figures, Watch
from tests.support.line import Line

console = Console(width=120)

#: Retry delays that outlast the outages of a run.
DELAYS = "1,2,5,10,20,30,30,30,60,60,60,120"

#: An idle process at the end may exceed its highest figures of all earlier phases by this: its memory by a factor and
#: by bytes, each other figure by a count.
MEMORY_FACTOR, MEMORY_BYTES, COUNT = 1.03, 8 * 2**20, 2

TITLE = "MiB / threads / descriptors / connections at the end of each phase"

Taken = dict[str, dict[str, Figures]]  # by phase and process


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, help="write all log lines to this file")
    options = parser.parse_args()
    began, rng = time.monotonic(), random.Random(options.seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedStack(Path(folder)) as stack,
        World() as world,
        Proxy(stack.environ["AWS_ENDPOINT_URL"], rng) as proxy,
        MongoClient[dict[str, Any]](stack.environ["MONGO_URL"]) as mongo,
        Line(mongo.address[1] if mongo.address else 0) as line,
        running_service(
            stack,
            proxy,
            ROOT / "Procfile",
            concurrency=dict.fromkeys(("fetch", "resize", "upload", "notify", "ingest", "sweep", "scheduler"), 1),
            MONGO_URL=f"mongodb://127.0.0.1:{line.port}/chaos",
            JOBS_MONGO_URL=f"mongodb://127.0.0.1:{line.port}/jobs",
            LEVEL="INFO",
            FETCH_TIMEOUT="12",
            POSTBACK_TIMEOUT="15",
            **dict.fromkeys(["FETCH_RETRY_DELAYS", "RETRY_DELAYS", "POSTBACK_RETRY_DELAYS"], DELAYS),
        ) as service,
    ):
        soak = Soak(service, world, mongo["chaos"], line.go_down, line.come_up, rng)
        taken: Taken = {}
        ends: dict[str, float] = {}  # in minutes
        with Watch(lambda: {name: service.supervisor.pid(name) for name in service.supervisor.names}) as watch:
            for name, work, seconds in phases(options.minutes):
                console.print(f"{(time.monotonic() - began) / 60:5.1f} min  {name}", style="dim")
                work(soak, seconds)
                taken[name], ends[name] = watch.figures(), (time.monotonic() - began) / 60
        soak.problems += _problems(soak, taken, watch)
        outcomes = _outcomes(service)
        service.supervisor.stop()
        letters = soak.documents.letters if soak.documents else 0
        soak.problems += Checker(soak.orders, service, world, swept_letters=letters).check().problems
        soak.problems += soak.documents.problems() if soak.documents else []
        if options.log:
            options.log.write_text("\n".join(f"{line.at:.2f} {line.process}: {line.text}" for line in service.lines))
    _show(taken, (ends[_idle(taken)[-1]] - ends[_idle(taken)[0]]) / 60, watch, outcomes)
    for problem in soak.problems:
        console.print(problem, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(soak.orders)} orders, {len(world.posts)} postbacks, {(time.monotonic() - began) / 60:.0f} min")
    console.print("NOT GOOD" if soak.problems else "good", style="bold red" if soak.problems else "green")
    return 1 if soak.problems else 0


def _problems(soak: Soak, taken: Taken, watch: Watch) -> list[str]:
    found = [f"{probe.process} was not live: {probe.answer}" for probe in watch.dead]
    found += [f"{name} was never probed" for name in soak.service.supervisor.names if not watch.probes.get(name)]
    *before, last = taken.values()
    for name, after in last.items():
        earlier = [figures[name] for figures in before if name in figures]
        if after.memory > MEMORY_FACTOR * (most := max(each.memory for each in earlier)) + MEMORY_BYTES:
            found.append(f"{name} grew from {most / 2**20:.0f} to {after.memory / 2**20:.0f} MiB")
        for what in ("threads", "descriptors", "connections"):
            if getattr(after, what) > (highest := max(getattr(each, what) for each in earlier)) + COUNT:
                found.append(f"{name} has {getattr(after, what)} {what} after {highest}")
    return found


def _idle(taken: Taken) -> list[str]:
    return [name for name in taken if name.startswith("idle")]


def _outcomes(service: Service) -> Counter[tuple[str, str]]:
    """Count the attempts of all jobs in the log, by stage and outcome."""
    found: Counter[tuple[str, str]] = Counter()
    for line in service.lines:
        if "stage=" in line.text and " outcome=" in line.text:
            fields = dict(word.split("=", 1) for word in line.text.split() if "=" in word)
            found[fields["stage"], fields["outcome"]] += 1
    return found


def _show(taken: Taken, hours: float, watch: Watch, outcomes: Counter[tuple[str, str]]) -> None:
    table = Table(
        "process",
        *taken,
        "per hour",
        title="MiB / threads / descriptors / connections at the end of each phase",
        title_justify="left",
    )
    for name in sorted({name for figures in taken.values() for name in figures}):
        cells = [_cell(figures.get(name)) for figures in taken.values()]
        first, last = (taken[each].get(name) for each in (_idle(taken)[0], _idle(taken)[-1]))
        slope = f"{(last.memory - first.memory) / 2**20 / hours:+.1f} MiB" if first and last else ""
        table.add_row(name, *cells, slope)
    console.print(table)
    shown = Table("stage", "outcome", "attempts", title="Attempts", title_justify="left")
    for (stage, outcome), count in sorted(outcomes.items()):
        shown.add_row(stage, outcome, f"{count:,}")
    console.print(shown)
    console.print(
        f"{sum(watch.probes.values()):,} probes of /livez were answered with 200, {len(watch.dead)} were not."
    )


def _cell(figures: Figures | None) -> str:
    if figures is None:
        return "-"
    return f"{figures.memory / 2**20:.0f} / {figures.threads} / {figures.descriptors} / {figures.connections}"


if __name__ == "__main__":
    sys.exit(main())
