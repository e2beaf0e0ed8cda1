"""Shows the jobs that `submit` sent: for people, or as JSON lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape

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
    """Prints jobs when they are sent and when they end."""

    def __init__(self, console: Console, *, as_json: bool, waiting: bool) -> None:
        self._console = console
        self._as_json = as_json
        self._waiting = waiting
        self._waits: dict[str | None, str] = {}  # the attempt that was printed last, by job

    def sent(self, job: Submission) -> None:
        """Print a job that was sent, or could not be sent."""
        if self._as_json or job.error or not self._waiting:
            self.ended(job)

    def waits(self, job: Submission, attempt: NextAttempt) -> None:
        """Print what a job waits for, once for each attempt."""
        if not self._as_json and self._waits.get(job.job_id) != attempt.reason:
            self._waits[job.job_id] = attempt.reason
            origin, text = escape(job.origin), escape(attempt.text(datetime.now(UTC)))
            self._console.print(f"… {origin}  {text}", highlight=False, soft_wrap=True)

    def ended(self, job: Submission) -> None:
        """Print a job that has its result, or whose result did not arrive in time."""
        if self._as_json:
            self._console.out(json.dumps(job.as_dict()), highlight=False)
            return
        for line in _lines(job):
            self._console.print(line, highlight=False, soft_wrap=True)

    def interrupted(self, jobs: Sequence[Submission]) -> None:
        """Print what becomes of the jobs that were sent and are still waited for."""
        if not self._as_json and self._waiting and (open_ := [job for job in jobs if job.status == "sent"]):
            fate = "It goes on" if len(open_) == 1 else f"{len(open_)} jobs go on"
            self._console.print(
                f"{fate} without this command, and the result is lost unless the message names a postback_url. With a "
                f"job log, `image-pipeline status {(open_[0].job_id or '')[:8]}` shows the job.",
                highlight=False,
                soft_wrap=True,
            )

    def summary(self, jobs: Sequence[Submission]) -> None:
        """Print the number of jobs with each status."""
        if not self._as_json and len(jobs) > 1:
            counts = Counter(job.status for job in jobs)
            self._console.print(
                ", ".join(f"{counts[status]} {word}" for status, word in WORDS.items() if counts[status])
            )


def _lines(job: Submission) -> Iterator[str]:
    origin = escape(job.origin)
    match job.status:
        case "sent":
            yield f"{job.job_id}  [dim]{origin}[/]"
        case "unsent":
            yield f"[red]✗[/] {origin}  not sent: {escape(job.error.message if job.error else '')}"
        case "no_result":
            yield f"[red]✗[/] {origin}  no result in time; job {job.job_id} may still finish, but its result is lost"
            yield f"    With a job log, `image-pipeline status {(job.job_id or '')[:8]}` shows what it waits for."
        case _:
            mark = "[green]✓[/]" if job.status == "done" else "[red]✗[/]"
            yield f"{mark} [bold]{origin}[/]  {job.seconds:.1f} s  [dim]{job.job_id}[/]"
            yield from _images(job.result or {})


def _images(result: Payload) -> Iterator[str]:
    for name in IMAGE_FIELDS:
        if error := result.get(f"{name}_error"):
            yield f"    {name}  [red]{error['code']}[/] in {error['stage']}: {escape(error['message'])}"
        renditions = result.get(f"{name}_info") or {}
        width = max(map(len, renditions), default=0)
        for size, rendition in renditions.items():
            yield f"    {name}  {size:<{width}}  {escape(rendition['url'])}"
