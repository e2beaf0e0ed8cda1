"""The command line, `image-pipeline`. Each command does one thing and says what it did."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from pipeline.cli import check as check_commands
from pipeline.cli import dashboard as dashboard_command
from pipeline.cli import dead as dead_commands
from pipeline.cli import status as status_command
from pipeline.cli import sweep as sweep_commands
from pipeline.cli.signals import until_a_signal
from pipeline.errors import PipelineError
from pipeline.monitoring.logs import TEXT_FORMAT, set_up
from pipeline.settings import SettingsError, get_settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Podcast covers from any feed to every size your apps need, in four SQS-backed stages.",
    epilog="Settings are environment variables; docs/configuration.md lists them.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(sweep_commands.app, name="sweep")
app.command()(status_command.status)
app.add_typer(dead_commands.app, name="dead")
app.command()(check_commands.check)
app.command()(dashboard_command.dashboard)
console = Console()
complaints = Console(stderr=True)

#: Errors whose cause may be in the settings.
SET_UP = {"aws_error", "sqs_error", "s3_error", "mongo_error"}

#: Seconds that `ingest` gives its batch in hand when it is told to stop: honcho kills after five.
STOP_GRACE = 3.0


def main() -> None:
    """Run the command line; what a person can mend is said in one sentence, without a traceback."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a mark that the terminal does not have ends nothing
    try:
        app()
    except (SettingsError, PipelineError) as error:
        status = _complain(error)
        if isinstance(error, PipelineError) and error.code in SET_UP:
            complaints.print("`image-pipeline check` says what is set up wrong, if anything is.")
        sys.exit(status)
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell says of what Ctrl-C ended


@app.command()
def ingest() -> None:
    """Take raw JSON messages from QUEUE_URL and hand them to the fetch stage, until stopped.

    What is no acceptable message goes to the queue `<QUEUE_NAMESPACE>_ingest_dlq` with its reason.
    """
    _log_as_process()
    told_to_stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: told_to_stop.set())
    logger = logging.getLogger("pipeline.worker.ingest")
    queue_url = get_settings().queue_url
    from pipeline.worker.instrumentation import serve_ingest  # noqa: PLC0415 - boto3 is slow to import

    if not queue_url:  # the Procfile's processes end together: one that has nothing to do waits
        logger.warning("QUEUE_URL is not set: ingest is off. Name the input queue there.")
        serve_ingest(None, lambda: True)
        told_to_stop.wait()
        return
    import pipeline.actors  # noqa: PLC0415, F401 - builds the broker and declares the actors, which no other command needs
    from pipeline.monitoring.recorders import recording  # noqa: PLC0415
    from pipeline.worker.ingest import Ingest  # noqa: PLC0415

    taking = Ingest(queue_url)
    thread = threading.Thread(target=taking.run, name="ingest", daemon=True)
    with recording(get_settings()):
        thread.start()
        serve_ingest(taking, thread.is_alive)
        logger.info("Taking messages from %s.", get_settings().input_queue_name)
        told_to_stop.wait()
        taking.stop()
        thread.join(STOP_GRACE)  # a long poll in hand is left to end with the process


@app.command()
def provision(
    create_bucket: Annotated[bool, typer.Option("--create-bucket", help="Create S3_BUCKET if it is missing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Create the queues with their dead-letter queues, and the lifecycle rule that empties staging.

    With a MongoDB variable set, also the two indexes of the collection that the sweeps keep their state in; with
    JOBS_MONGO_URL, the four of the job log.

    Safe to repeat: what is there is compared, and only what differs is changed. The bucket's other lifecycle rules
    are kept.
    """
    from pipeline.clients import aws  # noqa: PLC0415 - boto3 is slow to import
    from pipeline.ops.provision import plan  # noqa: PLC0415

    count = 0
    for step in plan(get_settings(), create_bucket=create_bucket):
        count += 1
        if dry_run:
            console.print(f"[yellow]would[/] {step.says}", highlight=False)
            continue
        with aws.aws_errors("aws", step.says):
            step.do()
        console.print(f"[green]done[/]  {step.says}", highlight=False)
    if not count:
        console.print("Everything is there already.")


@app.command()
def submit(
    urls: Annotated[list[str] | None, typer.Argument(metavar="URL", help="Images, a job for each.")] = None,
    *,
    folder: Annotated[str | None, typer.Option(help="The folder in S3 (bucket_name).", metavar="NAME")] = None,
    postback_url: Annotated[str | None, typer.Option(help="Where results are posted.", metavar="URL")] = None,
    redirect_queue: Annotated[
        str | None, typer.Option(help="The SQS queue that gets the results.", metavar="NAME")
    ] = None,
    file: Annotated[
        typer.FileText | None,
        typer.Option(
            help="Full payloads, a JSON object on each line; - for standard input.", metavar="FILE", encoding="utf-8"
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the results, on a queue made for that, and show them.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait at the most.", metavar="SECONDS", min=1, max=43200)
    ] = 120,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines: each job when sent, and its end.")] = False,
) -> None:
    """Send images through the pipeline: to QUEUE_URL if it is set, else straight to the fetch stage.

    All jobs are checked before the first is sent. The options for folder, postback and redirect hold for each line of
    a file that does not say otherwise.

    With --wait, the exit status is 1 if an image failed or has no result in time. The workers then need the right to
    send to the queue `<QUEUE_NAMESPACE>_submit_<random>`, which is deleted at the end.
    """
    from pipeline.cli.submit_report import Report  # noqa: PLC0415
    from pipeline.ops import submit as jobs  # noqa: PLC0415 - boto3 is slow to import

    common = {"bucket_name": folder, "postback_url": postback_url, "redirect_queue": redirect_queue}
    queue_name = jobs.queue_name() if wait else None
    try:
        if wait and redirect_queue:
            raise jobs.SubmitError("--wait receives the results itself: leave out --redirect-queue.")
        lines = jobs.numbered_lines(file) if file else {}
        submissions = jobs.read(urls or [], lines, {name: value for name, value in common.items() if value})
        jobs.check(submissions, waiting_on=queue_name)
    except jobs.SubmitError as error:
        _give_up(error)
    with until_a_signal(), Report(console, len(submissions), as_json=as_json, waiting=wait) as report:
        if queue_name:
            with jobs.result_queue(queue_name) as url:
                jobs.send(submissions, report.sent)
                jobs.wait(submissions, url, timeout, report.ended)
        else:
            jobs.send(submissions, report.sent)
    report.summary(submissions)
    if any(job.status not in {"sent", "done"} for job in submissions):
        raise typer.Exit(1)


@app.command()
def local(
    concurrency: Annotated[
        str,
        typer.Option(
            "--concurrency", "-c", metavar="TYPE=N,...", help="Processes of a type: resize=4,fetch=2. Each has one."
        ),
    ] = "",
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept; by default .data.")] = None,
) -> None:
    """Run the whole service on this machine alone, until Ctrl-C.

    Starts servers for SQS, S3 and MongoDB, creates what the service needs there, and runs the Procfile's processes. It
    says what a second terminal needs to use it. Queues, objects and documents are kept for the next time where it is
    left to end in order.
    """
    from pipeline.local.embedded import DATA_DIR, EmbeddedStackError  # noqa: PLC0415
    from pipeline.local.run import parse_concurrency, run  # noqa: PLC0415

    try:
        numbers = parse_concurrency(concurrency)
        with until_a_signal():
            run(data_dir or DATA_DIR, numbers, console)
    except (EmbeddedStackError, ValueError) as error:
        _give_up(error)
    except KeyboardInterrupt:
        console.print("Everything has ended.")


@app.command()
def demo() -> None:
    """Run sample covers through the whole pipeline on this machine, and check every outcome.

    Starts the embedded servers and the Procfile's processes, sends a job by each way in, sweeps a few documents, and
    shows how each went, with a picture of what landed in S3. The exit status is 0 only if all came out as it should.
    """
    from pipeline.local.demo.run import run  # noqa: PLC0415
    from pipeline.local.embedded import DATA_DIR, EmbeddedStackError  # noqa: PLC0415

    try:
        with until_a_signal():
            good = run(DATA_DIR / "demo", console)
    except EmbeddedStackError as error:
        _give_up(error)
    if not good:
        raise typer.Exit(1)


def _complain(error: Exception) -> int:
    """Say what is wrong; returns the exit status for it."""
    complaints.print("[bold red]error:[/]", Text(str(error)), highlight=False, soft_wrap=True)
    return 2


def _give_up(error: Exception) -> NoReturn:
    raise typer.Exit(_complain(error)) from None


def _log_as_process() -> None:
    """Logging for a long-running process, as dramatiq's own processes have it."""
    logging.basicConfig(level=logging.INFO, format=TEXT_FORMAT, stream=sys.stderr)
    set_up(get_settings())


if __name__ == "__main__":
    main()
