"""Runs the whole service: the Procfile's processes on the embedded stack, a source server and a postback receiver."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.clients import aws, lazy, mongo
from pipeline.local import supervisor as supervising
from pipeline.local.embedded import EmbeddedStack
from pipeline.local.supervisor import Supervisor
from pipeline.ops.provision import plan
from pipeline.settings import Settings, get_settings
from tests.support.last_lines import note
from tests.support.schedules import far_schedules
from tests.support.tracing import MEASURES_CHILDREN
from tests.support.waiting import wait_for

PROCFILE = Path(__file__).parents[2] / "Procfile"
COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]


@dataclass
class Post:
    """A postback as it arrived."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)


@dataclass
class World:
    """A web server that serves covers by path and records the postbacks it receives."""

    port: int = 0
    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)  #: statuses for the next postbacks to a path
    posts: list[Post] = field(default_factory=list)
    fetches: list[str] = field(default_factory=list)
    delayed: dict[str, threading.Event] = field(default_factory=dict)  #: paths that answer once their event is set

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def serve(self, path: str, data: bytes, status: int = 200) -> str:
        self.files[path] = (status, data)
        return self.url(path)

    @contextmanager
    def delaying(self, path: str) -> Iterator[Callable[[], None]]:
        """Delay responses for a path until the yielded function is called."""
        released = self.delayed[path] = threading.Event()
        try:
            yield released.set
        finally:
            released.set()

    def posted(self, path: str) -> list[Post]:
        return [post for post in self.posts if post.path == path]


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    world = World()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            world.fetches.append(self.path)
            self.wait_until_released()
            status, data = world.files.get(self.path.partition("?")[0], (404, b"not here"))
            self.answer(status, data)

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            world.posts.append(Post(self.path, {k.lower(): v for k, v in self.headers.items()}, raw))
            self.wait_until_released()
            waiting = world.answers.get(self.path)
            self.answer(waiting.pop(0) if waiting else 204, b"")

        def wait_until_released(self) -> None:
            if event := world.delayed.get(self.path.partition("?")[0]):
                event.wait(60)

        def answer(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    world.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield world
    server.shutdown()
    server.server_close()


@dataclass
class Service:
    """The running processes, with their queues and objects."""

    environ: dict[str, str]
    supervisor: Supervisor
    lines: list[tuple[str, str]]

    @property
    def log(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in self.lines)

    def is_ready(self) -> bool:
        """Whether the workers of every running stage have started."""
        ready = {name for name, text in list(self.lines) if "Worker process is ready" in text}
        return ready >= {name for name in self.supervisor.names if not name.startswith(("ingest", "scheduler"))}

    def send(self, payload: dict[str, Any]) -> str:
        """Send a payload to the first actor, as a customer's Python code does; returns the message id."""
        from pipeline.actors import broker, fetch_image

        broker.queues.namespace = self.environ["QUEUE_NAMESPACE"]
        return fetch_image.send(payload).message_id

    def name(self, queue: str) -> str:
        return f"{self.environ['QUEUE_NAMESPACE']}_{queue}"

    def queue_url(self, name: str) -> str:
        return aws.sqs().get_queue_url(QueueName=name)["QueueUrl"]

    def counts(self, queue: str) -> tuple[int, int, int]:
        """Return how many messages of a stage's queue are waiting, in flight and delayed."""
        url = self.queue_url(self.name(queue))
        attributes = aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=COUNTS)["Attributes"]
        waiting, in_flight, delayed = (int(attributes[name]) for name in COUNTS)
        return waiting, in_flight, delayed

    def take_all(self, url: str) -> list[dict[str, Any]]:
        """Receive and delete all messages of a queue: bodies, attributes and system attributes."""
        taken: list[dict[str, Any]] = []
        while (
            received := aws.sqs()
            .receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=10,
                WaitTimeSeconds=0,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["All"],
            )
            .get("Messages", [])
        ):
            for message in received:
                attributes = {k: v["StringValue"] for k, v in message.get("MessageAttributes", {}).items()}
                taken.append({"body": message["Body"], "attributes": attributes, "system": message["Attributes"]})
                aws.sqs().delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return taken

    def dead_letters(self, queue: str) -> list[dict[str, Any]]:
        return self.take_all(self.queue_url(self.name(queue)))

    def dead_letter_of(self, text: str, queue: str) -> dict[str, Any]:
        """Wait for the only dead letter whose body contains a text, such as an id; take it and those of other tests."""
        (letter,) = wait_for(lambda: [each for each in self.dead_letters(queue) if text in each["body"]])
        return letter

    def staged(self) -> int:
        return len(self.staged_keys())

    def staged_keys(self) -> set[str]:
        listed = aws.s3().list_objects_v2(Bucket=self.environ["S3_BUCKET"], Prefix="pipeline-staging/")
        return {each["Key"] for each in listed.get("Contents", [])}


@pytest.fixture(scope="session")
def acceptance_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(tmp_path_factory.mktemp("acceptance"), with_mongo=False) as stack:
        yield stack


#: Runs only the four stages and ingest. Each process takes half a second of CPU to start.
STAGES_ALONE = {"giants": 0, "quarantine": 0, "sweep": 0, "scheduler": 0}

#: Runs only the four stages and the sweeps.
SWEEPS_ALONE = {"giants": 0, "quarantine": 0, "ingest": 0, "scheduler": 0}


#: The command of ingest, and one with short leases and polls.
INGEST, BRIEF_INGEST = "image-pipeline ingest", "python -m tests.support.brief_ingest"


def procfile_with(folder: Path, *, merged: Sequence[str] = (), modules: Mapping[str, str] | None = None) -> Path:
    """Write a Procfile with fewer processes, or with workers that also load modules of the tests.

    Args:
        folder: The folder of the file.
        merged: Processes whose work one process does, named `work`, so that only that one has to start.
        modules: Modules of tests.support for each process that loads some, separated by spaces. Ingest then has short
            leases.
    """
    lines = dict(line.split(": ", 1) for line in PROCFILE.read_text(encoding="utf-8").splitlines())
    queues = " ".join(lines.pop(name).partition(" --queues ")[2] for name in merged)
    if queues:
        run = "LEVEL=${LEVEL:-INFO} dramatiq pipeline.actors"
        lines["work"] = f"{run} --processes 1 --threads 16 --queues {queues}"
    if "resize" in lines:  # which has a process for each core otherwise
        lines["resize"] = lines["resize"].replace(" --threads", " --processes 1 --threads")
    for name, names in (modules or {}).items():
        assert " pipeline.actors " in lines[name]
        loaded = " ".join(["pipeline.actors", *(f"tests.support.{each}" for each in names.split())])
        lines[name] = lines[name].replace(" pipeline.actors ", f" {loaded} ")
    if modules:
        lines["ingest"] = lines["ingest"].replace(INGEST, BRIEF_INGEST)
    procfile = folder / "Procfile"
    procfile.write_text("".join(f"{name}: {line}\n" for name, line in lines.items()), encoding="utf-8")
    return procfile


@contextmanager
def running_service(
    stack: EmbeddedStack, procfile: Path = PROCFILE, concurrency: Mapping[str, int] | None = None, **more: str
) -> Iterator[Service]:
    """Run the service with its own namespace, bucket and FIFO input queue. Retries and restarts follow soon."""
    unique = secrets.token_hex(4)
    monkeypatch = pytest.MonkeyPatch()
    for name in [*Settings.model_fields, "environment"]:
        monkeypatch.delenv(name.upper(), raising=False)
    ours = {
        **stack.environ,
        **far_schedules(),
        "QUEUE_NAMESPACE": f"test-{unique}",
        "S3_BUCKET": f"test-{unique}",
        "ALLOWED_NETWORKS": "127.0.0.0/8",
        "JOB_KEY": secrets.token_hex(16),
        "POSTBACK_SECRET_KEY": "a secret of the test",
        "POSTBACK_SIGNING_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "FETCH_RETRY_DELAYS": "1,1",
        "POSTBACK_RETRY_DELAYS": "1,1",
        "LEVEL": "INFO",
        "METRICS_PORT": "0",  # tests of the endpoint set a port
        "PYTHONPATH": str(PROCFILE.parent),
        **more,
    }
    try:
        monkeypatch.setattr(supervising, "FIRST_DELAY", 0.1)
        monkeypatch.setattr(supervising, "MAX_DELAY", 0.5)
        for name, value in ours.items():
            monkeypatch.setenv(name, value)
        lazy.forget()
        if get_settings().database_url:  # with more patience than `provision` has, because the machine is busy
            mongo.database().command("ping")
        for change in plan(get_settings(), create_bucket=True):
            change.apply()
        queue = aws.sqs().create_queue(QueueName=f"input-{unique}.fifo", Attributes={"FifoQueue": "true"})
        monkeypatch.setenv("QUEUE_URL", queue["QueueUrl"])
        lazy.forget()
        lines: list[tuple[str, str]] = []

        def on_line(name: str, text: str) -> None:
            lines.append((name, text))
            note(name, text)

        with Supervisor(
            procfile,
            on_line,
            environ=dict(os.environ),
            concurrency=concurrency,
        ) as supervisor:
            service = Service(dict(os.environ), supervisor, lines)
            supervisor.start()
            wait_for(service.is_ready, timeout=120)
            yield service
            if MEASURES_CHILDREN not in os.environ:  # no process has coverage to write
                supervisor.stop(timeout=0.0)
    finally:
        monkeypatch.undo()
        lazy.forget()


@pytest.fixture(scope="module")
def service(acceptance_stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, with the processes of the Procfile that work on messages. Their leases are short."""
    brief = dict.fromkeys(["fetch", "resize", "upload", "notify", "work"], "brief_leases")
    procfile = procfile_with(tmp_path_factory.mktemp("procfile"), merged=["giants", "quarantine"], modules=brief)
    with running_service(acceptance_stack, procfile, {"sweep": 0, "scheduler": 0}) as service:
        yield service
