"""Measures how much a sweep slows down live jobs, from message to postback: with an empty and with a full bulk lane.

`make bench-lanes` runs the Procfile's processes on the embedded stack. It measures the throughput of live jobs on this
machine, then sends a share of that rate at random moments: first alone, then during a sweep. Like a real sweep, it
keeps a fixed number of bulk jobs under way and sends another when one ends; with `--backlog 0` all of them wait in
`fetch_bulk` at once. It prints both times. The exit status is 1 if the sweep slows live jobs down more than promised.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from pipeline.clients import lazy
from pipeline.job import Job
from pipeline.local.embedded import EmbeddedStack
from pipeline.local.supervisor import Supervisor
from pipeline.ops.provision import plan
from pipeline.settings import Settings, get_settings
from pipeline.stages import FETCH, STAGES, Lane

PROCFILE = Path(__file__).parents[1] / "Procfile"

#: Timeouts in seconds: for the processes to become ready, for the jobs of a measurement to end, and for bulk jobs to
#: fill the stages before it begins.
READY, TIMEOUT, FILL = 90.0, 900.0, 10.0

#: The promise about the p95 during a sweep: at most this multiple of the p95 without, or this many seconds more.
TIMES, MORE = 2.0, 0.5


@dataclass
class World:
    """Serves covers with unique bytes and receives postbacks."""

    cover: bytes
    port: int = 0
    arrived: dict[str, float] = field(default_factory=dict)  #: the time of each job's postback
    ended: int = 0  #: bulk jobs that passed the last stage

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def bytes_of(self, path: str) -> bytes:
        """Return the cover with `path` as a comment, so that no two covers have the same content."""
        comment = path.encode()
        return self.cover[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + self.cover[2:]


@contextmanager
def world(side: int) -> Iterator[World]:
    """Run a world whose covers are squares of `side` pixels."""
    out = io.BytesIO()
    noise = Image.effect_noise((side // 8, side // 8), 80).resize((side, side), Image.Resampling.BICUBIC)
    Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)]).save(out, "JPEG", quality=85)
    shown = World(out.getvalue())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(200, shown.bytes_of(self.path))

        def do_POST(self) -> None:
            shown.arrived.setdefault(self.headers["webhook-id"], time.monotonic())
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(204, b"")

        def answer(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    shown.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield shown
    finally:
        server.shutdown()


@contextmanager
def service(folder: Path, world: World) -> Iterator[None]:
    """Run the stages' processes; yields when they are ready."""
    lines: list[str] = []

    def on_line(name: str, text: str) -> None:
        lines.append(f"{name}: {text}")
        world.ended += "stage=notify job=bulk" in text

    others = dict.fromkeys(("ingest", "sweep", "scheduler"), 0)
    with Supervisor(PROCFILE, on_line, concurrency=others) as supervisor:
        supervisor.start()
        try:
            wanted = len(STAGES) - 1 + (os.cpu_count() or 1)  # resize has one worker process per core.
            _wait(lambda: sum("Worker process is ready" in line for line in lines) >= wanted, READY)
            yield
        finally:
            (folder / "service.log").write_text("\n".join(lines))


def _wait(condition: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"it did not happen within {timeout:g} s")
        time.sleep(0.02)


class Bench:
    """Sends jobs of both lanes to the running service, and waits for the live ones."""

    def __init__(self, world: World) -> None:
        from pipeline.actors import broker, fetch_image  # noqa: PLC0415 - reads the settings

        self._world = world
        self._broker = broker
        self._message_of = fetch_image.message_of
        self._run = secrets.token_hex(4)
        self.left = 0  #: bulk jobs that are not yet sent

    def live(self, count: int, rate: float | None = None) -> list[float]:
        """Send `count` live jobs: `rate` per second at random moments, or all at once.

        Returns:
            The seconds from message to postback of each job.
        """
        messages = []
        for _ in range(count):
            job_id = secrets.token_hex(8)
            payload = {
                "image_url": self._world.url(f"/live/{job_id}.jpg"),
                "postback_url": self._world.url("/hook"),
                "bucket_name": self._run,
            }
            messages.append(
                self._message_of(Job.accept(payload, job_id=job_id, settings=get_settings(), stage_payload=_none))
            )
        sent: dict[str, float] = {}
        chance = random.Random(count)  # noqa: S311 - no secret is drawn; the same moments for both measurements
        if rate is None:
            sent = dict.fromkeys((m.kwargs["job"]["id"] for m in messages), time.monotonic())
            self._send(messages)
        else:
            due = time.monotonic()
            for message in messages:
                due += chance.expovariate(rate)
                time.sleep(max(0.0, due - time.monotonic()))
                sent[message.kwargs["job"]["id"]] = time.monotonic()
                self._send([message])
        _wait(lambda: sent.keys() <= self._world.arrived.keys(), TIMEOUT)
        return [self._world.arrived[job_id] - since for job_id, since in sent.items()]

    @contextmanager
    def sweep(self, count: int, backlog: int) -> Iterator[None]:
        """Send `count` bulk jobs with `backlog` of them under way at a time; yields when the stages are full."""
        self.left, over = count, threading.Event()

        def feed() -> None:
            started = self._world.ended
            while self.left and not over.is_set():
                under_way = count - self.left - (self._world.ended - started)
                self._bulk(min(self.left, backlog - under_way))
                over.wait(0.2)

        self._bulk(min(count, backlog))
        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            time.sleep(FILL)
            if backlog < count:
                _wait(lambda: self.waiting() < backlog / 20, TIMEOUT)  # Bulk jobs pile up at resize.
            yield
        finally:
            over.set()
            feeder.join()

    def _bulk(self, count: int) -> None:
        payload = {"postback_url": "http://nobody.invalid/", "bucket_name": self._run}
        messages = []
        for _ in range(max(0, count)):
            job_id = f"bulk{secrets.token_hex(8)}"
            asked = payload | {"image_url": self._world.url(f"/bulk/{job_id}.jpg")}
            job = Job.accept(asked, job_id=job_id, settings=get_settings(), stage_payload=_none)
            messages.append(self._message_of(replace(job, payload={}, lane=Lane.BULK)))
        self._send(messages)
        self.left -= len(messages)

    def waiting(self) -> int:
        """Count the bulk jobs that wait in the first queue."""
        url = self._broker.queues.url(FETCH.queue(Lane.BULK))
        asked = self._broker.sender.client().get_queue_attributes(
            QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
        )
        return int(asked["Attributes"]["ApproximateNumberOfMessages"])

    def _send(self, messages: list[Any]) -> None:
        if errors := list(filter(None, self._broker.enqueue_many(messages))):
            raise errors[0]


def _none(_: bytes) -> str:
    raise AssertionError("these payloads are short")


def p95(seconds: list[float]) -> float:
    """Return the 95th percentile."""
    return quantiles(seconds, n=20, method="inclusive")[-1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bulk", type=int, default=20_000, help="bulk jobs of the sweep (default: %(default)s)")
    parser.add_argument(
        "--backlog", type=int, default=1000, help="bulk jobs under way at a time; 0: all (default: %(default)s)"
    )
    parser.add_argument("--live", type=int, default=120, help="live jobs per measurement (default: %(default)s)")
    parser.add_argument(
        "--load", type=float, default=0.2, help="share of the machine's throughput (default: %(default)s)"
    )
    parser.add_argument("--side", type=int, default=1400, help="side of a cover in pixels (default: %(default)s)")
    parser.add_argument("--log", type=Path, help="a folder for the log of the processes")
    options = parser.parse_args()
    for name in [*Settings.model_fields, "environment"]:
        os.environ.pop(name.upper(), None)
    with (
        tempfile.TemporaryDirectory() as temporary,
        EmbeddedStack(Path(temporary), with_mongo=False) as stack,
        world(options.side) as shown,
    ):
        os.environ |= stack.environ | {
            "QUEUE_NAMESPACE": f"bench-{secrets.token_hex(4)}",
            "S3_BUCKET": f"bench-{secrets.token_hex(4)}",
            "ALLOWED_NETWORKS": "127.0.0.0/8",
            "FETCH_MAX_PER_HOST": "64",  # All covers come from one host.
            "POSTBACK_SECRET_KEY": "a secret",
            "LEVEL": "INFO",
        }
        lazy.forget()
        for change in plan(get_settings(), create_bucket=True):
            change.apply()
        bench = Bench(shown)
        with service(options.log or Path(temporary), shown):
            bench.live(10)  # This opens the connections.
            started = time.monotonic()
            bench.live(options.live)
            able = options.live / (time.monotonic() - started)
            rate = able * options.load
            without = bench.live(options.live, rate)
            with bench.sweep(options.bulk, options.backlog or options.bulk):
                ended, started = shown.ended, time.monotonic()
                with_sweep = bench.live(options.live, rate)
                bulk_rate = (shown.ended - ended) / (time.monotonic() - started)
                left = bench.left + bench.waiting()
    table = Table(
        title=f"{options.live} live jobs at {rate:.1f}/s, {options.load:.0%} of the machine's {able:.1f}/s",
        caption=f"sweep: {bulk_rate:.1f} jobs/s at the same time, {left} of {options.bulk} left at the end",
    )
    table.add_column("from message to postback")
    for heading in ("alone", "with a sweep", "ratio", "more"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, of in (("p50", median), ("p95", p95), ("longest", max)):
        before, after = of(without), of(with_sweep)
        table.add_row(name, f"{before:.3f} s", f"{after:.3f} s", f"{after / before:.2f}", f"{after - before:.3f} s")
    Console(width=120).print(table)
    if not left:
        sys.exit("the sweep ended before the measurement: increase --bulk")
    if p95(with_sweep) > max(TIMES * p95(without), p95(without) + MORE):
        sys.exit(
            f"the p95 during the sweep is more than {TIMES:g} times the p95 without, and more than {MORE:g} s above it"
        )


if __name__ == "__main__":
    main()
