"""The command `image-pipeline resume`."""

from __future__ import annotations

from pipeline.cli.output.terminal import console, new_app
from pipeline.cli.pause import Stage, check_stage
from pipeline.clients import mongo
from pipeline.monitoring import pauses

app = new_app()


@app.command()
def resume(stage: Stage) -> None:
    """Let processes take messages of a paused stage again."""
    check_stage(stage)
    with mongo.within():
        pauses.resume(stage)
    console.print(f"{stage} goes on: processes follow within seconds.", highlight=False)
