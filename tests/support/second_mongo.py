"""A second MongoDB, written by others: nx-27017, which keeps documents in SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from pipeline.local.embedded import Server, locked
from pipeline.local.supervisor import command_line


class Nx27017(Server):
    name = "nx-27017"

    def command(self) -> str:
        address = ("--host", "127.0.0.1", "--port", str(self.port))
        files = ("--log-file", self._folder / "log", "--pid-file", self._folder / "pid")
        return command_line(self._program, *address, *files, "--data-dir", "memory")

    def answers(self) -> bool:
        client: MongoClient[dict[str, object]]
        with MongoClient("127.0.0.1", self.port, serverSelectionTimeoutMS=2000, directConnection=True) as client:
            try:
                return bool(client.admin.command("ping")["ok"])
            except (PyMongoError, LookupError):
                return False


@contextmanager
def second_mongo(folder: Path) -> Iterator[str]:
    """Run the server; yield its URL without a database."""
    with locked(folder) as lock:
        server = Nx27017(folder, folder, lock)
        server.launch()
        try:
            server.wait_until_it_answers()
            yield f"mongodb://127.0.0.1:{server.port}/"
        finally:
            server.stop(0)
