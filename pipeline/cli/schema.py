"""The command `image-pipeline schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.output.terminal import new_app
from pipeline.ops.schema import DOCUMENTS, text_of

app = new_app()


@app.command()
def schema(
    name: Annotated[str | None, typer.Argument(help=f"One of {', '.join(DOCUMENTS)}.")] = None,
    *,
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            writable=True,
            help="Write every document to this folder instead.",
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of messages, results or postbacks, or the AsyncAPI document of all channels."""
    if (name is None) == (write is None):
        raise typer.BadParameter(f"name one of {', '.join(DOCUMENTS)}, or pass --write FOLDER")
    if write:
        for each in DOCUMENTS:
            (write / f"{each}.json").write_text(text_of(each), encoding="utf-8")
    elif name in DOCUMENTS:
        typer.echo(text_of(name), nl=False)
    else:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(DOCUMENTS)}", param_hint="NAME")
