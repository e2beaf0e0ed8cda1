"""The command `image-pipeline version`."""

from __future__ import annotations

import typer

from pipeline.cli.output.terminal import new_app
from pipeline.version import version as installed

app = new_app()


@app.command()
def version() -> None:
    """Show the version."""
    typer.echo(f"image-pipeline {installed()}")
