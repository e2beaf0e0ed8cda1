"""The command `image-pipeline retry`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.output.terminal import console, new_app
from pipeline.cli.status import find_id
from pipeline.clients import mongo
from pipeline.monitoring import orders
from pipeline.monitoring.orders import KINDS

app = new_app()


@app.command()
def retry(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"One of {', '.join(KINDS)}.")],
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE",
            help="The id of a job or its beginning, the URL of a receiver (a query is ignored), the name of a host, or "
            "the code of the last error.",
        ),
    ],
) -> None:
    """Let jobs that wait for a retry try now, by job, endpoint, host or error code.

    Use it when a receiver, a host or a service works again. The jobs follow within two minutes, because each looks
    about once a minute. If more than 1,200 wait for each process, it takes up to 15 minutes. Each is tried once, as the
    attempt that it waited for, and circuits that rest the host close. Needs the job log.
    """
    if kind == "job":
        value = find_id(value)
    try:
        with mongo.within():
            order = orders.try_now(kind, value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    console.print(f"Jobs that wait for the {kind} {order.value} follow within two minutes.", markup=False)
