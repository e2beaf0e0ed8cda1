"""A second SQS, written by other authors: moto's server."""

from __future__ import annotations

import http.client

from pipeline.local.embedded import Server
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
