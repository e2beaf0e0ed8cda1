"""The demo from start to end."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.clients import aws
from pipeline.local.demo import jobs as scenario
from pipeline.local.demo import samples, sheet, sweep_verdict, sweeps, verdict
from pipeline.local.demo.board import Board, WorkerLog, whereabouts
from pipeline.local.demo.jobs import COMMAND, Arrivals, DemoJob, Failure
from pipeline.local.demo.ledger import ledger
from pipeline.local.demo.samples import Sample
from pipeline.local.demo.sweeps import DemoDocument
from pipeline.local.demo.verdict import Stored
from pipeline.local.demo.web import Postback, cover_server, postback_server
from pipeline.local.embedded import EmbeddedStackError
from pipeline.local.standalone import PROCFILE, from_here, standalone
from pipeline.local.supervisor import Supervisor
from pipeline.ops.sweeps import Progress
from pipeline.settings import Settings, get_settings

#: Seconds until the processes must be ready, and until every job and both sweeps must have ended.
READY_TIMEOUT, JOBS_TIMEOUT, SWEEPS_TIMEOUT = 60.0, 60.0, 60.0

#: Seconds in which the last stage's line of a job must follow its result.
LINE_TIMEOUT = 5.0

REDIRECT_QUEUE = "DemoCovers"

SHEET_REMARKS = ("Large: 800x800, at half its size.", "The others are shown pixel for pixel.")


def run(data_dir: Path, console: Console) -> bool:
    """Run it, with all it writes in `data_dir`; returns whether every outcome was the expected one.

    Raises:
        EmbeddedStackError: the servers or the processes cannot run.
    """
    secret, signing_secret = secrets.token_hex(8), "whsec_" + "ZGVt" * 8
    _leave_out_own_settings()
    os.environ.update(
        ALLOWED_NETWORKS="127.0.0.0/8",  # the covers and the receiver of postbacks are on this machine
        POSTBACK_SECRET_KEY=secret,
        POSTBACK_SIGNING_SECRET=signing_secret,
        LEVEL="INFO",
        **_no_scheduled_sweeps(),
    )
    arrivals = Arrivals()
    data_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack, ThreadPoolExecutor(1) as drawing:
        drawn = drawing.submit(samples.make)
        with _step(console, "Servers for SQS, S3 and MongoDB run; queues and bucket are made"):
            variables = stack.enter_context(standalone(data_dir, persist=False))
        covers = drawn.result()
        covers_url = stack.enter_context(cover_server(covers))
        postback_url = stack.enter_context(postback_server(signing_secret, _checking(secret, arrivals)))
        jobs = scenario.make(covers, covers_url, postback_url, REDIRECT_QUEUE)
        log = WorkerLog(data_dir / "workers.log")
        with _step(console, "The Procfile's processes are ready"):
            supervisor = stack.enter_context(Supervisor(PROCFILE, log))
            supervisor.start()
            if not _wait_until(lambda: log.ready >= set(supervisor.names), READY_TIMEOUT):
                late = ", ".join(sorted(set(supervisor.names) - log.ready))
                raise EmbeddedStackError(f"{late}: not ready after {READY_TIMEOUT:g} s; {from_here(log.path)} says why")
        stack.enter_context(_redirect_receiver(arrivals))
        board = Board(jobs, log)
        live = Live(board, console=console, refresh_per_second=12, transient=True)
        with live, _sending(jobs, variables["QUEUE_URL"], arrivals):
            _wait_for_all(jobs, log, arrivals)
        console.print(board)
        console.print(whereabouts(jobs))
        console.print()
        documents = sweeps.make(covers, covers_url)
        with _step(console, "Sweeps of MongoDB's channels and episodes have ended"):
            progress = sweeps.sweep(documents, SWEEPS_TIMEOUT)
        console.print(ledger(documents, progress))
        with console.status("Looking at what landed in S3 …"):
            stored, wrong = _examine(jobs, documents, progress, log)
            picture = data_dir / "contact-sheet.png"
            sheet.draw(list(_cards(jobs, stored)), "What landed\nin S3", SHEET_REMARKS).save(picture)
        console.print(f"[bold]Contact sheet[/]  {from_here(picture)}", highlight=False, soft_wrap=True)
        _say(wrong, jobs, documents, log, console)
        stack.enter_context(console.status("Stopping …"))
        return not wrong


def _leave_out_own_settings() -> None:
    """What this environment says of our settings is not for the demo, whose outcomes must be exact."""
    for name in [*Settings.model_fields, "environment"]:
        for spelling in (name, name.upper()):
            os.environ.pop(spelling, None)


def _no_scheduled_sweeps() -> dict[str, str]:
    """Half a day from now is early enough for the scheduler: the demo starts its sweeps itself."""
    hour = (datetime.now().astimezone().hour + 12) % 24
    return dict.fromkeys(["SWEEP_CHANNELS_CRON", "SWEEP_EPISODES_CRON"], f"0 {hour} * * *")


@contextmanager
def _step(console: Console, done: str) -> Iterator[None]:
    """Say that something is going on, and then that it is done and how long it took."""
    started = time.monotonic()
    with console.status(f"{done} …"):
        yield
    console.print(f"[green]✓[/] {done} [dim]{time.monotonic() - started:.1f} s[/]", highlight=False)


def _wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return true


def _checking(secret: str, arrivals: Arrivals) -> Callable[[Postback], None]:
    """Takes postbacks as a receiver should: only with the secret and a good signature."""

    def take(postback: Postback) -> None:
        complaints = []
        if postback.body.get("postback_secret_key") != secret:
            complaints.append("its postback has a wrong secret")
        if not postback.signature_is_good:
            complaints.append("its postback has no good signature")
        arrivals.take(postback.webhook_id, postback.body, *complaints)

    return take


@contextmanager
def _redirect_receiver(arrivals: Arrivals) -> Iterator[None]:
    url = aws.sqs().create_queue(QueueName=REDIRECT_QUEUE)["QueueUrl"]
    enough = threading.Event()
    receiver = threading.Thread(target=scenario.receive, args=[url, enough, arrivals], name="redirect", daemon=True)
    receiver.start()
    try:
        yield
    finally:
        enough.set()
        receiver.join()


@contextmanager
def _sending(jobs: Sequence[DemoJob], queue_url: str, arrivals: Arrivals) -> Iterator[None]:
    """Send every job. Those sent by a command have it running for as long as the context."""
    with ExitStack() as commands:
        for job in sorted(jobs, key=lambda job: job.way != COMMAND):  # a command takes a second to start
            if job.way == COMMAND:
                commands.enter_context(scenario.submit(job, os.environ, arrivals))
            else:
                scenario.send(job, queue_url)
        yield


def _wait_for_all(jobs: Sequence[DemoJob], log: WorkerLog, arrivals: Arrivals) -> None:
    """Wait until each job has its result, and the last stage its line about it."""

    def all_ended() -> bool:
        for job in jobs:
            job.arrival = job.arrival or arrivals.get(job.job_id)
        return all(job.arrival for job in jobs)

    _wait_until(all_ended, JOBS_TIMEOUT)
    _wait_until(lambda: all(log.has_ended(job) for job in jobs if job.arrival), LINE_TIMEOUT)


def _examine(
    jobs: Sequence[DemoJob], documents: Sequence[DemoDocument], progress: Mapping[str, Progress], log: WorkerLog
) -> tuple[dict[str, dict[str, list[Stored]]], list[str]]:
    """What landed in S3 by the names of the jobs, and everything that is not as expected."""
    settings = get_settings()
    stored = {job.name: verdict.fetch_back(job.infos) for job in jobs}
    letters = verdict.dead_letters(settings)
    wrong = [
        f"{job.name}: {difference}"
        for job in jobs
        for difference in verdict.differences(job, stored[job.name], letters.pop(job.job_id, None), settings)
    ]
    wrong += sweep_verdict.differences(documents, progress, letters, log.knows, settings)
    wrong += [f"A dead letter that nobody expected: {letter}" for letter in letters.values()]
    return stored, wrong


def _say(
    wrong: Sequence[str], jobs: Sequence[DemoJob], documents: Sequence[DemoDocument], log: WorkerLog, console: Console
) -> None:
    if not wrong:
        expected = [each.expected for each in jobs] + [each.expected for each in documents]
        failures = sum(isinstance(outcome, Failure) for outcomes in expected for outcome in outcomes.values())
        console.print(
            f"[bold green]All {len(jobs)} jobs and {len(documents)} documents are as expected, "
            f"the {failures} failures included.[/]"
        )
        return
    console.print("[bold red]Not everything came out as it should:[/]")
    for line in wrong:
        console.print(Text(f"  {line}", style="red"), soft_wrap=True)
    console.print(f"What the processes said is in {from_here(log.path)}.", highlight=False, soft_wrap=True)


def _cards(jobs: Sequence[DemoJob], stored: Mapping[str, Mapping[str, Sequence[Stored]]]) -> Iterator[sheet.Card]:
    for job in jobs:
        result = job.arrival.result if job.arrival else {}
        for name, outcome in job.expected.items():
            title = outcome.title if isinstance(outcome, Sample) else job.name
            renditions = [(each.name, each.image) for each in stored[job.name].get(name, [])]
            error = result.get(f"{name}_error") or {"code": "nothing", "message": "Nothing was found of this cover."}
            yield sheet.Card(
                title,
                f"{outcome.about}, by {job.way}",
                renditions,
                None if renditions else (error["code"], error["message"]),
            )
