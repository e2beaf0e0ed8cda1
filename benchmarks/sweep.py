"""Measures a large sweep: 100,000 episodes of 2,000 channels with 2,000 covers, one cover in ten bad.

`make bench-sweep` first compares the rate at which jobs are handed over with the rate of plain SendMessageBatch
requests to the same endpoint. Then it runs the Procfile's processes on the embedded stack and sweeps two new databases:
one with a tenth of the episodes, one with all of them. It prints how the time was spent and the peak memory of the
sweep process. An independent check (`sweep_check`), which shares no code with the service, verifies everything that was
written. The exit status is 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import boto3
from pymongo import MongoClient
from rich.console import Console
from rich.table import Table
from sweep_check import Check, bystanders
from sweep_world import bystander, channel, episode, serving

from pipeline.clients import lazy
from pipeline.job import Job, Sweep, sweep_job_id
from pipeline.local.embedded import EmbeddedStack
from pipeline.local.supervisor import Supervisor
from pipeline.ops import sweeps as sweeping
from pipeline.ops.provision import plan
from pipeline.settings import Settings, get_settings
from pipeline.stages import FETCH, STAGES, Lane
from pipeline.sweeps import run_state
from pipeline.sweeps.documents import EPISODES

HERE = Path(__file__).parent
PROCFILE = HERE.parent / "Procfile"

#: Timeouts in seconds: for the processes to become ready, and for the next document of a run to end.
READY, STANDS_STILL = 90.0, 300.0

#: Seconds between two samples of the sweep process's memory, and between two looks at the run.
LOOK_EVERY = 1.0

#: The promises: peak memory as a multiple of the small run's; rate of the hand-over as a share of the endpoint's rate.
MEMORY, RATE = 1.2, 0.8

#: Messages per measurement of the hand-over, measurements of each method, and messages per request.
MESSAGES, ROUNDS, BATCH = 5000, 5, 10

#: Maximum number of errors that are printed.
SHOWN = 10

console = Console(width=120)


@dataclass
class Memory:
    """Samples the peak memory of a process group in bytes, from another process."""

    shared_out: int = 0  #: Maximum PSS seen; shared pages count in part.
    resident: int = 0  #: RSS of the largest process: the kernel's own peak.

    def look(self, group: int) -> None:
        """Sample all processes of the group."""
        total = 0
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError, AttributeError):
                if int((process / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                    total += _kib(process / "smaps_rollup", "Pss")
                    self.resident = max(self.resident, _kib(process / "status", "VmHWM"))
        self.shared_out = max(self.shared_out, total)


def _kib(file: Path, name: str) -> int:
    return int(re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)[1]) * 1024  # type: ignore[index]


@dataclass
class Swept:
    """The results of one run. Times are in seconds."""

    episodes: int
    all_taken: float = 0.0  #: until the last page was taken
    ended: float = 0.0  #: until the last document was written
    memory: Memory = field(default_factory=Memory)
    spent: dict[str, float] = field(default_factory=dict)  #: in the sweep process; see `sweep_times`
    counts: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    looked_at: int = 0


def sweep(stack: EmbeddedStack, episodes: int, covers: int, folder: Path) -> Swept:
    """Insert the documents, sweep them, and check the results."""
    with serving() as world, environment(stack):
        url = get_settings().database_url
        assert url is not None  # noqa: S101 - the environment has just been set
        client = MongoClient[dict[str, Any]](url.get_secret_value(), tz_aware=True)
        database = client.get_default_database()
        _insert(database.channels, filter(None, map(channel, range(covers))))
        _insert(database.episodes, (episode(number, covers, world) for number in range(episodes)))
        _insert(database.episodes, (bystander(number, covers, world) for number in range(bystanders(episodes))))
        swept = Swept(episodes)
        with service(folder / f"service-{episodes}.log", folder / f"times-{episodes}.jsonl") as supervisor:
            _run(supervisor, swept)
        times = (folder / f"times-{episodes}.jsonl").read_text(encoding="utf-8").splitlines()
        swept.spent = json.loads(times[-1])
        settings = get_settings()
        check = Check(
            world,
            episodes,
            covers,
            database=database,
            s3=boto3.client("s3", endpoint_url=stack.environ["AWS_ENDPOINT_URL"]),
            bucket=settings.s3_bucket,
            base=f"{stack.environ['AWS_ENDPOINT_URL']}/{settings.s3_bucket}",
        )
        swept.wrong = list(islice(check.wrong(pictures=covers), SHOWN + 1))
        ended = {name: check.ended[name] for name in ("done", "invalid", "failed")}
        if not swept.wrong and ended != swept.counts:
            swept.wrong = [f"the run counted {swept.counts}, and there are {ended}"]
        swept.looked_at = check.looked_at
        client.close()
        return swept


def _insert(collection: Any, documents: Iterator[dict[str, Any]]) -> None:
    while batch := list(islice(documents, 1000)):
        collection.insert_many(batch)


@contextmanager
def environment(stack: EmbeddedStack) -> Iterator[None]:
    """Return the variables of a service with its own, provisioned queues, bucket and database."""
    for name in [*Settings.model_fields, "environment"]:
        os.environ.pop(name.upper(), None)
    unique = secrets.token_hex(4)
    os.environ |= stack.environ | {
        "MONGO_URL": f"{stack.environ['MONGO_URL']}_{unique}",
        "QUEUE_NAMESPACE": f"bench-{unique}",
        "S3_BUCKET": f"bench-{unique}",
        "ALLOWED_NETWORKS": "127.0.0.0/8",
        "FETCH_RETRY_DELAYS": "1,2",
        "POSTBACK_SECRET_KEY": "a secret",
        "LEVEL": "INFO",
    }
    lazy.forget()
    for change in plan(get_settings(), create_bucket=True):
        change.apply()
    yield
    lazy.forget()


@contextmanager
def service(log: Path, times: Path) -> Iterator[Supervisor]:
    """Run the processes of a sweep; the sweep process records its times."""
    text = PROCFILE.read_text(encoding="utf-8")
    procfile = log.with_suffix(".procfile")
    path = f"PYTHONPATH={HERE}:{HERE.parent} SWEEP_TIMES={times} "
    procfile.write_text(
        re.sub(r"^sweep: (.*) pipeline.actors ", rf"sweep: {path}\1 pipeline.actors sweep_times ", text, flags=re.M),
        encoding="utf-8",
    )
    lines: list[str] = []
    others = dict.fromkeys(("ingest", "scheduler"), 0)
    with Supervisor(procfile, lambda name, line: lines.append(f"{name}: {line}"), concurrency=others) as supervisor:
        supervisor.start()
        try:
            # resize has one worker process per core, and the sweep has one.
            wanted = len(STAGES) + (os.cpu_count() or 1)
            _wait(lambda: sum("Worker process is ready" in line for line in lines) >= wanted, READY)
            yield supervisor
        finally:
            log.write_text("\n".join(lines), encoding="utf-8")


def _run(supervisor: Supervisor, swept: Swept) -> None:
    """Sweep the episodes and print the progress."""
    from pipeline.actors import broker  # noqa: PLC0415 - reads the settings

    broker.queues.namespace = get_settings().queue_namespace
    over, group = threading.Event(), supervisor.pid("sweep.1")
    assert group is not None  # noqa: S101 - it has just started

    def look() -> None:
        while not over.wait(LOOK_EVERY / 2):
            swept.memory.look(group)

    threading.Thread(target=look).start()
    try:
        began = moved = time.monotonic()
        run = sweeping.start(EPISODES, None)
        while True:
            time.sleep(LOOK_EVERY)
            now = time.monotonic()
            found = run_state.load(run)
            assert found is not None  # noqa: S101 - it has been recorded
            if found.counts != swept.counts:
                swept.counts, moved = found.counts, now
            if found.walked and not swept.all_taken:
                swept.all_taken = now - began
            if found.walked and sum(found.counts.values()) == swept.episodes:
                swept.ended = now - began
                return
            if now - moved > STANDS_STILL:
                sys.exit(f"the run stands still: {found.counts} of {swept.episodes} have ended")
            if console.is_terminal:
                console.print(f"{now - began:6.0f} s: {found.claimed} claimed, {found.counts}", end="\r")
    finally:
        over.set()


def _wait(condition: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"it did not happen within {timeout:g} s")
        time.sleep(0.05)


# The hand-over alone.


def hand_over() -> dict[str, list[float]]:
    """Measure messages per second by round: of the queue layer, and of plain requests from one and eight threads."""
    from pipeline.actors import broker, fetch_image  # noqa: PLC0415 - reads the settings

    broker.queues.namespace = get_settings().queue_namespace
    queue = FETCH.queue(Lane.BULK)
    messages = [fetch_image.message_of(_job(number)) for number in range(MESSAGES)]
    entries = [broker._entry(message, 0).request(str(n % BATCH), grouped=True) for n, message in enumerate(messages)]
    batches = [entries[n : n + BATCH] for n in range(0, MESSAGES, BATCH)]
    url = broker.queues.url(queue)

    def request(batch: Any) -> None:
        if broker.sender.client().send_message_batch(QueueUrl=url, Entries=batch).get("Failed"):
            raise SystemExit("the endpoint refused messages")

    def by_threads(number: int) -> None:
        with ThreadPoolExecutor(number) as pool:
            list(pool.map(request, batches))

    def by_the_queue_layer() -> None:
        if any(broker.enqueue_many(messages)):
            raise SystemExit("the hand-over failed")

    ways: dict[str, Callable[[], None]] = {
        "enqueue_many": by_the_queue_layer,
        "SendMessageBatch, one at a time": lambda: by_threads(1),
        "SendMessageBatch, eight at a time": lambda: by_threads(8),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    request(batches[0])  # This opens the connection.
    for number in range(ROUNDS):
        for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
            broker.sender.client().purge_queue(QueueUrl=url)
            began = time.monotonic()
            way()
            rates[name].append(MESSAGES / (time.monotonic() - began))
    return rates


def _job(number: int) -> Job:
    urls = {"itunes_image": f"https://images.example.com/podcasts/{number:032x}/cover-3000x3000.jpg"}
    run = "episodes-2026-01-01T01:00Z"
    job_id = sweep_job_id("episodes", number, urls, run)
    cover = f"cover/{run}/{number:032x}"
    return Job.of_sweep(Sweep("episodes", run, cover), job_id=job_id, folder=f"A_PODCAST_{number}", urls=urls)


# Printing.


def table_of(swept: Sequence[Swept], covers: int) -> Table:
    """Show the runs side by side."""
    table = Table(title=f"Sweeps over {covers:,} covers, one in ten bad")
    table.add_column("episodes")
    for each in swept:
        table.add_column(f"{each.episodes:,}", justify="right")

    def row(name: str, cell: Callable[[Swept], str]) -> None:
        table.add_row(name, *map(cell, swept))

    row("seconds until all pages were taken", lambda s: f"{s.all_taken:.0f}")
    row("seconds until all was written", lambda s: f"{s.ended:.0f}")
    row("documents per second", lambda s: f"{s.episodes / s.ended:.0f}")
    row("pages, including waiting ones", lambda s: f"{s.spent['pages']:.0f}")
    row("jobs handed over", lambda s: f"{s.spent['jobs']:.0f}")
    row("in pages, seconds", lambda s: f"{s.spent['page']:.1f}")
    row("  of these in MongoDB", lambda s: f"{s.spent['mongodb']:.1f}")
    for name in ("find", "update", "aggregate"):
        row(f"    in {name}", lambda s, name=name: f"{s.spent.get(f'mongodb {name}', 0):.1f}")  # type: ignore[misc]
    row("  of these in the hand-over", lambda s: f"{s.spent['hand-over']:.1f}")
    row("  of these in Python", lambda s: f"{s.spent['page'] - s.spent['mongodb'] - s.spent['hand-over']:.1f}")
    row("peak memory of the sweep process, RSS", lambda s: f"{s.memory.resident / 2**20:.1f} MiB")
    row("peak memory of its process group, PSS", lambda s: f"{s.memory.shared_out / 2**20:.1f} MiB")
    row("done, invalid, failed", lambda s: ", ".join(f"{s.counts.get(n, 0):,}" for n in ("done", "invalid", "failed")))
    row("objects whose pixels were checked", lambda s: f"{s.looked_at:,}")
    row(
        "wrong",
        lambda s: (
            "nothing" if not s.wrong else f"{len(s.wrong)} or more" if len(s.wrong) > SHOWN else f"{len(s.wrong)}"
        ),
    )
    return table


def main() -> None:
    """Sweep, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100_000, help="episodes (default: %(default)s)")
    parser.add_argument("--covers", type=int, default=2000, help="channels with one cover each (default: %(default)s)")
    parser.add_argument("--only", choices=["sweep", "hand-over"], help="only one of the two measurements")
    parser.add_argument("--log", type=Path, help="a folder for the logs of the processes")
    options = parser.parse_args()
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as temporary, EmbeddedStack(Path(temporary)) as stack:
        if options.only != "sweep":
            with environment(stack):
                rates = hand_over()
            ours, _, theirs = map(median, rates.values())
            table = Table(title=f"Handing {MESSAGES:,} jobs over, messages per second in {ROUNDS} rounds")
            table.add_column("how")
            for heading in ("median", "least", "most", "of eight at a time"):
                table.add_column(heading, justify="right")
            for name, each in rates.items():
                cells = (f"{rate:,.0f}" for rate in (median(each), min(each), max(each)))
                table.add_row(name, *cells, f"{median(each) / theirs:.0%}")
            console.print(table)
            if ours < RATE * theirs:
                broken.append(f"the hand-over reaches {ours / theirs:.0%} of the endpoint's own rate, not {RATE:.0%}")
        if options.only != "hand-over":
            folder = options.log or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            sizes = (max(options.episodes // 10, 1), options.episodes)
            swept = [sweep(stack, size, options.covers, folder.resolve()) for size in sizes]
            console.print(table_of(swept, options.covers))
            for each in swept:
                for sentence in each.wrong[:SHOWN]:
                    console.print(sentence, highlight=False, markup=False)
            broken += [f"some of {each.episodes:,} episodes are wrong" for each in swept if each.wrong]
            small, large = (each.memory.resident for each in swept)
            if large > MEMORY * small:
                broken.append(f"peak memory is {large / small:.2f} times that of the small run")
    if broken:
        sys.exit("; ".join(broken))


if __name__ == "__main__":
    main()
