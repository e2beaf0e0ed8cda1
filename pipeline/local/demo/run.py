"""Runs the demo."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.clients import aws
from pipeline.local.demo import comparison, samples
from pipeline.local.demo.board import Board, WorkerLog
from pipeline.local.demo.comparison import Stored
from pipeline.local.demo.jobs import COMMAND, Arrivals, DemoJob, ExpectedFailure, make_jobs, receive, send, submit
from pipeline.local.demo.samples import Sample
from pipeline.local.demo.web import cover_server, postback_server
from pipeline.local.embedded import EmbeddedStackError
from pipeline.local.standalone import PROCFILE, from_here, standalone
from pipeline.local.supervisor import STOP_TIMEOUT, Supervisor
from pipeline.ops import sheet
from pipeline.settings import Settings, get_settings

#: Timeouts in seconds: until all processes are ready, and until all jobs have results.
READY_TIMEOUT, JOBS_TIMEOUT = 60.0, 60.0

#: Seconds that the last log line of a job may follow its result.
LINE_TIMEOUT = 5.0

REDIRECT_QUEUE = "DemoCovers"

SHEET_REMARKS = ("Large: 800x800, at half its size.", "The others are shown pixel for pixel.")


def run(
    data_dir: Path,
    console: Console,
    *,
    procfile: Path = PROCFILE,
    when_ready: Callable[[], None] = lambda: None,
    stop_timeout: float = STOP_TIMEOUT,
) -> bool:
    """Run the demo, and return whether every outcome is as expected.

    Args:
        data_dir: The folder for all files of the demo.
        console: The console for progress and results.
        procfile: The processes of the service.
        when_ready: Called once, when all processes are ready for the first job.
        stop_timeout: Seconds that processes may take to end after SIGTERM.

    Raises:
        EmbeddedStackError: The servers or the processes cannot run.
    """
    secret, signing_secret = secrets.token_hex(8), "whsec_" + "ZGVt" * 8
    _remove_own_settings()
    os.environ.update(
        ALLOWED_NETWORKS="127.0.0.0/8",  # covers and postback receiver are on this machine
        POSTBACK_SECRET_KEY=secret,
        POSTBACK_SIGNING_SECRET=signing_secret,
        LEVEL="INFO",
    )
    arrivals = Arrivals()
    data_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack, ThreadPoolExecutor(1) as drawing:
        drawn = drawing.submit(samples.make)
        with _step(console, "Started servers for SQS, S3 and MongoDB; created queues and bucket"):
            variables = stack.enter_context(standalone(data_dir, persist=False))
        covers = drawn.result()
        covers_url = stack.enter_context(cover_server(covers))
        postback_url = stack.enter_context(postback_server(secret, signing_secret, arrivals))
        jobs = make_jobs(covers, covers_url, postback_url, REDIRECT_QUEUE)
        log = WorkerLog(data_dir / "workers.log")
        with _step(console, "Started the processes of the Procfile"):
            supervisor = stack.enter_context(Supervisor(procfile, log, cwd=data_dir, stop_timeout=stop_timeout))
            supervisor.start()
            if not _wait_until(lambda: log.ready >= set(supervisor.names), READY_TIMEOUT):
                late = ", ".join(sorted(set(supervisor.names) - log.ready))
                raise EmbeddedStackError(f"{late}: not ready after {READY_TIMEOUT:g} s; see {from_here(log.path)}")
        when_ready()
        stack.enter_context(_redirect_receiver(arrivals))
        board = Board(jobs, log)
        live = Live(board, console=console, refresh_per_second=12, transient=True)
        with live, _sending(jobs, variables["QUEUE_URL"], arrivals):
            _wait_for_all(jobs, log, arrivals)
        console.print(board)
        console.print()
        with console.status("Checking the renditions in S3 …"):
            stored, wrong = _examine(jobs)
            picture = data_dir / "contact-sheet.png"
            sheet.draw(list(_cards(jobs, stored)), "Renditions\nin S3", SHEET_REMARKS).save(picture)
        console.print(f"[bold]Contact sheet[/]  {from_here(picture)}", highlight=False, soft_wrap=True)
        _print_result(wrong, jobs, log, console)
        stack.enter_context(console.status("Stopping …"))
        return not wrong


def _remove_own_settings() -> None:
    """Remove settings from this environment, because the demo needs the defaults."""
    for name in [*Settings.model_fields, "environment"]:
        for spelling in (name, name.upper()):
            os.environ.pop(spelling, None)


@contextmanager
def _step(console: Console, done: str) -> Iterator[None]:
    """Show a spinner during a step, then a check mark and its duration."""
    started = time.monotonic()
    with console.status(f"{done} …"):
        yield
    console.print(f"[green]✓[/] {done} [dim]{time.monotonic() - started:.1f} s[/]", highlight=False)


def _wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait for a condition, and return whether it became true in time."""
    deadline = time.monotonic() + timeout
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return true


@contextmanager
def _redirect_receiver(arrivals: Arrivals) -> Iterator[None]:
    url = aws.sqs().create_queue(QueueName=REDIRECT_QUEUE)["QueueUrl"]
    enough = threading.Event()
    receiver = threading.Thread(target=receive, args=[url, enough, arrivals], name="redirect", daemon=True)
    receiver.start()
    try:
        yield
    finally:
        enough.set()
        receiver.join()


@contextmanager
def _sending(jobs: Sequence[DemoJob], queue_url: str, arrivals: Arrivals) -> Iterator[None]:
    """Send every job. Commands run until the end of the context."""
    with ThreadPoolExecutor() as commands:
        for job in jobs:
            if job.way == COMMAND:
                commands.submit(submit, job, os.environ, arrivals)
        for job in jobs:
            if job.way != COMMAND:
                send(job, queue_url)
        yield


def _wait_for_all(jobs: Sequence[DemoJob], log: WorkerLog, arrivals: Arrivals) -> None:
    """Wait until each job has its result and its last log line."""

    def all_ended() -> bool:
        for job in jobs:
            job.arrival = job.arrival or arrivals.get(job.job_id)
        return all(job.arrival for job in jobs)

    _wait_until(all_ended, JOBS_TIMEOUT)
    _wait_until(lambda: all(log.has_ended(job) for job in jobs if job.arrival), LINE_TIMEOUT)


def _examine(jobs: Sequence[DemoJob]) -> tuple[dict[str, dict[str, list[Stored]]], list[str]]:
    """Return the stored renditions by job name, and all differences from the expected outcomes."""
    settings = get_settings()
    stored = {job.name: comparison.fetch_back(job.infos) for job in jobs}
    dead = comparison.dead_letters()
    wrong = [
        f"{job.name}: {difference}"
        for job in jobs
        for difference in comparison.differences(job, stored[job.name], dead.pop(job.job_id, None), settings)
    ]
    wrong += [f"There is an unexpected dead letter: {each}" for each in dead.values()]
    return stored, wrong


def _print_result(wrong: Sequence[str], jobs: Sequence[DemoJob], log: WorkerLog, console: Console) -> None:
    if not wrong:
        failures = sum(isinstance(outcome, ExpectedFailure) for job in jobs for outcome in job.expected.values())
        console.print(f"[bold green]All {len(jobs)} jobs are as expected, including {failures} failures.[/]")
        return
    console.print("[bold red]Some outcomes are not as expected:[/]")
    for line in wrong:
        console.print(Text(f"  {line}", style="red"), soft_wrap=True)
    console.print(f"The log of all processes is {from_here(log.path)}.", highlight=False, soft_wrap=True)


def _cards(jobs: Sequence[DemoJob], stored: Mapping[str, Mapping[str, Sequence[Stored]]]) -> Iterator[sheet.Card]:
    for job in jobs:
        result = job.arrival.result if job.arrival else {}
        for name, outcome in job.expected.items():
            title = outcome.title if isinstance(outcome, Sample) else job.name
            renditions = [(each.name, each.image) for each in stored[job.name].get(name, [])]
            error = result.get(f"{name}_error") or {"code": "nothing", "message": "This cover has no result."}
            yield sheet.Card(
                title,
                f"{outcome.about}, by {job.way}",
                renditions,
                None if renditions else (error["code"], error["message"]),
            )
