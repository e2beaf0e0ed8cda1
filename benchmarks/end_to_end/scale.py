"""How each stage grows with its processes: images a second of one stage alone, by one process and up to the cores.

`make bench-scale` has jobs wait in front of a stage, and only then starts so many processes of it; the next stage finds
what this one did. It prints a table and writes it to docs/scaling.md.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "images"))

import stack  # noqa: E402
import world  # noqa: E402
from entrants import ENTRANTS, ROOT, Entrant, as_json  # noqa: E402
from markdown import replace_marked, rows  # noqa: E402
from measure import SETTLE, TIMEOUT  # noqa: E402
from peers import Peers  # noqa: E402
from usage import cpu_seconds  # noqa: E402

from pipeline.clients import aws  # noqa: E402
from pipeline.local.supervisor import Supervisor  # noqa: E402
from pipeline.stages import STAGES  # noqa: E402

#: Jobs that each process has done before it counts.
BEGIN = 5

_DONE = re.compile(r"stage=(\w+) job=\S+ outcome=done")


@dataclass
class Rate:
    """Of one stage with so many processes."""

    stage: str
    processes: int
    images: float  #: a second
    cpu: float  #: milliseconds of an image
    emulator: float  #: milliseconds of the emulator's


class Line:
    """The service's stages on one stack, started one at a time."""

    def __init__(self, running: stack.Stack, entrant: Entrant, folder: Path) -> None:
        self._stack = running
        self._environ = entrant.environ(running.environ)
        self._procfile = folder / "Procfile"
        self._procfile.write_text(one_process_each((ROOT / "Procfile").read_text(encoding="utf-8")))
        self._done: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def running(self, name: str, processes: int) -> Iterator[dict[str, int]]:
        """So many processes of a type; yields their groups' ids by name."""
        types = re.findall(r"^(\w+):", self._procfile.read_text(), re.MULTILINE)
        counts = dict.fromkeys(types, 0) | {name: processes}
        self._done.clear()
        with Supervisor(self._procfile, self._on_line, environ=self._environ, concurrency=counts) as supervisor:
            supervisor.start()
            wait_for(lambda: all(supervisor.pid(each) for each in supervisor.names))
            yield {each: pid for each in supervisor.names if (pid := supervisor.pid(each))}

    def _on_line(self, name: str, text: str) -> None:
        if _DONE.search(text):
            self._done[name].append(time.monotonic())

    def waiting(self, queue: str) -> int:
        """How many messages there are in a queue, those in flight too."""
        url = aws.sqs().get_queue_url(QueueName=f"{self._environ['QUEUE_NAMESPACE']}_{queue}")["QueueUrl"]
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        return sum(
            int(each)
            for each in aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"].values()
        )

    def rate(self, stage: str, processes: int, jobs: int) -> Rate:
        """Measure a stage that does the `jobs` in front of it, from when each process has begun to nine tenths."""
        with self.running(stage, processes) as groups:
            wait_for(
                lambda: all(len(self._done[name]) >= BEGIN for name in groups) or self._so_far(groups)[0] > jobs / 2
            )
            before, since = self._so_far(groups), time.monotonic()
            wait_for(lambda: self._so_far(groups)[0] >= jobs * 0.9)
            after, seconds = self._so_far(groups), time.monotonic() - since
            wait_for(lambda: self._so_far(groups)[0] >= jobs)
            time.sleep(SETTLE)
        if before[0] > jobs / 2:
            sys.exit(f"{stage} was done before all of its processes had begun: give it more --jobs")
        done = after[0] - before[0]
        cpu, emulator = (1000 * (b - a) / done for a, b in zip(before[1:], after[1:], strict=True))
        return Rate(stage, processes, done / seconds, cpu, emulator)

    def _so_far(self, groups: dict[str, int]) -> tuple[int, float, float]:
        return (
            sum(map(len, self._done.values())),
            sum(cpu_seconds(set(groups.values())).values()),
            self._stack.counted()[0],
        )

    def hand_over(self, jobs: int) -> None:
        """Have `ingest` bring jobs to the first stage."""
        with self.running("ingest", 1):
            wait_for(lambda: self.waiting("fetch") >= jobs)
            time.sleep(SETTLE)


def one_process_each(procfile: str) -> str:
    """The Procfile with one worker process for each line."""
    bare = re.sub(r" --processes[ =]\d+", "", procfile)
    return re.sub(r"(dramatiq pipeline\.actors)", r"\1 --processes 1", bare)


def wait_for(condition: Any) -> None:
    """Look often, for `TIMEOUT` seconds at the most."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"a stage did not get on within {TIMEOUT:g} s")
        time.sleep(0.02)


def measured(options: argparse.Namespace, folder: Path) -> Iterator[Rate]:
    """Stage after stage, each on the jobs that the one before it has done; and all again with one process more."""
    with (
        world.serving(Peers().sources, [options.size]) as shown,
        stack.running(folder, options.staging) as running,
        as_json(running.environ) as send,
    ):
        line = Line(running, ENTRANTS[options.staging], folder)
        for count in range(1, options.processes + 1):
            jobs = options.jobs * count
            for payload in shown.payloads(options.size, jobs).values():
                send(payload)
            line.hand_over(jobs)
            for stage in STAGES:
                yield line.rate(stage.name, count, jobs)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=cores, help="up to so many (default: the cores, %(default)s)")
    parser.add_argument("--jobs", type=int, default=150, help="jobs for each process (default: %(default)s)")
    parser.add_argument("--size", type=int, default=3000, help="side of the covers (default: %(default)s)")
    parser.add_argument(
        "--staging", choices=["file", "s3"], default="s3", help="where bytes wait (default: %(default)s)"
    )
    options = parser.parse_args()
    stack.clear_environment()
    stack.use_own_emulator()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for rate in measured(options, Path(folder)):
            print(rate)  # noqa: T201
            found.append(rate)
    body = [
        [
            each.stage,
            str(each.processes),
            f"{each.images:.1f}",
            f"{each.cpu:.1f}",
            f"{each.emulator:.1f}",
            f"{1000 / each.cpu:.0f}",
        ]
        for stage in STAGES
        for each in found
        if each.stage == stage.name
    ]
    heading = ["stage", "processes", "images/s", "CPU ms an image", "emulator's ms", "images a CPU second"]
    table = rows(heading, body)
    print(table)  # noqa: T201
    said = f"Covers of {options.size} px, bytes in {options.staging}://, on a machine of {cores} cores."
    replace_marked(ROOT / "docs/scaling.md", "bench-scale", f"{table}\n\n{said}")


if __name__ == "__main__":
    main()
