"""Runs the whole service on this machine: the embedded stack and the processes of the Procfile."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pipeline.local.demo.samples import make
from pipeline.local.demo.web import cover_server
from pipeline.local.embedded import EmbeddedStackError, note
from pipeline.local.standalone import PROCFILE, from_here, standalone
from pipeline.local.supervisor import Supervisor

#: The file in the data folder with the variables for a second terminal. It exists while the service runs.
ENV_FILE = "local.env"

#: Variables of this environment that `check` in a second terminal needs too. Secrets must not be listed here.
INHERITED = ("ALLOWED_NETWORKS",)

#: The networks that fetch and postbacks may reach here, unless ALLOWED_NETWORKS is set: this machine.
LOOPBACK = "127.0.0.0/8"

#: The sample cover of the command that is printed; the service serves all samples of the demo itself.
COVER = "night-train.jpg"

#: The dashboard listens on the first free port of these.
DASHBOARD_PORTS = range(8480, 8580)


def parse_concurrency(text: str) -> dict[str, int]:
    """Parse `resize=4,fetch=2` as numbers of processes by type.

    Raises:
        ValueError: The text has another form, or names a type that is not in the Procfile.
    """
    numbers = {}
    for item in filter(None, text.split(",")):
        name, _, number = (part.strip() for part in item.partition("="))
        if not (name and number.isascii() and number.isdigit()):
            raise ValueError(f"{item!r} does not have the form resize=4")
        numbers[name] = int(number)
    Supervisor(PROCFILE, lambda *_: None, concurrency=numbers)  # validates the types, and starts nothing
    return numbers


def run(data_dir: Path, concurrency: Mapping[str, int], console: Console) -> None:
    """Run the service until a signal raises KeyboardInterrupt, then stop all processes.

    Raises:
        EmbeddedStackError: The stack cannot run.
    """
    console.print("Starting the embedded servers …", style="dim")
    os.environ["ALLOWED_NETWORKS"] = os.environ.get("ALLOWED_NETWORKS") or LOOPBACK
    with (
        standalone(data_dir, persist=True) as variables,  # first, because it refuses a folder in use
        cover_server(make()) as covers,
        _env_file(data_dir / ENV_FILE, variables) as env_file,
    ):
        port = _dashboard_port()
        shown = variables | {"DASHBOARD": f"http://127.0.0.1:{port}/", "COVER": f"{covers}{COVER}"}
        note(data_dir, shown["DASHBOARD"])
        _explain(console, shown, data_dir, env_file)
        extra = {"dashboard": f"LEVEL=${{LEVEL:-INFO}} image-pipeline dashboard --port {port}"}
        printer = partial(print_line, console)
        with Supervisor(PROCFILE, printer, concurrency=concurrency, extra=extra, cwd=data_dir) as supervisor:
            supervisor.start()
            threading.Event().wait()


def _dashboard_port() -> int:
    for port in DASHBOARD_PORTS:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise EmbeddedStackError(f"no port from {DASHBOARD_PORTS[0]} to {DASHBOARD_PORTS[-1]} is free for the dashboard")


def print_line(console: Console, name: str, text: str) -> None:
    """Print a line of a process after its name. Never raises, so that a closed pipe does not end the service."""
    with suppress(OSError):
        console.print(Text.assemble((f"{name:<11} |", "cyan"), " ", text), soft_wrap=True)


@contextmanager
def _env_file(path: Path, variables: Mapping[str, str]) -> Iterator[Path]:
    """Write the variables to a file for a shell, and remove it at the end."""
    values = {**{name: os.environ[name] for name in INHERITED if name in os.environ}, **variables}
    path.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()), encoding="utf-8")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _explain(console: Console, variables: Mapping[str, str], data_dir: Path, env_file: Path) -> None:
    """Print the addresses of the service, and how to use it from another terminal."""
    where = {
        "Dashboard": variables["DASHBOARD"],
        "SQS and S3": variables["AWS_ENDPOINT_URL"],
        "MongoDB": variables["MONGO_URL"],
        "QUEUE_URL": variables["QUEUE_URL"],
        "S3_BUCKET": variables["S3_BUCKET"],
        "Data": f"{from_here(data_dir)}, kept for the next start",
    }
    lines = [
        "[bold]The service is running on this machine. Ctrl-C stops it.[/]",
        "",
        *(f"  {name:<11} {value}" for name, value in where.items()),
        "",
        "[bold]In a second terminal[/]",
        "",
        f"  set -a; . {shlex.quote(from_here(env_file))}; set +a",
        f"  {_command()} submit --wait {variables['COVER']}",
        f"  {_command()} status --watch",
        "",
    ]
    networks = os.environ["ALLOWED_NETWORKS"]
    lines += [f"Images and postbacks may be at public addresses, and in ALLOWED_NETWORKS={networks}.", ""]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _command() -> str:
    """Return the command that starts `image-pipeline` in a terminal with the same PATH."""
    installed = Path(sys.executable).parent / "image-pipeline"
    found = shutil.which(installed.name)
    if found and Path(found).resolve() == installed.resolve():
        return installed.name
    return shlex.quote(from_here(installed))
