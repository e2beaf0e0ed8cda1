"""The command `image-pipeline inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.output import inspection
from pipeline.cli.output.terminal import console, fail, interruptible, new_app
from pipeline.ops.inspect import Inspection, inspect

app = new_app()


@app.command("inspect")
def inspect_covers(
    sources: Annotated[list[str], typer.Argument(metavar="URL|FILE", help="Covers: http or https URLs, or files.")],
    *,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw all renditions as one picture, a PNG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, one for each cover.")] = False,
) -> None:
    """Show what the service makes of covers, by their URLs or files, without queues, S3 or settings.

    Each cover is downloaded through the address guard, rendered in the sandbox, and thrown away. Passwords and queries
    of URLs are not shown. Settings such as `RENDITIONS` and `ALLOWED_NETWORKS` apply if they are set.

    The exit status is 1 if the service would refuse one of the covers, and 2 if a file cannot be read or written.
    """
    found: list[Inspection] = []
    try:
        with interruptible():
            for source in sources:
                found.append(inspect(source))
                if as_json:
                    typer.echo(json.dumps(inspection.as_json(found[-1]), ensure_ascii=False))
                else:
                    console.print(inspection.drawn(found[-1]))
            if sheet:
                inspection.contact_sheet(found).save(sheet, "PNG")
    except OSError as error:
        fail(error)
    if any(each.refusal for each in found):
        raise typer.Exit(1)
