"""The phases of a long run. Each idle phase is longer than every timeout of an idle process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pymongo.database import Database

from tests.chaos.documents import Documents
from tests.chaos.orders import Order, covers, order
from tests.chaos.service import Service
from tests.chaos.world import World
from tests.support.waiting import wait_for

#: Seconds of an idle phase. The longest timeout of an idle process is the 5 minutes of `/livez`.
IDLE = float(os.environ.get("SOAK_IDLE", "390"))

#: Orders per second, and the kinds of orders that need no harmful worker.
PACE = 3.0
KINDS = ("two images", "missing", "broken", "source busy twice", "shared cover", "receiver gone", "redirected", "giant")

#: Documents for the sweep, in the form of a number of orders of which they are a share.
SWEPT_ORDERS = 1500

#: Seconds until a phase must have drained.
DRAIN = 300.0


@dataclass
class Soak:
    """A running service and what was asked of it."""

    service: Service
    world: World
    database: Database[dict[str, Any]]
    cut_mongo: Callable[[], None]
    restore_mongo: Callable[[], None]
    rng: random.Random
    orders: list[Order] = field(default_factory=list)
    documents: Documents | None = None
    problems: list[str] = field(default_factory=list)

    def load(self, seconds: float, *, drain: bool = True) -> None:
        """Send orders of all kinds at `PACE`."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            kind = self.rng.choice([*KINDS, *["plain"] * 24])
            self.orders.append(order(len(self.orders), kind, self.world, self.service.queues, self.rng))
            self.service.send(self.orders[-1])
            time.sleep(1 / PACE)
        if drain:
            self.drain()

    def idle(self, seconds: float) -> None:
        """Send nothing."""
        time.sleep(seconds)

    def sweep(self, seconds: float) -> None:
        """Sweep documents in the bulk lane, beside orders."""
        self.documents = Documents(self.database, self.world, self.rng, SWEPT_ORDERS)
        self.service.sweep()
        self.load(seconds)

    def recheck(self, seconds: float) -> None:
        """Replace a cover under its URL, and re-check all documents."""
        self.world.files["/swept/1.jpg"] = self.rng.choice(covers("PNG")) + b"replaced"
        before = self._pictures()
        command = [sys.executable, "-m", "pipeline", "sweep", "recheck", "episodes", "--all", "--wait"]
        subprocess.run(command, check=True, timeout=DRAIN, capture_output=True)
        after = self._pictures()
        changed = {n for n, pictures in after.items() if pictures != before[n]}
        if not changed or any(n // 5 != 1 for n in changed):
            self.problems.append(f"the re-check changed the documents {sorted(changed)}, and not those of cover 1")
        self.load(seconds)

    def outage(self, seconds: float) -> None:
        """Take away in order: SQS and S3, MongoDB, all receivers, all sources; orders keep coming."""
        part = seconds / 6
        with self.service.proxy.unreachable():
            time.sleep(part)
        self.cut_mongo()
        self.load(part, drain=False)
        self.restore_mongo()
        with self.world.receivers("500"):
            self.load(part, drain=False)
        with self.world.sources("503"):
            self.load(part, drain=False)
        self.load(2 * part)

    def deploy(self, seconds: float) -> None:
        """Stop each process by SIGTERM, shortly after another, while orders arrive; the supervisor starts it again."""
        processes = {name: self.service.supervisor.pid(name) for name in sorted(self.service.supervisor.names)}
        for pid in processes.values():
            if pid:
                os.kill(pid, signal.SIGTERM)
            self.load(seconds / 2 / len(processes), drain=False)
        for name, pid in processes.items():
            wait_for(lambda name=name, pid=pid: self.service.supervisor.pid(name) not in {None, pid}, timeout=60)
        self.load(seconds / 2)

    def drain(self) -> None:
        """Wait until all queues are empty."""
        try:
            wait_for(lambda: not self.service.unfinished(), timeout=DRAIN)
        except AssertionError:
            self.problems.append(f"the queues are not empty after {DRAIN:g} s: {self.service.unfinished()}")

    def _pictures(self) -> dict[int, Any]:
        return {each["_id"]: each.get("itunes_image_extra_images") for each in self.database.episodes.find()}


def phases(minutes: float) -> list[tuple[str, Callable[[Soak, float], None], float]]:
    """Return the phases of a run: name, work and seconds. Deploy comes first, so that later growth is one process's."""
    idles = 3 if minutes >= 30 else 1
    unit = max(15.0, (60 * minutes - (idles + 1) * IDLE) / 9)
    tail = [(f"idle {number}", Soak.idle, IDLE) for number in range(2, idles + 2)]
    loads = [(f"load {number}", Soak.load, unit) for number in range(3, idles + 3)]
    return [
        ("load 1", Soak.load, unit),
        ("deploy", Soak.deploy, unit),
        ("load 2", Soak.load, unit),
        ("idle 1", Soak.idle, IDLE),
        ("sweep", Soak.sweep, unit),
        ("re-check", Soak.recheck, unit / 2),
        ("outage", Soak.outage, 1.5 * unit),
        *(phase for pair in zip(loads, tail, strict=True) for phase in pair),
    ]
