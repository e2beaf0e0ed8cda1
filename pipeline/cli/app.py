"""The command line `image-pipeline`: lists the commands, and imports the module of a command when it is called."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from pipeline.cli.output.terminal import error_console, new_app, print_error
from pipeline.errors import Fault, PipelineError, SettingsError, facts_of
from pipeline.version import version

#: The commands with their help. Each is the `app` of the module `pipeline.cli.<name>`. Only `version` is defined here.
COMMANDS = {
    "ingest": "Receive raw JSON messages from QUEUE_URL and pass them to the fetch stage, until stopped.",
    "provision": "Create the queues with their dead-letter queues, and the lifecycle rule that empties staging.",
    "submit": "Send images through the pipeline: to QUEUE_URL if it is set, otherwise directly to the fetch stage.",
    "local": "Run the whole service on this machine alone, until Ctrl-C.",
    "inspect": "Show what the service makes of covers, by their URLs or files, without queues, S3 or settings.",
    "demo": "Run sample covers through the whole pipeline on this machine, and check every outcome.",
    "status": "Show waiting, in-flight, delayed and dead messages of each stage, its rate and its oldest job.",
    "config": "Show every setting: its value, or that it is secret, and where it came from.",
    "schema": "Print the JSON Schema of messages, results or postbacks, or the AsyncAPI document of all channels.",
    "check": "Check whether the service can work with these settings, and show how to fix what is wrong.",
    "dashboard": "Serve the web page: stages, latest jobs, failures by cause with a redrive, sweeps and a submit form.",
    "dead": "List dead letters (jobs that failed for good or were rejected), redrive them, or delete them.",
    "deliver": "Deliver the result of an ended job again, to the same receivers and under a new id.",
    "retry": "Let jobs that wait for a retry try now, by job, endpoint, host or error code.",
    "drop": "Drop jobs that wait for fetch, by folder, host or time of sending. Needs the job log.",
    "pause": "Let no process take more messages of a stage, until it is resumed. Needs the job log.",
    "resume": "Let processes take messages of a paused stage again.",
    "sweep": "Find documents in MongoDB whose covers changed, and send them through the pipeline.",
}


class LazyCommand(TyperCommand):
    """A command or a group of commands whose module is imported when it is called. Listing it needs only its help."""

    def load(self) -> Any:
        """Import the module, and return its command."""
        return get_command(import_module(f"pipeline.cli.{self.name}").app)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        return self.load().make_context(*args, **kwargs)


#: Exit statuses of all commands.
STATUSES = "Exit status: 0 done, 1 something failed or was not found, 2 wrong usage or setting, 130 interrupted."

app = new_app(
    epilog=f"Settings are environment variables; docs/configuration.md lists them.\n\n{STATUSES}", add_completion=True
)


def _show_version(wanted: bool) -> None:
    if wanted:
        show_version()
        raise typer.Exit


@app.callback()
def image_pipeline(
    *,
    _: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Podcast covers from any feed to every size your apps need, in four SQS-backed stages."""


for name, summary in COMMANDS.items():
    app.command(name, cls=LazyCommand, help=summary)(lambda: None)


@app.command("version")
def show_version() -> None:
    """Show the version."""
    typer.echo(f"image-pipeline {version()}")


def main() -> None:
    """Run the command line. Print errors that the user can fix as one sentence, without a traceback."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the terminal's encoding may lack a symbol
    status = _run()
    mongo = sys.modules.get("pipeline.clients.mongo")
    if mongo and mongo.has_failed:
        # At a normal exit, pymongo waits seconds for threads that wait for a MongoDB that does not answer.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    sys.exit(status)


def _run() -> int:
    """Run the command, and return its exit status."""
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (SettingsError, PipelineError) as error:
        print_error(error)
        if isinstance(error, PipelineError) and facts_of(error.code).fault is Fault.SERVICE:
            error_console.print("Run `image-pipeline check` to find wrong settings.")
        return 2
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as in a shell
    return 0
