"""Deploys one release over another while jobs are under way, and back: `make upgrade-test`."""

from __future__ import annotations

import io
import os
import re
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline import send_message
from pipeline.clients import aws, lazy
from pipeline.local.embedded import EmbeddedStack
from pipeline.local.supervisor import Supervisor
from pipeline.ops.provision import plan
from pipeline.settings import Settings, get_settings
from pipeline.stages import DEAD_LETTER_QUEUES
from tests.support.waiting import wait_for
from tests.upgrade.releases import NEXT_VERSION, QUICK, CannotTest, Release, changed, last_release, this_release

JOBS = 200
KINDS = ("fetch", "resize", "giants", "upload", "notify", "quarantine", "ingest")

#: Seconds for all jobs after the last deploy. A lease of a stopped worker lasts 45.
TIMEOUT = 150


@dataclass
class World:
    """Serves covers, and counts the postbacks of each job by whether both images succeeded."""

    port: int = 0
    posts: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


@contextmanager
def world() -> Iterator[World]:
    covers, found = [cover(colour) for colour in range(0, 250, 50)], World()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(covers[hash(self.path) % len(covers)])

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.posts[self.path] += 1
            if b"_error" in body:
                found.failed.append(body.decode()[-300:])
            self.answer(b"")

        def answer(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def cover(colour: int) -> bytes:
    data = io.BytesIO()
    Image.effect_noise((400, 400), 40).convert("RGB").point(lambda value: (value + colour) % 256).save(data, "JPEG")
    return data.getvalue()


class Deploys:
    """The processes of each release on the same queues."""

    def __init__(self, folder: Path, exit_stack: ExitStack) -> None:
        self._folder, self._exit = folder, exit_stack
        self._running: dict[str, Supervisor] = {}
        self.lines: list[tuple[str, str, str]] = []

    def start(self, release: Release) -> None:
        procfile = release.write_procfile(self._folder, KINDS)
        ready: set[str] = set()

        def on_line(process: str, text: str) -> None:
            self.lines.append((release.name, process, text))
            if "Worker process is ready" in text or "Taking messages" in text:
                ready.add(process)

        supervisor = self._exit.enter_context(Supervisor(procfile, on_line, environ=dict(os.environ)))
        supervisor.start()
        workers = {name for name in supervisor.names if not name.startswith("ingest")}
        wait_for(lambda: ready >= workers, timeout=120)
        self._running[release.name] = supervisor

    def stop(self, release: Release) -> None:
        self._running.pop(release.name).stop()

    def jobs_of_both(self) -> int:
        """Return how many jobs passed through stages of both releases."""
        done: dict[str, set[str]] = {}
        for name, _, line in self.lines:
            if found := re.search(r"job=(\S+) outcome=done", line):
                done.setdefault(found[1], set()).add(name)
        return sum(len(names) > 1 for names in done.values())

    def log_of(self, text: str) -> Counter[str]:
        """Return how many lines of each release contain a text."""
        return Counter(name for name, _, line in self.lines if text in line)


def send(found: World, count: int) -> list[str]:
    """Send jobs; return the paths of their postbacks."""
    paths = [f"/{secrets.token_hex(8)}" for _ in range(count)]
    base = f"http://127.0.0.1:{found.port}"
    for path in paths:
        payload = {"image_url": f"{base}/cover{path}", "itunes_image": f"{base}/art{path}", "bucket_name": path[1:5]}
        send_message({**payload, "postback_url": base + path})
    return paths


def roll(found: World, deploys: Deploys, old: Release, new: Release) -> list[str]:
    """Deploy `new` over `old`, which runs, while jobs are under way; return the paths of the jobs."""
    paths = send(found, JOBS // 2)
    wait_for(lambda: found.posts.total() > 0, timeout=60)
    deploys.start(new)
    paths += send(found, JOBS // 2)
    deploys.stop(old)
    return paths


def report(name: str, found: World, paths: Sequence[str]) -> bool:
    """Wait for the results of the jobs, print what came of them, and return whether all is well."""
    began = time.monotonic()
    while not all(found.posts[path] for path in paths) and time.monotonic() - began < TIMEOUT:
        time.sleep(0.1)
    lost = [path for path in paths if not found.posts[path]]
    repeats = sum(found.posts[path] - 1 for path in paths if found.posts[path])
    letters = dead_letters()
    print(
        f"{name}: {len(paths)} jobs, lost {len(lost)}, failed {len(found.failed)}, repeated postbacks {repeats}, "
        f"dead letters {letters.total()}{f' {dict(letters)}' if letters else ''}"
    )
    return not (lost or found.failed or letters)


def dead_letters() -> Counter[str]:
    found: Counter[str] = Counter()
    for queue in sorted(set(DEAD_LETTER_QUEUES.values())):
        url = aws.sqs().get_queue_url(QueueName=get_settings().full_queue_name(queue))["QueueUrl"]
        attributes = aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
        found[queue] = int(attributes["Attributes"]["ApproximateNumberOfMessages"])
    return +found


@contextmanager
def environment(folder: Path) -> Iterator[None]:
    """Run the embedded servers with queues, a bucket and an input queue; set the variables of this process."""
    with EmbeddedStack(folder / "stack", with_mongo=False) as stack:
        for name in [*Settings.model_fields, "environment"]:
            os.environ.pop(name.upper(), None)
        unique = secrets.token_hex(4)
        ours = {"QUEUE_NAMESPACE": f"up-{unique}", "S3_BUCKET": f"up-{unique}", "ALLOWED_NETWORKS": "127.0.0.0/8"}
        # The first release knows no JOB_KEY and drops the proofs of the jobs that pass through it.
        more = {"JOB_KEY": f"{secrets.token_hex(16)} none", "METRICS_PORT": "0", "LEVEL": "INFO", "S3_ACL": "none"}
        os.environ.update(stack.environ | ours | more)
        lazy.forget()
        for change in plan(get_settings(), create_bucket=True):
            change.apply()
        queue = aws.sqs().create_queue(QueueName=f"input-{unique}.fifo", Attributes={"FifoQueue": "true"})
        os.environ["QUEUE_URL"] = queue["QueueUrl"]
        lazy.forget()
        yield


def releases_in_both_directions(folder: Path) -> bool:
    """Deploy this release over the last one, and roll it back."""
    old, new = last_release(folder), this_release()
    with ExitStack() as exit_stack:
        exit_stack.enter_context(environment(folder))
        found = exit_stack.enter_context(world())
        deploys = Deploys(folder, exit_stack)
        deploys.start(old)
        forward = report(f"{old.name} → this release", found, roll(found, deploys, old, new))
        back = report(f"this release → {old.name}", found, roll(found, deploys, new, old))
        both, ended = deploys.jobs_of_both(), deploys.log_of("restarting in")
    print(f"jobs that passed through both releases: {both}; processes that ended by themselves: {ended.total()}")
    return forward and back and bool(both) and not ended


def two_versions_of_jobs(folder: Path) -> bool:
    """Run a release whose jobs have another version beside this one: neither knows the jobs of the other."""
    old, new = changed(folder, "version-1", QUICK), changed(folder, "version-2", QUICK, NEXT_VERSION)
    with ExitStack() as exit_stack:
        exit_stack.enter_context(environment(folder))
        found = exit_stack.enter_context(world())
        deploys = Deploys(folder, exit_stack)
        deploys.start(old)
        deploys.start(new)
        well = report("jobs of two versions", found, send(found, JOBS))
        left, both = deploys.log_of("It is left to another worker"), deploys.jobs_of_both()
    print(f"jobs of an unknown version left to the workers that know it: {dict(left)}; worked on by both: {both}")
    return well and len(left) == len((old, new)) and not both


def main() -> None:
    results = []
    for scenario in (releases_in_both_directions, two_versions_of_jobs):
        with tempfile.TemporaryDirectory() as name:
            began = time.monotonic()
            try:
                results.append(scenario(Path(name)))
            except CannotTest as reason:
                sys.exit(str(reason))
            print(f"{scenario.__name__.replace('_', ' ')}: {time.monotonic() - began:.0f} s")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
