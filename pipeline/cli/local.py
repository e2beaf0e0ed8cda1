"""The command `image-pipeline local`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.output.terminal import console, fail, interruptible, new_app
from pipeline.local.embedded import DATA_DIR, EmbeddedStackError
from pipeline.local.run import parse_concurrency, run

app = new_app()


@app.command()
def local(
    concurrency: Annotated[
        str,
        typer.Option(
            "--concurrency", "-c", metavar="TYPE=N,...", help="Processes per type: resize=4,fetch=2. The default is 1."
        ),
    ] = "",
    data_dir: Annotated[
        Path | None, typer.Option(help="The folder for all data. The default is .data in the checkout, or here.")
    ] = None,
) -> None:
    """Run the whole service on this machine alone, until Ctrl-C.

    Starts servers for SQS, S3 and MongoDB, provisions them, and runs the processes of the Procfile. Prints how a
    second terminal uses it. Queues, objects and documents are kept for the next start if the command
    can shut down in order.
    """
    try:
        numbers = parse_concurrency(concurrency)
        with interruptible():
            run(data_dir or DATA_DIR, numbers, console)
    except (EmbeddedStackError, ValueError) as error:
        fail(error)
    except KeyboardInterrupt:
        console.print("Everything has stopped.")
