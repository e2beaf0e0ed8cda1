"""A run: orders are sent during faults, then the faults end, and the checker judges the outcome."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from pipeline.local.embedded import EmbeddedStack
from tests.chaos.checker import Checker, Outcome
from tests.chaos.documents import BACKLOG, Documents
from tests.chaos.faults import Decks, endpoint_faults, least_duration, outside_faults, process_faults
from tests.chaos.orders import Order, order, plan
from tests.chaos.proxy import Proxy
from tests.chaos.service import TIMEOUT, VISIBILITY, Service, harmful_procfile, running_service
from tests.chaos.world import World
from tests.support.invariants import nothing_left
from tests.support.line import Line
from tests.support.waiting import wait_for

#: Orders per second of a large run. The orders of a small run are spread over the time of the faults.
PACE = 6.0

#: Seconds within which the service must finish after the last fault.
DRAIN = 240.0

#: Orders that must succeed without faults at the end.
CANARIES = 10


@dataclass
class Report:
    """The parameters and the outcome of a run."""

    seed: int
    jobs: int
    seconds: float = 0.0
    thrown: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    outcome: Outcome = field(default_factory=Outcome)
    log: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.outcome.problems


def run(seed: int, jobs: int, scale: float = 1.0) -> Report:
    """Run `jobs` orders and the faults of `seed`. All faults, leases and timeouts are multiplied by `scale`."""
    rng = random.Random(seed)
    report = Report(seed, jobs)
    began, visibility = time.monotonic(), round(VISIBILITY * scale)
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedStack(Path(folder)) as stack,
        World() as world,
        Proxy(stack.environ["AWS_ENDPOINT_URL"], random.Random(f"{seed} proxy"), spare="/kills") as proxy,
        MongoClient[dict[str, Any]](stack.environ["MONGO_URL"]) as mongo,
        Line(mongo.address[1] if mongo.address else 0) as line,
        running_service(
            stack,
            proxy,
            harmful_procfile(Path(folder)),
            MONGO_URL=f"mongodb://127.0.0.1:{line.port}/chaos",
            SWEEP_MAX_BACKLOG=str(BACKLOG),
            VISIBILITY=str(visibility),
            **dict.fromkeys(["FETCH_TIMEOUT", "POSTBACK_TIMEOUT"], f"{TIMEOUT * scale:g}"),
        ) as service,
    ):
        documents = Documents(mongo["chaos"], world, rng, jobs)
        orders = plan(jobs, world, service.queues, rng)
        _storm(orders, service, world, report, line=line, rng=rng, scale=scale)
        _calm(orders, service, world, report, rng)
        report.outcome.problems += _problems_of_draining(service)
        report.seconds = time.monotonic() - began
        report.acts = proxy.acts
        report.restarts = sum(line.is_end for line in service.lines)
        service.supervisor.stop()
        outcome = Checker(orders, service, world, swept_letters=documents.letters, visibility=visibility).check()
        outcome.problems[:0] = [*report.outcome.problems, *documents.problems()]
        report.outcome = outcome
        report.log = [f"{line.at:.2f} {line.process}: {line.text}" for line in service.lines]
    return report


def _storm(
    orders: list[Order],
    service: Service,
    world: World,
    report: Report,
    *,
    line: Line,
    rng: random.Random,
    scale: float,
) -> None:
    """Send orders in waves and run a sweep while the faults are dealt."""
    service.sweep()
    over = threading.Event()
    chances = random.Random(f"{report.seed} processes")
    decks = [endpoint_faults(service.proxy), process_faults(service, chances, over), outside_faults(world, line)]
    seconds = max(scale * max(map(least_duration, decks)), len(orders) / PACE)
    dealt = Decks(decks, report.seed, seconds, over, scale)
    try:
        waiting, began = list(orders), time.monotonic()
        while waiting:
            wave = [waiting.pop(0) for _ in range(min(len(waiting), rng.randint(2, 16)))]
            for each in wave:
                service.send(each)
            # The last wave is sent shortly before the last fault.
            due = began + 0.9 * seconds * (1 - len(waiting) / len(orders))
            over.wait(max(0.0, due - time.monotonic()))
        dealt.join()
    finally:
        over.set()
        service.proxy.calm()
        report.thrown = dealt.thrown
    killers = sum(each.kind == "kills its worker" for each in orders)
    report.thrown["messages that kill their worker"] = killers


def _calm(orders: list[Order], service: Service, world: World, report: Report, rng: random.Random) -> None:
    """Wait until everything has ended, then check that some last orders succeed."""
    try:
        wait_for(lambda: not service.unfinished(), timeout=DRAIN)
        before = set(service.staged())
        canaries = [order(len(orders) + n, "plain", world, service.queues, rng) for n in range(CANARIES)]
        orders += canaries
        for canary in canaries:
            service.send(canary)
        ids = {canary.id for canary in canaries}
        wait_for(lambda: ids <= {post.webhook_id for post in list(world.posts)}, timeout=60)
        wait_for(lambda: not service.unfinished(), timeout=60)
        if set(service.staged()) != before:
            report.outcome.problems.append("orders without faults left objects in staging")
    except AssertionError as error:
        report.outcome.problems.append(f"the run does not end: {error}")


def _problems_of_draining(service: Service) -> list[str]:
    return [problem.about for problem in nothing_left(service.unfinished())]
