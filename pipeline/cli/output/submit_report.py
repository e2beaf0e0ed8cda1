"""Shows the jobs that `submit` sent: for people, or as JSON lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipeline.monitoring.next_attempt import NextAttempt
from pipeline.ops.submit import Submission, SubmissionStatus
from pipeline.payload import IMAGE_FIELDS, Payload

WORDS: dict[SubmissionStatus, str] = {
    "done": "done",
    "failed": "failed",
    "unsent": "not sent",
    "no_result": "without a result",
    "sent": "sent",
}


class Report:
    """Prints jobs when they are sent and when they end, with a progress bar if `console` is a terminal.

    Use it as a context manager around both.
    """

    def __init__(self, console: Console, jobs: int, *, as_json: bool, waiting: bool) -> None:
        self._console = console
        self._as_json = as_json
        self._waiting = waiting
        self._waits: dict[str | None, str] = {}  # the attempt that was printed last, by job
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(
            *columns, TimeElapsedColumn(), console=console, transient=True, disable=as_json or not console.is_terminal
        )
        self._sending = self._bar.add_task("sent", total=jobs)
        self._ending = self._bar.add_task("ended", total=jobs) if waiting else None

    def __enter__(self) -> Report:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def sent(self, job: Submission) -> None:
        """Print a job that was sent, or could not be sent."""
        self._bar.advance(self._sending)
        if self._as_json or job.error or not self._waiting:
            self._print(job)

    def ended(self, job: Submission) -> None:
        """Print a job that has its result, or whose result did not arrive in time."""
        if self._ending is not None:
            self._bar.advance(self._ending)
        self._print(job)

    def waits(self, job: Submission, attempt: NextAttempt) -> None:
        """Show what a job waits for: in the progress bar, or once for each attempt as a line."""
        if self._as_json:
            return
        if self._ending is not None and self._console.is_terminal:
            self._bar.update(self._ending, description=f"ended; {job.place}: {attempt.text(datetime.now(UTC))}")
        elif self._waits.get(job.job_id) != attempt.reason:
            self._waits[job.job_id] = attempt.reason
            place, text = escape(job.place), escape(attempt.text(datetime.now(UTC)))
            self._console.print(f"… {place}  {text}", highlight=False, soft_wrap=True)

    def summary(self, jobs: Sequence[Submission]) -> None:
        """Print the number of jobs with each status."""
        if not self._as_json and len(jobs) > 1:
            counts = Counter(job.status for job in jobs)
            self._console.print(
                ", ".join(f"{counts[status]} {word}" for status, word in WORDS.items() if counts[status])
            )

    def _print(self, job: Submission) -> None:
        if self._as_json:
            self._console.out(json.dumps(job.as_dict()), highlight=False)
            return
        for line in _lines(job):
            self._console.print(line, highlight=False, soft_wrap=True)


def _lines(job: Submission) -> Iterator[str]:
    place = escape(job.place)
    match job.status:
        case "sent":
            yield f"{job.job_id}  [dim]{place}[/]"
        case "unsent":
            yield f"[red]✗[/] {place}  not sent: {escape(job.error.message if job.error else '')}"
        case "no_result":
            yield f"[red]✗[/] {place}  no result in time; the job {job.job_id} may still finish, but its result is lost"
            yield f"    With a job log, `image-pipeline status {(job.job_id or '')[:8]}` shows what it waits for."
        case _:
            mark = "[green]✓[/]" if job.status == "done" else "[red]✗[/]"
            yield f"{mark} [bold]{place}[/]  {job.seconds:.1f} s  [dim]{job.job_id}[/]"
            yield from _images(job.result or {})


def _images(result: Payload) -> Iterator[str]:
    for name in IMAGE_FIELDS:
        if error := result.get(f"{name}_error"):
            yield f"    {name}  [red]{error['code']}[/] in {error['stage']}: {escape(error['message'])}"
        renditions = result.get(f"{name}_info") or {}
        width = max(map(len, renditions), default=0)
        for size, rendition in renditions.items():
            yield f"    {name}  {size:<{width}}  {escape(rendition['url'])}"
