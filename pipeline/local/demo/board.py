"""The table of the jobs: live progress, then outcomes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipeline.local.demo.jobs import DemoJob
from pipeline.payload import IMAGE_FIELDS
from pipeline.stages import NOTIFY, STAGES

#: The line that each process prints when it is ready.
READY = re.compile(r"Worker process is ready|Taking messages|Registered periodic actors")

#: The log line of a stage for a job: `stage=fetch job=… outcome=done seconds=0.123`.
STAGE_LINE = re.compile(
    r"stage=(?P<stage>\w+) job=(?P<job>\S+) outcome=(?P<outcome>\w+)(?: seconds=(?P<seconds>[\d.]+))?"
)


@dataclass(frozen=True)
class StageResult:
    """The result of a job in one stage."""

    outcome: str
    seconds: float | None


class WorkerLog:
    """Writes the lines of all processes to a file, and tracks ready processes and results of jobs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ready: set[str] = set()  #: names of ready processes
        self._file: TextIO = path.open("w", encoding="utf-8", buffering=1)
        self._stages: dict[str, dict[str, StageResult]] = {}

    def __call__(self, process: str, text: str) -> None:
        """Handle one line of a process."""
        self._file.write(f"{process:<11} | {text}\n")
        if READY.search(text):
            self.ready.add(process)
        if line := STAGE_LINE.search(text):
            seconds = float(line["seconds"]) if line["seconds"] else None
            self._stages.setdefault(line["job"], {})[line["stage"]] = StageResult(line["outcome"], seconds)

    def of(self, job: DemoJob) -> dict[str, StageResult]:
        """Return the results of a job so far, by stage."""
        return dict(self._stages.get(job.job_id, {}))

    def has_ended(self, job: DemoJob) -> bool:
        """Return whether the job has passed the last stage."""
        return NOTIFY.name in self.of(job)


@dataclass(frozen=True)
class Board:
    """The table of all jobs, which is drawn again for each live update."""

    jobs: Sequence[DemoJob]
    log: WorkerLog
    spinner: Spinner = field(default_factory=lambda: Spinner("dots", style="cyan"))

    def __rich__(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=0)
        table.add_column("Job", no_wrap=True, min_width=11)
        table.add_column("Way in", no_wrap=True, min_width=16)
        table.add_column("Outcome", min_width=14)
        for stage in STAGES:
            table.add_column(stage.name, justify="right", no_wrap=True, min_width=6)
        table.add_column("total", justify="right", no_wrap=True, min_width=5)
        for job in self.jobs:
            total = f"{job.seconds:.2f}" if job.seconds else ""
            table.add_row(job.name, f"[dim]{job.way}[/]", _outcome(job), *self._cells(job), f"[bold]{total}[/]")
        return table

    def _cells(self, job: DemoJob) -> Iterator[RenderableType]:
        results = self.log.of(job)
        furthest = max((number for number, stage in enumerate(STAGES) if stage.name in results), default=-1)
        for number, stage in enumerate(STAGES):
            seen = results.get(stage.name)
            if seen and seen.seconds is not None:
                yield f"[green]{seen.seconds:.2f}[/]"
            elif seen:
                yield "[red]✗[/]" if seen.outcome == "given_up" else f"[yellow]{seen.outcome}[/]"
            elif job.arrival or number <= furthest or not job.sent_at:
                yield "[dim]-[/]"
            elif number == furthest + 1:
                yield self.spinner
            else:
                yield ""


def _outcome(job: DemoJob) -> RenderableType:
    if not job.arrival:
        return Text("in progress" if job.sent_at else "not sent", style="dim")
    parts = []
    for name in IMAGE_FIELDS:
        if error := job.arrival.result.get(f"{name}_error"):
            parts.append(f"[red]{escape(str(error.get('code')))}[/]")
        elif info := job.arrival.result.get(f"{name}_info"):
            parts.append(_renditions(info))
    return Text.from_markup(" + ".join(parts) or "[red]nothing[/]")


def _renditions(info: Mapping[str, Mapping[str, str]]) -> str:
    """Describe the renditions of an image, such as `3 jpeg`."""
    extensions = {rendition["url"].rpartition(".")[2] for rendition in info.values()}
    return f"{len(info)} {'/'.join(sorted(extensions))}"
