"""The command `image-pipeline provision`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.output.terminal import console, new_app
from pipeline.clients import aws
from pipeline.ops.provision import UnsupportedChange, plan
from pipeline.settings import get_settings

app = new_app()


@app.command()
def provision(
    create_bucket: Annotated[bool, typer.Option("--create-bucket", help="Create S3_BUCKET if it is missing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the changes.")] = False,
) -> None:
    """Create the queues with their dead-letter queues, and the lifecycle rule that empties staging.

    If a MongoDB variable is set, it also creates the indexes of the state of sweeps and of known sources. If
    JOBS_MONGO_URL is set, it creates the indexes of the job log.

    You can run it again at any time: it compares what exists and changes only what differs. Other lifecycle rules of
    the bucket are kept.
    """
    count = 0
    for change in plan(get_settings(), create_bucket=create_bucket):
        count += 1
        if dry_run:
            console.print(f"[yellow]would[/] {change.message}", highlight=False)
            continue
        try:
            with aws.aws_errors("aws", change.message):
                change.apply()
        except UnsupportedChange as unsupported:
            console.print(f"[yellow]by hand[/] {unsupported}", highlight=False)
            continue
        console.print(f"[green]done[/]  {change.message}", highlight=False)
    if not count:
        console.print("Everything exists already; nothing was changed.")
