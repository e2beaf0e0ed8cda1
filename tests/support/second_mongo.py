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


#: The rules that nx-27017 0.8.1 does not keep, with the reason.
NO_PIPELINES = "it takes no list of stages as an update"
UNLIKE_MONGODB = {
    "$eq: a value may look like a query": "it cannot bind an object as a value",
    "$ne: null excludes a missing field": "for it a missing field is not null",
    "$ne: an object differs from another as a whole": "it cannot bind an object as a value",
    "$min: the earlier date stays; a missing field is created": "it replaces a date by a later one, and returns texts",
    "$exists: null exists": "for it a null does not exist",
    "$exists: a position in a list exists": "it does not look into lists",
    "$type: a list of strings is a string": "it does not look into lists",
    "$expr: two fields of a document; a missing one differs": "it compares a missing field as SQL's null, never true",
    "hint: a hint without its index is an error": "it ignores hints",
    "$cond: what is not an object becomes one": NO_PIPELINES,
    "$cond: an object is kept": NO_PIPELINES,
    "$literal: a value that looks like an expression stays": NO_PIPELINES,
    "$unset: a list of fields in a pipeline": NO_PIPELINES,
    "expireAfterSeconds: a TTL index is listed with its seconds": "its indexes have names of its own",
}
