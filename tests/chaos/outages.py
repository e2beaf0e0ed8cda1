"""Take SQS down during work, in four ways: python -m tests.chaos.outages 10 60 300 (seconds of each outage).

The Procfile's processes run unchanged, two of each kind. During an outage, one of each is stopped and started again,
and the others have to survive.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.local.embedded import EmbeddedStack
from tests.chaos.orders import Order, order
from tests.chaos.proxy import Act, Proxy, Trouble
from tests.chaos.service import ROOT, Service, running_service
from tests.chaos.world import World
from tests.support.waiting import wait_for

#: Ways in which SQS is down.
WAYS: dict[str, Callable[[Proxy], AbstractContextManager[Any]]] = {
    "refused": Proxy.unreachable,
    "503": lambda proxy: proxy.trouble(Trouble(Act.UNAVAILABLE)),
    "throttled": lambda proxy: proxy.trouble(Trouble(Act.THROTTLE)),
    "expired": lambda proxy: proxy.trouble(Trouble(Act.EXPIRED)),
}

#: Seconds between two orders, also during the outage.
PACE = 0.25

#: Seconds after an outage within which everything must end.
RECOVERY = 120.0


@dataclass
class OutageResult:
    """The result of an outage. Times are in seconds."""

    way: str
    seconds: float
    jobs: int
    lost: int
    repeated: int
    dead_letters: int
    stopping: float  #: time in which one process of each kind stopped during the outage
    first: float  #: from the end of the outage to the first result
    all: float  #: from the end of the outage to the last result

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.dead_letters)


def outage(
    way: str, seconds: float, procfile: Path = ROOT / "Procfile", concurrency: Mapping[str, int] | None = None
) -> OutageResult:
    """Send orders, take SQS down for `seconds`, and wait for the results."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedStack(Path(folder), with_mongo=False) as stack,
        World() as world,
        Proxy(stack.environ["AWS_ENDPOINT_URL"], random.Random(way)) as proxy,
        running_service(
            stack, proxy, procfile, through=["AWS_ENDPOINT_URL_SQS"], concurrency=concurrency, LEVEL="INFO"
        ) as service,
    ):
        orders: list[Order] = []
        over = threading.Event()
        sender = threading.Thread(target=_send, args=[orders, over, world, service])
        sender.start()
        try:
            wait_for(lambda: len(world.posts) >= 8, timeout=60)
            with WAYS[way](proxy):
                over.wait(seconds / 2)
                stopping = _stop_some(service)
                over.wait(max(0.0, seconds / 2 - stopping))
            ended = time.monotonic()
            over.wait(2)
        finally:
            over.set()
            sender.join()
        ids = {each.id for each in orders}
        wait_for(lambda: ids <= {post.webhook_id for post in list(world.posts)}, timeout=RECOVERY)
        wait_for(lambda: not service.unfinished(), timeout=RECOVERY)
        after = [post.at - ended for post in world.posts if post.at > ended]
        return OutageResult(
            way,
            seconds,
            jobs=len(orders),
            lost=len(ids - {post.webhook_id for post in world.posts}),
            repeated=len(world.posts) - len({post.webhook_id for post in world.posts}),
            dead_letters=len(service.dead_letters()),
            stopping=stopping,
            first=min(after),
            all=max(after),
        )


def _send(orders: list[Order], over: threading.Event, world: World, service: Service) -> None:
    rng = random.Random(len(orders))
    while not over.wait(PACE):
        each = order(len(orders), "plain", world, service.queues, rng)
        service.send(each)
        orders.append(each)


def _stop_some(service: Service) -> float:
    """Stop one process of each kind and start it again; returns the seconds until all had stopped."""
    names = [name for name in service.supervisor.names if name.endswith(".1")]
    began = time.monotonic()
    service.supervisor.stop(*names, timeout=RECOVERY)
    stopping = time.monotonic() - began
    service.supervisor.start(*names)
    return stopping


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.outages", description=__doc__)
    parser.add_argument("seconds", type=float, nargs="*", default=[10.0])
    parser.add_argument("--way", choices=WAYS, nargs="+", default=list(WAYS))
    options = parser.parse_args()
    console = Console(width=110)
    headings = ("SQS is", "for", "jobs", "lost", "repeated", "dead letters", "stopping", "first result", "all results")
    table = Table(*headings, title="Outages; results are timed from the end of the outage", title_justify="left")
    good = True
    for seconds in options.seconds:
        for way in options.way:
            console.print(f"SQS is {way} for {seconds:g} s …", style="dim")
            o = outage(way, seconds)
            good = good and o.is_good
            counts = (o.jobs, o.lost, o.repeated, o.dead_letters)
            times = (o.stopping, o.first, o.all)
            table.add_row(way, f"{seconds:g} s", *map(str, counts), *(f"{each:.1f} s" for each in times))
    console.print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
