"""Measures how each stage scales: images per second of one stage alone, with one process and up to one per core.

`make bench-scale` first queues jobs in front of a stage and only then starts that stage's processes. The next stage
continues with the results. It prints a table and writes it to docs/performance.md.
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

#: Jobs that each process must have done before the measurement begins.
BEGIN = 5

_DONE = re.compile(r"stage=(\w+) job=\S+ outcome=done")


@dataclass
class Rate:
    """The measurements of one stage with this many processes."""

    stage: str
    processes: int
    images: float  #: per second
    cpu: float  #: milliseconds per image
    emulator: float  #: milliseconds per image, of the emulator


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
        """Run this many processes of a type; yields their group ids by name."""
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
        """Count the messages in a queue, including those in flight."""
        url = aws.sqs().get_queue_url(QueueName=f"{self._environ['QUEUE_NAMESPACE']}_{queue}")["QueueUrl"]
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        return sum(
            int(each)
            for each in aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"].values()
        )

    def rate(self, stage: str, processes: int, jobs: int) -> Rate:
        """Measure a stage on the `jobs` in its queue, from when every process has begun until nine tenths are done."""
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
            sys.exit(f"{stage} was done before all of its processes had begun: increase --jobs")
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
        """Let `ingest` bring jobs to the first stage."""
        with self.running("ingest", 1):
            wait_for(lambda: self.waiting("fetch") >= jobs)
            time.sleep(SETTLE)


def one_process_each(procfile: str) -> str:
    """Write a Procfile with one worker process per line."""
    bare = re.sub(r" --processes[ =]\d+", "", procfile)
    return re.sub(r"(dramatiq pipeline\.actors)", r"\1 --processes 1", bare)


def wait_for(condition: Any) -> None:
    """Poll a condition for at most `TIMEOUT` seconds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"a stage made no progress within {TIMEOUT:g} s")
        time.sleep(0.02)


def measured(options: argparse.Namespace, folder: Path) -> Iterator[Rate]:
    """Measure each stage on the jobs of the stage before it, then repeat with one process more."""
    with (
        world.serving(Peers().sources, [options.size]) as shown,
        stack.running(folder, "s3") as running,
        as_json(running.environ) as send,
    ):
        line = Line(running, ENTRANTS["s3"], folder)
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
    parser.add_argument(
        "--processes", type=int, default=cores, help="up to this many processes (default: the cores, %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=150, help="jobs per process (default: %(default)s)")
    parser.add_argument("--size", type=int, default=3000, help="side of the covers in pixels (default: %(default)s)")
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
    heading = ["stage", "processes", "images/s", "CPU ms per image", "emulator's ms", "images per CPU second"]
    table = rows(heading, body)
    print(table)  # noqa: T201
    sentence = f"Covers of {options.size} px, bytes in s3://, on a machine of {cores} cores."
    replace_marked(ROOT / "docs/performance.md", "bench-scale", f"{table}\n\n{sentence}")


if __name__ == "__main__":
    main()
