"""The command line, `image-pipeline`. Each command does one thing and says what it did."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from typing import Annotated

import typer
from rich.console import Console

from pipeline.errors import PipelineError
from pipeline.logs import LOG_FORMAT, set_levels
from pipeline.settings import SettingsError, get_settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Podcast covers from any feed to every size your apps need, in four SQS-backed stages.",
    epilog="Settings are environment variables; the README lists them.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
complaints = Console(stderr=True)

#: Seconds that `ingest` gives its batch in hand when it is told to stop: honcho kills after five.
STOP_GRACE = 3.0


def main() -> None:
    """Run the command line; what a person can mend is said in one sentence, without a traceback."""
    try:
        app()
    except (SettingsError, PipelineError) as error:
        complaints.print(f"[bold red]error:[/] {error}", highlight=False)
        sys.exit(2)


@app.command()
def ingest() -> None:
    """Take raw JSON messages from QUEUE_URL and hand them to the fetch stage, until stopped.

    What is no acceptable message goes to the queue `<QUEUE_NAMESPACE>_ingest_dlq` with its reason.
    """
    _log_as_process()
    queue_url = get_settings().queue_url
    if not queue_url:
        raise SettingsError("QUEUE_URL is not set: ingest needs to know the input queue.")
    from pipeline.ingest import Ingest  # noqa: PLC0415 - declares the actors, which no other command needs

    taking = Ingest(queue_url)
    thread = threading.Thread(target=taking.run, name="ingest", daemon=True)
    told_to_stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: told_to_stop.set())
    thread.start()
    logging.getLogger("pipeline").info("Taking messages from %s.", queue_url.rsplit("/", 1)[-1])
    told_to_stop.wait()
    taking.stop()
    thread.join(STOP_GRACE)  # a long poll in hand is left to end with the process


@app.command()
def provision(
    create_bucket: Annotated[bool, typer.Option("--create-bucket", help="Create S3_BUCKET if it is missing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Create the queues with their dead-letter queues, and the lifecycle rule that empties staging.

    Safe to repeat: what is there is compared, and only what differs is changed. The bucket's other lifecycle rules
    are kept.
    """
    from pipeline import clients  # noqa: PLC0415 - boto3 is slow to import
    from pipeline.provision import plan  # noqa: PLC0415

    count = 0
    for step in plan(get_settings(), create_bucket=create_bucket):
        count += 1
        if dry_run:
            console.print(f"[yellow]would[/] {step.says}", highlight=False)
            continue
        with clients.aws_trouble("aws", step.says):
            step.do()
        console.print(f"[green]done[/]  {step.says}", highlight=False)
    if not count:
        console.print("Everything is there already.")


def _log_as_process() -> None:
    """Logging for a long-running process, as dramatiq's own processes have it."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    set_levels(get_settings())


if __name__ == "__main__":
    main()
