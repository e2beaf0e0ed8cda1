"""The command `image-pipeline pause`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.output.terminal import console, new_app
from pipeline.clients import mongo
from pipeline.monitoring import pauses
from pipeline.monitoring.pauses import PAUSABLE

app = new_app()

Stage = Annotated[str, typer.Argument(metavar="STAGE", help=f"One of {', '.join(PAUSABLE)}.")]


@app.command()
def pause(stage: Stage) -> None:
    """Let no process take more messages of a stage, until it is resumed. Needs the job log.

    Processes finish the messages that they have. Messages wait in SQS, which keeps them for 14 days.
    """
    check_stage(stage)
    with mongo.within():
        pauses.pause(stage)
    console.print(
        f"{stage} is pausing: processes follow within half a minute. `image-pipeline status` says when all have, and "
        f"`image-pipeline resume {stage}` ends it.",
        highlight=False,
    )


def check_stage(stage: str) -> None:
    if stage not in PAUSABLE:
        raise typer.BadParameter(f"{stage!r} is not one of {', '.join(PAUSABLE)}", param_hint="STAGE")
