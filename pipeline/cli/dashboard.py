"""The command `image-pipeline dashboard`."""

from __future__ import annotations

import logging
import socket
import sys
from typing import Annotated

import typer
import uvicorn

from pipeline.cli.output.terminal import new_app
from pipeline.dashboard.app import make_app, server_config
from pipeline.dashboard.auth import Access, is_loopback
from pipeline.errors import SettingsError
from pipeline.monitoring.logs import TEXT_FORMAT, set_up
from pipeline.settings import get_settings

app = new_app()


@app.command()
def dashboard(
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 8480,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A further host name that browsers use, behind a proxy for example.", metavar="HOST"),
    ] = None,
    https: Annotated[
        bool, typer.Option("--https", help="Browsers come over HTTPS: they send the cookie of a session over it only.")
    ] = False,
) -> None:
    """Serve the web page: stages, latest jobs, failures by cause with a redrive, sweeps and a submit form.

    Listens on this machine alone by default. Any other address needs the variable DASHBOARD_TOKEN. Browsers then log in
    with the token, and programs send it as `Authorization: Bearer`. Put it behind a proxy that terminates TLS and keeps
    the Host header, and add --https.
    """
    settings = get_settings()
    token = settings.dashboard_token
    if token is None and not is_loopback(host):
        raise SettingsError(
            f"--host {host} is reachable from other machines: set DASHBOARD_TOKEN to 16 characters or more."
        )
    logging.basicConfig(level=logging.INFO, format=TEXT_FORMAT, stream=sys.stderr)
    set_up(settings)
    site = make_app(settings, Access.for_host(host, token, name or (), https=https))
    with _listening(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        logging.getLogger(__name__).info("The dashboard: http://%s:%d/", shown, port)
        uvicorn.Server(server_config(site)).run([listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # Python adds the address in parentheses
        raise typer.BadParameter(f"Cannot listen on {host}:{port}: {reason}.", param_hint="--port") from None
