"""Faults that need time or room of their own: python -m tests.chaos.scenarios [NAME ...].

Each scenario runs the processes, causes one fault, and measures how the service comes through it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.clients import aws
from pipeline.job import Job
from pipeline.local.embedded import EmbeddedStack
from pipeline.settings import get_settings
from pipeline.sqs.wire import DUE
from pipeline.stages import NOTIFY, RESIZE, STAGES
from tests.chaos.orders import Order, order
from tests.chaos.proxy import DELETES, RECEIVES, SENDS, Act, Proxy, Trouble
from tests.chaos.service import ROOT, Service, harmful_procfile, running_service
from tests.chaos.world import World
from tests.support.waiting import wait_for

#: Seconds within which everything must have ended after the fault.
RECOVERY = 240.0


@dataclass
class Figures:
    """The measurements of a scenario. Times are in seconds."""

    rows: dict[str, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass
class Stage:
    """The running service of a scenario."""

    service: Service
    world: World
    proxy: Proxy
    folder: Path
    figures: Figures = field(default_factory=Figures)
    orders: list[Order] = field(default_factory=list)
    sent: dict[str, float] = field(default_factory=dict)  #: time of each order by its job's id
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def send(self, number: int, *, pace: float = 0.0) -> list[Order]:
        """Send orders, each `pace` seconds after the other."""
        new = []
        for _ in range(number):
            each = order(len(self.orders), "plain", self.world, self.service.queues, self.rng)
            each.door = "queue"
            self.service.send(each)
            self.sent[each.id] = time.monotonic()
            self.orders.append(each)
            new.append(each)
            threading.Event().wait(pace)
        return new

    def wait_for_results(self) -> None:
        """Wait until every order has a result and the queues are empty."""
        try:
            wait_for(lambda: self.sent.keys() <= self.posted().keys(), timeout=RECOVERY)
            wait_for(lambda: not self.service.unfinished(), timeout=RECOVERY)
        except AssertionError as error:
            self.figures.problems.append(f"it does not end: {error}; {self.service.unfinished()}")

    def posted(self) -> dict[str, float]:
        """Return the time of each job's first result."""
        first: dict[str, float] = {}
        for post in list(self.world.posts):
            first.setdefault(post.webhook_id, post.at)
        return first

    def latency(self, orders: Sequence[Order], share: float = 0.95) -> float:
        """Return the time from sending to the result that `share` of these orders kept."""
        posted = self.posted()
        times = sorted(posted[each.id] - self.sent[each.id] for each in orders if each.id in posted)
        return times[min(len(times) - 1, int(share * len(times)))] if times else float("inf")

    def judge(self) -> Figures:
        """Add the figures of every scenario: each order must have succeeded, and nothing may be a dead letter."""
        succeeded = {post.webhook_id for post in self.world.posts if post.body.get("image_url_info")}
        letters = self.service.dead_letters()
        repeated = len(self.world.posts) - len({post.webhook_id for post in self.world.posts})
        self.figures.rows |= {
            "jobs": len(self.sent),
            "succeeded": len(succeeded & self.sent.keys()),
            "results repeated": repeated,
            "dead letters": len(letters),
        }
        if failed := self.sent.keys() - succeeded:
            self.figures.problems.append(f"{len(failed)} jobs did not succeed")
        if letters:
            codes = sorted({f"{letter['queue']}: {letter.get('error_code')}" for letter in letters})
            self.figures.problems.append(f"{len(letters)} dead letters: {', '.join(codes)}")
        if self.service.dead_input:
            dead = sum(self.service.counts(self.service.dead_input))
            self.figures.rows["in the input queue's dead-letter queue"] = dead
            if dead:
                self.figures.problems.append(f"{dead} messages are in the input queue's dead-letter queue")
        return self.figures


@contextmanager
def staged(
    procfile: Callable[[Path], Path] = lambda _: ROOT / "Procfile", *, fifo: bool = True, max_receives: int = 0
) -> Iterator[Stage]:
    """Run the service of a scenario."""
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedStack(Path(name), with_mongo=False) as stack,
        World() as world,
        Proxy(stack.environ["AWS_ENDPOINT_URL"], random.Random(1)) as proxy,
        running_service(
            stack,
            proxy,
            procfile(Path(name)),
            fifo=fifo,
            max_receives=max_receives,
            LEVEL="INFO",
            CRASH_LOOP=str(Path(name) / "crash-loop"),
        ) as service,
    ):
        yield Stage(service, world, proxy, Path(name))


def no_sends(*, fifo: bool, seconds: float = 110.0) -> Figures:
    """SQS takes no sends for longer than two visibility timeouts; the input queue allows two receives."""
    with staged(fifo=fifo, max_receives=2) as stage:
        with stage.proxy.trouble(Trouble(Act.UNAVAILABLE, SENDS)):
            stage.send(30)
            threading.Event().wait(seconds)
        ended = time.monotonic()
        stage.wait_for_results()
        stage.figures.rows |= {"outage": f"{seconds:g} s", "last result after": _seconds(stage, ended)}
        return stage.judge()


def no_requests(operations: frozenset[str], seconds: float = 60.0) -> Figures:
    """SQS refuses one operation for longer than the visibility timeout, while orders arrive."""
    with staged() as stage:
        stage.send(4)
        with stage.proxy.trouble(Trouble(Act.UNAVAILABLE, operations)):
            stage.send(int(seconds / 2), pace=2.0)
        ended = time.monotonic()
        stage.wait_for_results()
        stage.figures.rows |= {"outage": f"{seconds:g} s", "last result after": _seconds(stage, ended)}
        return stage.judge()


def unreadable_staging(seconds: float = 25.0) -> Figures:
    """The role of resize may not read staging for a while, and all others may."""
    with staged(_procfile_with_roles) as stage:
        forbidden = Trouble(Act.FORBID, {"GET"}, path="/pipeline-staging/", role=RESIZE.name)
        with stage.proxy.trouble(forbidden):
            stage.send(10)
            threading.Event().wait(seconds)
        ended = time.monotonic()
        stage.wait_for_results()
        stage.figures.rows |= {
            "forbidden": f"{seconds:g} s",
            "refused": stage.proxy.acts[Act.FORBID.name],
            "last result after": _seconds(stage, ended),
        }
        return stage.judge()


def _procfile_with_roles(folder: Path) -> Path:
    """Write the Procfile with an access key for each stage, by which the proxy tells the stages apart."""
    text = (ROOT / "Procfile").read_text()
    for each in STAGES:
        assert f"{each.name}: " in text
        text = text.replace(f"{each.name}: ", f"{each.name}: AWS_ACCESS_KEY_S3={each.name} ", 1)
    path = folder / "Procfile"
    path.write_text(text)
    return path


def crash_loop(hit: int = 50, arriving: int = 300, pace: float = 0.1) -> Figures:
    """Every worker of resize dies at its first job until fifty messages were received four times; jobs go on arriving.

    The messages that were hit go to quarantine, and the jobs that arrive after the loop are not delayed by them.
    """
    with staged(harmful_procfile) as stage:
        crashes = stage.folder / "crash-loop"
        crashes.touch()
        stage.send(hit + 10)
        began = time.monotonic()
        quarantined = stage.service.url(RESIZE.quarantine_queue)
        moved = 0
        while moved < hit and time.monotonic() - began < RECOVERY:
            # The loop ends for a moment now and then, as a process with another memory limit would.
            threading.Event().wait(1.0)
            moved = max(moved, _moved(stage, quarantined))
        crashes.unlink()
        ended = time.monotonic()
        during = list(stage.orders)
        after = stage.send(arriving, pace=pace)
        stage.wait_for_results()
        posted = stage.posted()
        stage.figures.rows |= {
            "crash loop": f"{ended - began:.0f} s",
            "processes that died": sum(line.is_end for line in stage.service.lines),
            "messages hit": moved,
            "jobs that arrived after it, p95": f"{stage.latency(after):.1f} s",
            "messages hit had ended after": f"{max(posted.get(o.id, ended) for o in during) - ended:.1f} s",
        }
        return stage.judge()


def _moved(stage: Stage, url: str) -> int:
    """Count the messages that were moved to quarantine: still there, or finished with a result."""
    return sum(stage.service.counts(url)) + len(stage.posted())


def hops(number: int = 600, seconds: float = 20.0) -> Figures:
    """Deliveries that are due much later all hop at once, while live jobs arrive."""
    with staged() as stage:
        stage.send(4)
        wait_for(lambda: len(stage.posted()) == 4, timeout=60)
        url = stage.service.url(NOTIFY.name)
        began = time.monotonic()
        _send_hops(url, number)
        live: list[Order] = []
        sender = threading.Thread(target=lambda: live.extend(stage.send(int(seconds * 2), pace=0.5)))
        sender.start()
        wait_for(lambda: stage.service.counts(url)[2] >= number, timeout=RECOVERY)
        ended = time.monotonic()
        sender.join()
        wait_for(lambda: stage.sent.keys() <= stage.posted().keys(), timeout=RECOVERY)
        aws.sqs().purge_queue(QueueUrl=url)  # they are due in a day
        stage.figures.rows |= {
            "hops": number,
            "all had hopped within": f"{ended - began:.1f} s",
            "live jobs, p95": f"{stage.latency(live):.1f} s",
            "live jobs, longest": f"{stage.latency(live, 1.0):.1f} s",
        }
        return stage.judge()


def _send_hops(url: str, number: int) -> None:
    """Put deliveries into notify's queue that SQS shows at once, although they are due in a day."""
    from pipeline.actors import broker

    actor = broker.get_actor(NOTIFY.actor)
    payload = {"image_url": "http://127.0.0.1:9/x", "postback_url": "http://127.0.0.1:9/hook"}
    job = Job.accept(payload, job_id="hop", settings=get_settings(), stage_payload=lambda _: "")
    job = job.with_sources({each.url: each.back_at_fetch() for each in job.sources})
    message = actor.message_of(job)  # type: ignore[attr-defined]
    message = message.copy(queue_name=NOTIFY.name, options={DUE: int((time.time() + 86_400) * 1000)})
    body = message.encode().decode()
    for start in range(0, number, 10):
        entries = [{"Id": str(n), "MessageBody": body} for n in range(min(10, number - start))]
        aws.sqs().send_message_batch(QueueUrl=url, Entries=entries)  # type: ignore[arg-type]


def _seconds(stage: Stage, since: float) -> str:
    return f"{max(stage.posted().values(), default=since) - since:.1f} s"


SCENARIOS: dict[str, Callable[[], Figures]] = {
    "no sends, standard": partial(no_sends, fifo=False),
    "no sends, FIFO": partial(no_sends, fifo=True),
    "no deletes": partial(no_requests, DELETES),
    "no receives": partial(no_requests, RECEIVES),
    "no extensions": partial(no_requests, frozenset({"ChangeMessageVisibilityBatch"})),
    "unreadable staging": unreadable_staging,
    "crash loop": crash_loop,
    "hops": hops,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.scenarios", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"one of: {', '.join(SCENARIOS)}; by default all")
    names = parser.parse_args().name or list(SCENARIOS)
    if unknown := [name for name in names if name not in SCENARIOS]:
        parser.error(f"{unknown[0]!r} is not one of {', '.join(SCENARIOS)}")
    console, good = Console(width=110), True
    for name in names:
        console.print(f"{name} …", style="dim")
        figures = SCENARIOS[name]()
        table = Table("", "", title=name, title_justify="left", show_header=False)
        for row, value in figures.rows.items():
            table.add_row(row, str(value))
        console.print(table)
        for problem in figures.problems:
            console.print(problem, markup=False, highlight=False, soft_wrap=True)
        console.print("NOT GOOD" if figures.problems else "good", style="bold red" if figures.problems else "green")
        good = good and not figures.problems
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
