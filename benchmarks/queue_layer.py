"""Measures the cost of the queue layer: four empty stages on the embedded SQS, compared with plain dramatiq-sqs.

`make bench-queues` alternates between the two several times and prints medians and ratios; it writes nothing. Each
stage is a `dramatiq` process of its own, which loads this module and reports its CPU time and requests.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import dramatiq
import dramatiq_sqs
from dramatiq.middleware import AgeLimit, CurrentMessage
from periodiq import PeriodiqMiddleware
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parent / "end_to_end"))

from stack import use_own_emulator

from pipeline.clients import aws
from pipeline.local.embedded import EmbeddedStack
from pipeline.local.supervisor import Child, command_line
from pipeline.settings import get_settings
from pipeline.sqs.broker import SQSBroker
from pipeline.worker.settlement import Settlement

#: Each stage is one actor with its own queue. It sends to the next stage; the last one reports the end of the job.
STAGES = "abcd"

#: Environment variables of a worker: the prefix of its queues, its stage, and the address of the benchmark's listener.
NAMESPACE, STAGE, ADDRESS = "BENCH_NAMESPACE", "BENCH_STAGE", "BENCH_ADDRESS"

#: Seconds after the last job for its deletes, and the timeout of a job.
SETTLE, TIMEOUT = 0.6, 60.0

#: Maximum seconds between two single jobs. The pause is random, so that no job falls into step with the polls.
PAUSE = 1.5

#: The kinds of requests by SQS operation; anything else counts as "other".
KINDS = {
    "SendMessage": "send",
    "SendMessageBatch": "send",
    "ReceiveMessage": "receive",
    "DeleteMessage": "delete",
    "DeleteMessageBatch": "delete",
}


class Probe(dramatiq.Middleware):
    """Runs in each worker: counts its requests to SQS, and reports the process's usage on demand."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def count(self, client: Any) -> None:
        """Count the requests of a boto3 client when they are sent."""
        client.meta.events.register("before-call.sqs", self._sending)

    def _sending(self, event_name: str, **_: Any) -> None:
        self.requests[KINDS.get(event_name.rpartition(".")[2], "other")] += 1

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        """Connect to the benchmark."""
        self._connection = Client(os.environ[ADDRESS])
        self.report(os.environ[STAGE], os.getpid())
        threading.Thread(target=self._answer, args=[self._connection], daemon=True).start()

    def report(self, *what: object) -> None:
        """Send a message to the benchmark."""
        with self._lock:
            if self._connection:
                self._connection.send(what)

    def _answer(self, connection: Connection) -> None:
        try:
            while connection.recv():
                self.report("used", time.process_time(), dict(self.requests))
        except EOFError:
            return


def ours(probe: Probe | None = None) -> dramatiq.Broker:
    """Build this project's broker as `pipeline.worker.broker` does, with the middleware of every stage's worker."""
    probe = probe or Probe()
    client = aws.sqs()
    probe.count(client)
    return _with_stages(
        SQSBroker(
            os.environ[NAMESPACE],
            lambda: client,
            quarantine={stage: f"{stage}_quarantine" for stage in STAGES},
            middleware=[
                Settlement(get_settings(), job_of=_no_job, message_of=_no_job),
                AgeLimit(),
                CurrentMessage(),
                PeriodiqMiddleware(),
            ],
        ),
        probe,
    )


def plain(probe: Probe | None = None) -> dramatiq.Broker:
    """Build an unchanged dramatiq-sqs broker."""
    probe = probe or Probe()
    broker = dramatiq_sqs.SQSBroker(namespace=os.environ[NAMESPACE])
    probe.count(broker.sqs.meta.client)
    return _with_stages(broker, probe)


BROKERS: dict[str, Callable[..., dramatiq.Broker]] = {"this project": ours, "dramatiq-sqs": plain}


def _no_job(_: object) -> Any:
    raise AssertionError("no stage of the benchmark fails")


def _with_stages(broker: dramatiq.Broker, probe: Probe) -> dramatiq.Broker:
    broker.add_middleware(probe)

    def end(sent: float) -> None:
        probe.report("end", sent, time.monotonic())

    then: Callable[[float], object] = end
    for name in reversed(STAGES):
        then = dramatiq.actor(broker=broker, actor_name=name, queue_name=name)(_step(then)).send
    dramatiq.set_broker(broker)
    return broker


def _step(then: Callable[[float], object]) -> Callable[[float], None]:
    def step(sent: float) -> None:
        then(sent)

    return step


@dataclass
class Use:
    """CPU seconds and requests of one or more processes."""

    cpu: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Use) -> Use:
        return Use(self.cpu + other.cpu, self.requests + other.requests)

    def __sub__(self, other: Use) -> Use:
        return Use(self.cpu - other.cpu, self.requests - other.requests)


@dataclass
class Round:
    """One measurement of one broker."""

    jobs: int
    workers: Use
    sends: Use
    seconds: float
    latencies: list[float]

    @property
    def figures(self) -> dict[str, float]:
        """Return the figures in the order of the table."""
        requests = {kind: self.workers.requests[kind] / self.jobs for kind in ("send", "receive", "delete", "other")}
        return {
            "SQS requests per job": sum(requests.values()),
            **{f"  {kind}": count for kind, count in requests.items()},
            "  extra: to send it": self.sends.requests.total() / self.jobs,
            "CPU ms per job": 1000 * self.workers.cpu / self.jobs,
            "jobs per second": self.jobs / self.seconds,
            "idle latency ms, p50": 1000 * median(self.latencies),
            "idle latency ms, p95": 1000 * quantiles(self.latencies, n=20, method="inclusive")[-1],
        }


#: The target of each figure: a value, or a ratio to plain dramatiq-sqs.
TARGETS = {
    "SQS requests per job": "at most 1.7",
    "CPU ms per job": "ratio 0.33",
    "idle latency ms, p50": "ratio 1",
    "idle latency ms, p95": "ratio 1",
}


class Workers:
    """The running workers of the four stages."""

    def __init__(self, listener: Listener, count: int) -> None:
        with _no_longer_than(TIMEOUT):
            self._connections = [listener.accept() for _ in range(count)]
        self.pids = dict(connection.recv() for connection in self._connections)
        self._used: list[Use] = []

    def used(self) -> Use:
        """Return the usage of all workers so far."""
        self._used = []
        for connection in self._connections:
            connection.send(True)
        while len(self._used) < len(self._connections):
            list(self._messages())
        return sum(self._used, start=Use())

    def ends(self, count: int) -> list[tuple[float, float]]:
        """Wait for the next `count` jobs and return when each was sent and when it ended."""
        ends: list[tuple[float, float]] = []
        while len(ends) < count:
            ends += self._messages()
        return ends

    def _messages(self) -> Iterator[tuple[float, float]]:
        ready = wait(self._connections, TIMEOUT)
        if not ready:
            raise TimeoutError(f"no job ended for {TIMEOUT:g} s")
        for connection in (each for each in self._connections if each in ready):
            match connection.recv():
                case "used", cpu, requests:
                    self._used.append(Use(cpu, Counter(requests)))
                case "end", sent, ended:
                    yield sent, ended


@contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise TimeoutError(f"the workers did not start within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def running(broker: str, threads: list[int], folder: Path) -> Iterator[Workers]:
    """Run the workers of `broker`, one process per stage."""
    address = str(folder / f"{os.environ[NAMESPACE]}.socket")
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {ADDRESS: address, "PYTHONPATH": os.pathsep.join(path)}
    dramatiq_command = Path(sys.executable).with_name("dramatiq")
    children = []
    with Listener(address, "AF_UNIX") as listener, (folder / "workers.log").open("w+b") as log:
        try:
            for stage, count in zip(STAGES, threads, strict=True):
                options = ["--processes", "1", "--threads", str(count), "--queues", stage]
                command = command_line(dramatiq_command, f"queue_layer:{BROKERS[broker].__name__}", *options)
                children.append(Child(command, environ=environ | {STAGE: stage}, cwd=folder, output=log))
            yield Workers(listener, len(STAGES))
        except TimeoutError as error:
            log.seek(0)
            raise SystemExit(f"{error}; the workers logged:\n{log.read().decode(errors='replace')}") from None
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.stop()


def measure(name: str, folder: Path, *, jobs: int, singles: int, threads: list[int]) -> Round:
    """Measure one round: first single jobs, then a burst that waits in the first queue until all jobs are sent."""
    os.environ[NAMESPACE] = f"bench-{secrets.token_hex(4)}"
    probe = Probe()
    broker = BROKERS[name](probe)
    first = broker.get_actor(STAGES[0])
    with running(name, threads, folder) as workers:
        latencies = []
        for _ in range(1 + singles):  # The first job opens the connections.
            first.send(time.monotonic())
            [(sent, ended)] = workers.ends(1)
            latencies.append(ended - sent)
            time.sleep(random.uniform(0.1, PAUSE))  # noqa: S311 - no secret is drawn

        before, none_sent = workers.used(), Use(requests=probe.requests.copy())
        os.kill(workers.pids[STAGES[0]], signal.SIGSTOP)
        _send(broker, [first.message(time.monotonic()) for _ in range(jobs)])
        sends = Use(requests=probe.requests.copy()) - none_sent
        os.kill(workers.pids[STAGES[0]], signal.SIGCONT)
        started = time.monotonic()
        ended = max(ended for _, ended in workers.ends(jobs))
        time.sleep(SETTLE)
        return Round(jobs, workers.used() - before, sends, ended - started, latencies[1:])


def _send(broker: dramatiq.Broker, messages: list[dramatiq.Message[Any]]) -> None:
    if not isinstance(broker, SQSBroker):
        for message in messages:
            broker.enqueue(message)
    elif errors := list(filter(None, broker.enqueue_many(messages))):
        raise errors[0]


def table(rounds: dict[str, list[Round]]) -> Table:
    """Show the medians of both brokers, and the median of the rounds' ratios."""
    mine, theirs = ([each.figures for each in rounds[name]] for name in BROKERS)
    jobs = rounds["this project"][0].jobs
    shown = Table(
        title=f"Four empty stages, {jobs} jobs: medians of {len(mine)} rounds",
        caption="ratio: median over the rounds",
    )
    shown.add_column("of the workers")
    for heading in (*BROKERS, "ratio", "target"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name in mine[0]:
        ratios = [a[name] / b[name] for a, b in zip(mine, theirs, strict=True) if b[name]]
        shown.add_row(
            name,
            *(f"{median(figures[name] for figures in side):.2f}" for side in (mine, theirs)),
            f"{median(ratios):.2f}" if ratios else "",
            TARGETS.get(name, ""),
        )
    return shown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=400, help="jobs in the burst (default: %(default)s)")
    parser.add_argument("--singles", type=int, default=20, help="single jobs, one at a time (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds for each broker (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, nargs=4, default=[8] * 4, metavar="N", help="threads of each stage (default: 8)"
    )
    options = parser.parse_args()
    use_own_emulator()
    rounds: dict[str, list[Round]] = {name: [] for name in BROKERS}
    with tempfile.TemporaryDirectory() as temporary, EmbeddedStack(Path(temporary), with_mongo=False) as stack:
        os.environ |= stack.environ
        for _ in range(options.rounds):
            for name, measured in rounds.items():
                measured.append(
                    measure(name, Path(temporary), jobs=options.jobs, singles=options.singles, threads=options.threads)
                )
    Console().print(table(rounds))


if __name__ == "__main__":
    main()
