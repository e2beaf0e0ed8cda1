"""The command `image-pipeline demo`."""

from __future__ import annotations

import typer

from pipeline.cli.output.terminal import console, fail, interruptible, new_app
from pipeline.local.demo.run import run
from pipeline.local.embedded import DATA_DIR, EmbeddedStackError

app = new_app()


@app.command()
def demo() -> None:
    """Run sample covers through the whole pipeline on this machine, and check every outcome.

    Starts the embedded servers and the processes of the Procfile, sends jobs by each way in, and shows each result with
    a picture of the renditions in S3. The exit status is 0 only if every outcome is as expected.
    """
    try:
        with interruptible():
            good = run(DATA_DIR / "demo", console)
    except EmbeddedStackError as error:
        fail(error)
    if not good:
        raise typer.Exit(1)
