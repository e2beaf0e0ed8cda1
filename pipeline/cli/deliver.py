"""The command `image-pipeline deliver`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from pipeline.cli.output.terminal import console, fail, new_app
from pipeline.clients import mongo
from pipeline.ops import results
from pipeline.ops.results import NoResult

app = new_app()


@app.command()
def deliver(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The id of an ended job, or its beginning.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Deliver it without asking.")] = False,
) -> None:
    """Deliver the result of an ended job again, to the same receivers and under a new id.

    Needs the job log, and KEEP_RESULTS_DAYS when the job ended. The exit status is 1 if no result is kept.
    """
    try:
        with mongo.within():
            ids = results.find(job)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="JOB") from None
    if len(ids) != 1:
        fail(f"More than one job's id begins with {job!r}: write more of it." if ids else NoResult(job), status=1)
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Deliver the result of {ids[0]} again?")):
        console.print("Nothing was sent." if sys.stdin.isatty() else "Nothing was sent: --yes sends it.")
        return
    report_id = results.deliver_again(ids[0])
    console.print(f"The result is delivered again as [bold]{escape(report_id)}[/].", highlight=False)
