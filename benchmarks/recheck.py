"""Measures re-checks: their cost for each 1,000 unchanged covers beside downloading them again, and their promises.

`make bench-recheck` runs one worker of all stages in this process, on the embedded stack, and a host of covers in
another. It sweeps the covers as usual, and then re-checks them: unchanged with and without validators, one in fifty
replaced, and while the sweeping process is killed five times. At last it walks over 100,000 documents of 20,000 covers
in seven nights. That takes long, because the embedded MongoDB reads the whole collection for each page. CPU is that of
this process: of all stages and of the sweep, without servers and hosts. The exit status is 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from statistics import quantiles
from typing import Any

from dramatiq import Worker
from rich.console import Console
from rich.table import Table
from sweep import environment

from pipeline.clients import aws, lazy, mongo
from pipeline.events import RecheckOutcome, subscribe
from pipeline.local.embedded import EmbeddedStack
from pipeline.metrics import REGISTRY
from pipeline.ops import rechecks
from pipeline.ops import sweeps as sweeping
from pipeline.settings import get_settings
from pipeline.stages import STAGES, SWEEP_QUEUES, Lane
from pipeline.sweeps import recheck, run_state, sources, sweep
from pipeline.sweeps.documents import EPISODES
from pipeline.sweeps.sources import Check

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

#: Side of the covers in pixels. They are noise, so a PNG has three bytes for each pixel.
SIDE = 180

#: Seconds until a run must have ended.
TIMEOUT = 400.0

#: Kills of the sweeping process.
KILLS = 5

#: Documents and covers of the walk.
WALK = (100_000, 20_000)

console = Console(width=140)
attempts: Counter[str] = Counter()


# The host, in a process of its own.


def _serve(pipe: Any, side: int) -> None:
    from tests.support import cover_host  # noqa: PLC0415 - found by means of sys.path

    cover_host.picture = lambda number: _noise(number, side)
    with cover_host.cover_host() as host:
        pipe.send(host.port)
        while True:
            name, argument = pipe.recv()
            if name == "replace":
                host.pictures |= argument
            elif name == "validators":
                host.headers = (lambda _, number: {"ETag": f'"{number}"'}) if argument else (lambda *_: {})
            else:
                pipe.send((host.times_asked(), Counter(each.status for each in host.asked), host.sent))
                host.asked.clear()
                host.sent = 0


def _noise(number: int, side: int) -> bytes:
    import random  # noqa: PLC0415
    from io import BytesIO  # noqa: PLC0415

    from PIL import Image  # noqa: PLC0415

    out = BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(number).randbytes(3 * side * side)).save(out, "PNG")  # noqa: S311
    return out.getvalue()


class Host:
    """The host of covers in another process."""

    def __init__(self, covers: int) -> None:
        ours, theirs = get_context("fork").Pipe()
        self._pipe = ours
        self._process = get_context("fork").Process(target=_serve, args=(theirs, SIDE), daemon=True)
        self._process.start()
        self.port = ours.recv()
        self.replace({f"/{n}": n for n in range(covers)})

    def url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.port}/{number}"

    def replace(self, pictures: dict[str, int]) -> None:
        self._pipe.send(("replace", pictures))

    def validators(self, on: bool) -> None:
        self._pipe.send(("validators", on))

    def asked(self) -> tuple[Counter[str], Counter[int], int]:
        """Return the requests by path and by status, and the bytes sent, since the last call."""
        self._pipe.send(("asked", None))
        found: tuple[Counter[str], Counter[int], int] = self._pipe.recv()
        return found

    def stop(self) -> None:
        self._process.kill()


# Measuring.


@dataclass
class Cost:
    """The cost of a run."""

    name: str
    requests: Counter[str]
    statuses: Counter[int]
    received: int
    aws: Counter[str]
    attempts: Counter[str]
    cpu: float
    seconds: float
    counts: dict[str, int]


def _aws_requests() -> Counter[str]:
    found: Counter[str] = Counter()
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            if sample.name == "image_pipeline_aws_requests_total":
                found[f"{sample.labels['service']} {sample.labels['operation']}"] += int(sample.value)
    return found


def measure(name: str, host: Host, start: Callable[[], str]) -> Cost:
    """Run a sweep or a re-check to its end."""
    host.asked()
    attempts.clear()
    before, cpu, began = _aws_requests(), time.process_time(), time.monotonic()
    counts = _ended(start())
    cpu, seconds = time.process_time() - cpu, time.monotonic() - began
    requests, statuses, received = host.asked()
    return Cost(name, requests, statuses, received, _aws_requests() - before, Counter(attempts), cpu, seconds, counts)


def _ended(run: str) -> dict[str, int]:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        found = run_state.load(run)
        if found and found.walked and not run_state.under_way(found):
            return {name: number for name, number in found.counts.items() if number}
        time.sleep(0.1)
    sys.exit(f"the run {run} has not ended after {TIMEOUT:g} s")


def table_of(costs: list[Cost], covers: int) -> Table:
    """Show the costs for each 1,000 covers side by side."""
    table = Table(title=f"For each 1,000 covers, measured with {covers:,}")
    table.add_column("")
    for cost in costs:
        table.add_column(cost.name, justify="right")

    def row(name: str, cell: Callable[[Cost], float], form: str = ",.0f") -> None:
        table.add_row(name, *(format(cell(cost) * 1000 / covers, form) for cost in costs))

    row("requests to hosts", lambda c: c.requests.total())
    row("MB received", lambda c: c.received / 1e6, ",.2f")
    row("SQS requests", lambda c: sum(n for name, n in c.aws.items() if name.startswith("sqs")))
    row("S3 requests", lambda c: sum(n for name, n in c.aws.items() if name.startswith("s3")))
    row("S3 writes", lambda c: sum(n for name, n in c.aws.items() if name == "s3 PutObject"))
    row("messages after fetch", lambda c: c.attempts.total() - c.attempts["fetch"])
    row("CPU seconds", lambda c: c.cpu, ",.2f")
    table.add_row("counts", *(", ".join(f"{n} {name}" for name, n in cost.counts.items()) for cost in costs))
    return table


@contextmanager
def worker(*queues: str) -> Iterator[None]:
    """Run a worker of these queues in this process."""
    from pipeline.actors import broker  # noqa: PLC0415 - reads the settings

    broker.queues.namespace = get_settings().queue_namespace
    running = Worker(broker, queues=set(queues), worker_threads=16)
    running.start()
    try:
        yield
    finally:
        running.stop()


# The promises.


def unchanged_and_changed(host: Host, covers: int) -> tuple[list[Cost], list[str]]:
    """Measure re-checks of all covers, and return the broken promises."""
    database, broken = mongo.database(), []
    host.validators(False)

    def everything() -> str:
        return rechecks.start(["episodes"], everything=True)

    first = measure("first sweep", host, lambda: sweeping.start(EPISODES, None))
    documents = list(database.episodes.find())
    without = measure("no validators", host, everything)
    host.validators(True)
    measure("", host, everything)  # learns the validators
    cheap = measure("304", host, everything)
    if list(database.episodes.find()) != documents:
        broken.append("a document differs although no cover changed")
    database.episodes.update_many({}, {"$unset": {"last_itunes_image": ""}})
    database[sources.COLLECTION].drop()
    again = measure("downloading again", host, lambda: sweeping.start(EPISODES, None))
    documents = list(database.episodes.find())
    replaced = {f"/{n}": n + 10**6 for n in range(0, covers, 50)}
    host.replace(replaced)
    changed = measure("one in fifty", host, everything)
    urls = {host.url(int(path[1:])) for path in replaced}
    for before, after in zip(documents, database.episodes.find(), strict=True):
        differs = {name for name in after if after[name] != before.get(name)}
        if differs != ({"itunes_image_extra_images"} if after["itunes_image"] in urls else set()):
            broken.append(f"episode {after['_id']}: {differs or 'nothing'} changed")
    for cost in (without, cheap):
        if cost.requests.total() != covers or cost.attempts.total() != covers or cost.aws["s3 PutObject"]:
            broken.append(f"{cost.name}: {cost.requests.total()} requests, {cost.attempts}, {cost.aws}")
    if cheap.received > 1e6 * covers / 1000 or cheap.cpu > 0.003 * covers:
        broken.append(f"304: {cheap.received} bytes, {cheap.cpu / covers * 1000:.2f} ms of CPU a cover")
    return [first, again, without, cheap, changed], broken


def killed(host: Host, covers: int) -> tuple[str, list[str]]:
    """Kill the sweeping process with SIGKILL while a run takes its pages; this process fetches."""
    command = [sys.executable, "-m", "dramatiq", "pipeline.actors", "tests.support.brief_leases"]
    command += ["--processes", "1", "--threads", "1", "--queues", *SWEEP_QUEUES]
    more = {"PYTHONPATH": str(HERE.parent), "METRICS_PORT": "0"}
    os.environ["SWEEP_MAX_BACKLOG"] = str(max(4, covers // 20))  # many pages
    lazy.forget()
    host.asked()
    run = rechecks.start(["episodes"], everything=True)
    for number in range(KILLS + 1):
        page = run_state.load(run).page  # type: ignore[union-attr]
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=os.environ | more, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if number == KILLS:
            break
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and run_state.load(run).page == page:  # type: ignore[union-attr]
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    counts = _ended(run)
    os.killpg(process.pid, signal.SIGKILL)
    requests, _, _ = host.asked()
    most = max(requests.values())
    broken = [] if len(requests) == covers and most <= 1 + KILLS else [f"{len(requests)} asked, at most {most} times"]
    text = f"{KILLS} kills: {len(requests):,} covers asked {requests.total():,} times, at most {most} each; {counts}"
    return text, broken


def walk(documents: int, covers: int, nights: int) -> tuple[list[int], float, list[str]]:
    """Walk over documents on nights by a moved clock, without hosts; returns the covers a night and the peak memory."""
    os.environ["RECHECK_DAYS"] = str(nights)
    lazy.forget()
    database = mongo.database()
    database.episodes.drop()
    database[sources.COLLECTION].drop()
    for start in range(0, documents, 1000):
        urls = (f"http://h/{n % covers}" for n in range(start, min(start + 1000, documents)))
        database.episodes.insert_many({"itunes_image": url, "last_itunes_image": url} for url in urls)
    asked: Counter[str] = Counter()
    by_night = []
    for night in range(nights):
        now = datetime(2026, 3, 1, 2, 30, tzinfo=UTC) + timedelta(days=night)
        sources.utcnow = lambda now=now: now + timedelta(minutes=5)  # type: ignore[misc]
        tonight = _night(now)
        asked += tonight
        by_night.append(tonight.total())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    share = covers / nights
    broken = [f"a night has {n} covers" for n in by_night if not 0.8 * share < n < 1.2 * share]
    if asked != dict.fromkeys(asked, 1) or len(asked) != covers:
        broken.append(f"{len(asked)} covers were asked {asked.total()} times")
    return by_night, peak, broken


def _night(now: datetime) -> Counter[str]:
    run = recheck.begin(f"recheck-{now:%Y-%m-%dT%H:%MZ}", ["episodes"], scheduled_for=now).id
    asked: Counter[str] = Counter()
    jobs: list[Any] = []

    def hand_over(sent: Any) -> list[None]:
        jobs.extend(sent)
        return [None] * len(sent)

    page: Any = sweep.NextPage(0)
    while page:
        page = recheck.take_page(run, page.page, by=str(page.page), hand_over=hand_over)
        urls = [job.sources[0].url for job in jobs]
        asked += Counter(urls)
        if jobs:
            checks = zip(urls, jobs, strict=True)
            sources._commit([Check(u, RecheckOutcome.NOT_MODIFIED, None, "", run, j.sweep.cover) for u, j in checks])
        jobs.clear()
    return asked


def live(host: Host, covers: int) -> tuple[float, float]:
    """Return the p95 of live jobs in milliseconds, alone and beside a re-check of all covers."""
    queue = aws.sqs().create_queue(QueueName=f"{get_settings().queue_namespace}_live")["QueueUrl"]
    idle = _latencies(host, queue, 40)
    run = rechecks.start(["episodes"], everything=True)
    beside = _latencies(host, queue, 40)
    _ended(run)
    return quantiles(idle, n=20)[-1], quantiles(beside, n=20)[-1]


def _latencies(host: Host, queue: str, jobs: int) -> list[float]:
    from pipeline.actors import fetch_image  # noqa: PLC0415 - reads the settings

    found = []
    for number in range(jobs):
        began = time.monotonic()
        name = queue.rsplit("/", 1)[-1]
        fetch_image.send({"image_url": host.url(10**7 + number), "bucket_name": "L", "redirect_queue": name})
        while not (messages := aws.sqs().receive_message(QueueUrl=queue, WaitTimeSeconds=5).get("Messages")):
            pass
        found.append((time.monotonic() - began) * 1000)
        aws.sqs().delete_message(QueueUrl=queue, ReceiptHandle=messages[0]["ReceiptHandle"])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--covers", type=int, default=1000, help="covers, one document each (default: %(default)s)")
    parser.add_argument("--copies", type=int, default=1, help="documents for each cover (default: %(default)s)")
    parser.add_argument("--only", choices=["cost", "walk"], help="one part")
    parser.add_argument("--nights", type=int, default=7, help="nights of the walk (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=WALK[0], help="documents of the walk (default: %(default)s)")
    options = parser.parse_args()
    broken: list[str] = []
    subscribe(lambda event: attempts.update([event.stage]))
    host = Host(options.covers)
    with tempfile.TemporaryDirectory() as temporary, EmbeddedStack(Path(temporary)) as stack, environment(stack):
        os.environ |= {"RENDITIONS": "50x50,250x250", "RECHECK_DAYS": "30", "METRICS_PORT": "0", "LEVEL": "WARNING"}
        lazy.forget()
        if options.only != "walk":
            broken += _costs(host, options.covers, options.copies)
        if options.only != "cost":
            documents, covers = options.documents, options.documents * WALK[1] // WALK[0]
            by_night, peak, wrong = walk(documents, covers, options.nights)
            console.print(f"{documents:,} documents, {covers:,} covers, each night: {by_night}, peak {peak:.0f} MiB")
            broken += wrong
    host.stop()
    for each in broken:
        console.print(f"[red]broken: {each}[/]")
    sys.exit(bool(broken))


def _costs(host: Host, covers: int, copies: int) -> list[str]:
    episodes = ({"itunes_image": host.url(n), "channel_id": 1} for n in range(covers) for _ in range(copies))
    mongo.database().channels.insert_one({"_id": 1, "title": "A"})
    mongo.database().episodes.insert_many(episodes)
    stages = [stage.queue(lane) for stage in STAGES for lane in Lane]
    with worker(*stages, *SWEEP_QUEUES):
        costs, broken = unchanged_and_changed(host, covers)
        console.print(table_of(costs, covers))
        idle, beside = live(host, covers)
        console.print(f"p95 of live jobs: {idle:.0f} ms alone, {beside:.0f} ms beside a re-check")
    with worker(*stages):
        text, wrong = killed(host, covers)
        console.print(text)
    return broken + wrong


if __name__ == "__main__":
    threading.current_thread().name = "bench"
    main()
