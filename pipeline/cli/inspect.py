"""The command `image-pipeline inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.output import inspection
from pipeline.cli.output.terminal import console, fail, interruptible, new_app, print_error
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

    A file that cannot be read does not keep the others from being shown.

    The exit status is 1 if the service would refuse one of the covers, and 2 if a file cannot be read or written.
    """
    for_sheet: list[Inspection] = []
    status = 0
    try:
        with interruptible():
            for source in sources:
                try:
                    found = inspect(source)
                except OSError as error:
                    print_error(error)
                    status = 2
                    continue
                status = max(status, 1 if found.refusal else 0)
                if sheet:  # without one, renditions of many covers need not stay in memory
                    for_sheet.append(found)
                _show(found, as_json=as_json)
            if sheet and for_sheet:
                inspection.contact_sheet(for_sheet).save(sheet, "PNG")
    except OSError as error:
        fail(error)
    raise typer.Exit(status)


def _show(found: Inspection, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(inspection.as_json(found), ensure_ascii=False))
    else:
        console.print(inspection.drawn(found))
