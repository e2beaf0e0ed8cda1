"""A second SQS, written by other authors: moto's server."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.local.embedded import Server, locked
from pipeline.local.supervisor import command_line


class Moto(Server):
    name = "moto_server"

    def command(self) -> str:
        return command_line(self._program, "-H", "127.0.0.1", "-p", str(self.port))

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/moto-api/data.json")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@contextmanager
def second_sqs(folder: Path) -> Iterator[str]:
    """Run the server; yield its endpoint."""
    with locked(folder) as lock:
        server = Moto(folder, folder, lock)
        server.launch()
        try:
            server.wait_until_it_answers()
            yield f"http://127.0.0.1:{server.port}"
        finally:
            server.stop(0)
