"""The embedded stack for tests: real connections to real servers."""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from dramatiq import Worker
from pymongo import MongoClient
from pymongo.database import Database

from pipeline.clients import aws, lazy
from pipeline.local.embedded import REGION, EmbeddedStack
from pipeline.settings import Settings
from tests.support.healthy import provisioned, service  # noqa: F401 - fixtures
from tests.support.line import Line

Request = tuple[str, str, dict[str, str]]  #: method, path and headers

#: Milliseconds after which an idle thread of a worker looks whether it has to stop; dramatiq's default is a second.
SOON = 50

#: Seconds that deletes wait for a full batch; 3 in production. Tests often wait until a queue is empty.
DELETE_WAIT = 0.05

#: Seconds of a poll; 20 in production. A stop awaits the polls that are out.
LONG_POLL = 1


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """SQS, S3 and MongoDB, shared by the whole run."""
    with EmbeddedStack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture
def environment(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Set this test's environment, with its own queue names and bucket; yields the variables, for child processes.

    It has no MongoDB.
    The bucket accepts ACLs. All other settings of the developer's environment are unset.
    """
    yield from _environment(stack.environ | {"MONGO_URL": ""}, monkeypatch)


@pytest.fixture
def s3_that_answers(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int, str], list[Request]]]:
    """Replaces the stack's S3 by a server that answers every request with the same status and error code.

    Returns the list of the requests it received.
    """
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, code: str = "") -> list[Request]:
        asked: list[Request] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked.append((self.command, self.path, dict(self.headers)))
                body = f"<Error><Code>{code}</Code></Error>".encode() if code and self.command != "HEAD" else b""
                self.send_response(status)
                self.send_header("ETag", '"0"')
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = answer

            def log_message(self, *_: Any) -> None: ...

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=[0.05], daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{servers[-1].server_port}")
        lazy.forget()
        return asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def database(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database[dict[str, Any]]]:
    """Set the environment as `environment` does, plus this test's own database, which it yields."""
    for _ in _environment(stack.environ, monkeypatch):
        url = f"{stack.environ['MONGO_URL']}_{secrets.token_hex(4)}"
        monkeypatch.setenv("MONGO_URL", url)
        lazy.forget()
        with MongoClient[dict[str, Any]](url, tz_aware=True) as client:
            yield client.get_default_database()


@pytest.fixture
def job_log(database: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Database[dict[str, Any]]:
    """Keep a job log in this test's database."""
    monkeypatch.setenv("JOBS_MONGO_URL", os.environ["MONGO_URL"])
    lazy.forget()
    return database


@pytest.fixture
def line(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """The line to SQS."""
    with Line(int(environment["AWS_ENDPOINT_URL"].rpartition(":")[2])) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{line.port}")
        lazy.forget()
        yield line


@contextmanager
def worker_of(*stages: str, threads: int = 1) -> Iterator[Worker]:
    """Run a worker in this process for the queues of these stages in this test's namespace."""
    from pipeline.actors import broker

    worker = Worker(broker, queues=set(stages), worker_threads=threads, worker_timeout=SOON)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def _environment(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    unique = secrets.token_hex(4)
    environ = variables | {
        "QUEUE_NAMESPACE": f"test-{unique}",
        "S3_BUCKET": f"test-{unique}",
        "METRICS_PORT": "0",  # tests of the endpoint set a port
    }
    for name in [*Settings.model_fields, "environment"]:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for module in ("pipeline.sqs.consumer", "pipeline.worker.ingest"):
        monkeypatch.setattr(f"{module}.DELETE_WAIT", DELETE_WAIT)
        monkeypatch.setattr(f"{module}.LONG_POLL", LONG_POLL)
    monkeypatch.setattr("pipeline.ops.dead_letters.reader.POLL", 0)
    lazy.forget()
    if actors := sys.modules.get("pipeline.actors"):  # its broker was built in the environment of an earlier test
        actors.broker.queues.namespace = environ["QUEUE_NAMESPACE"]
    aws.s3().create_bucket(
        Bucket=environ["S3_BUCKET"],
        CreateBucketConfiguration={"LocationConstraint": REGION},
        ObjectOwnership="ObjectWriter",
    )
    yield environ
    lazy.forget()
