"""A second S3, written by others in another language: `rclone serve s3` on a folder."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.local.embedded import Server, locked
from pipeline.local.supervisor import command_line


class Rclone(Server):
    """Keeps each bucket as a folder."""

    name = "rclone"

    def command(self) -> str:
        options = ("--addr", f"127.0.0.1:{self.port}", "--auth-key", "embedded,embedded")
        return command_line(self._program, "serve", "s3", *options, "--config", "", self._folder)

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/")
            return (
                b"UnsupportedAlgorithm" in connection.getresponse().read()
            )  # its answer to a request without a signature
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@contextmanager
def second_s3(folder: Path) -> Iterator[str]:
    """Run the server; yield its endpoint."""
    with locked(folder) as lock:
        server = Rclone(folder, folder, lock)
        server.launch()
        try:
            server.wait_until_it_answers()
            yield f"http://127.0.0.1:{server.port}"
        finally:
            server.stop(0)
