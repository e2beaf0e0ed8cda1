"""The command `image-pipeline dashboard`."""

from __future__ import annotations

import logging
import socket
import sys
from typing import Annotated

import typer

from pipeline.monitoring.logs import TEXT_FORMAT, set_up
from pipeline.settings import SettingsError, get_settings


def dashboard(
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 8480,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A name that browsers call it by, behind a proxy for example.", metavar="HOST"),
    ] = None,
) -> None:
    """Serve the web page: the stages, the latest jobs, failures by cause with a redrive, sweeps, and a box to submit.

    It listens on this machine alone. Any other address needs the variable DASHBOARD_TOKEN, which visitors then give
    once, or programs as `Authorization: Bearer`. Put TLS before it: a proxy that keeps the Host header.
    """
    import uvicorn  # noqa: PLC0415 - slow to import, and needed by no other command

    from pipeline.dashboard.app import make_app, server_config  # noqa: PLC0415
    from pipeline.dashboard.auth import Access, is_loopback  # noqa: PLC0415

    settings = get_settings()
    token = settings.dashboard_token
    if token is None and not is_loopback(host):
        raise SettingsError(
            f"--host {host} is reached from other machines: set DASHBOARD_TOKEN, 16 characters or more."
        )
    logging.basicConfig(level=logging.INFO, format=TEXT_FORMAT, stream=sys.stderr)
    set_up(settings)
    app = make_app(settings, Access.for_host(host, token, name or ()))
    with _listening(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        logging.getLogger(__name__).info("The dashboard: http://%s:%d/", shown, port)
        uvicorn.Server(server_config(app)).run([listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # what Python adds names the address again
        raise typer.BadParameter(f"{host}:{port} cannot be listened on: {reason}.", param_hint="--port") from None
