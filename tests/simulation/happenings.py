"""The events of a history: each is one method, and a theme names those that happen in it."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.processes import Process
    from tests.simulation.world import World

#: Seconds that a process gets to stop before it is killed: as long as an idle one needs, and as honcho gives.
GRACE, QUICK_GRACE = 30.0, 5.0

#: Dead-letter queues that are deleted or refuse, and queues that are paused, without the namespace.
LETTERS = ("fetch_dlq", "notify_dlq")
PAUSED = ("fetch", "notify", "ingest")

HOUR = 3600.0


class Happenings:
    """Lets events happen in a world, until its faults end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._draw, self._trace, self._later = world.random, world.trace, world.scheduler.later

    def happen(self) -> None:
        """Let one event of the theme happen."""
        getattr(self, self._draw.choice(self._world.theme.happenings))()

    def crash(self) -> None:
        """Kill a process."""
        if process := self._any():
            process.client.die()
            self._world.bury(process)

    def stop(self) -> None:
        """Stop a process, and kill it if it does not end in time."""
        if process := self._any():
            self._world.stop(process, self._draw.choice((QUICK_GRACE, GRACE)))

    def deploy(self) -> None:
        """Stop all processes at once, with little time."""
        for name in sorted(self._world.processes):
            self._world.stop(self._world.processes[name], QUICK_GRACE)

    def outage(self) -> None:
        """Let SQS refuse one operation for a while."""
        self._refuse(self._draw.choice(self._world.theme.operations), "")

    def refused_letters(self) -> None:
        """Let a dead-letter queue refuse messages for a while."""
        self._refuse("send", self._draw.choice(LETTERS))

    def deleted_letters(self) -> None:
        """Delete a dead-letter queue, as an operator may."""
        name = f"sim_{self._draw.choice(LETTERS)}"
        if name in self._world.sqs.queues:
            self._trace.add("operator", "deletes {}", name)
            self._world.sqs.delete_queue(QueueUrl=self._world.sqs.queues[name].url)

    def hang(self) -> None:
        """Let SQS accept requests and answer none for a while."""
        seconds = self._seconds()
        self._trace.add("SQS", "hangs for {:.0f} s", seconds)
        self._world.watch.outage()
        self._world.faults.hanging = True
        for operation in self._world.theme.operations:
            self._world.ledger.outages[operation] += math.ceil(seconds)
        self._later(seconds, partial(setattr, self._world.faults, "hanging", False))

    def freeze(self) -> None:
        """Let a thread of a process hang for good, in its next request."""
        if process := self._any():
            process.client.freezes = True

    def pause(self) -> None:
        """Pause a stage in all processes for a while."""
        queue = self._draw.choice(PAUSED)
        self._trace.add("operator", "pauses {}", queue)
        self._world.pause(queue)
        self._later(self._seconds(), partial(self._world.pause, ""))

    def jump(self) -> None:
        """Let Unix time jump by an hour, and perhaps back again."""
        by = self._draw.choice((-HOUR, HOUR))
        self._trace.add("world", "Unix time jumps by {:.0f} s", by)
        self._world.clock.jumped += by
        self._world.ledger.jumps += 1

    def _refuse(self, operation: str, ending: str) -> None:
        seconds = self._seconds()
        self._world.ledger.outages[operation] += math.ceil(seconds)
        self._trace.add("SQS", "refuses to {} for {:.0f} s {}", operation, seconds, ending)
        self._world.watch.outage()
        self._world.faults.outages.add((operation, ending))
        self._later(seconds, partial(self._accept, (operation, ending)))

    def _accept(self, outage: tuple[str, str]) -> None:
        if outage in self._world.faults.outages:
            self._trace.add("SQS", "accepts to {} again {}", *outage)
            self._world.faults.outages.discard(outage)

    def _seconds(self) -> float:
        theme = self._world.theme
        return max(0.0, min(self._draw.uniform(1, theme.outage), theme.chaos - self._world.clock.now))

    def _any(self) -> Process | None:
        processes = self._world.processes
        return processes[self._draw.choice(sorted(processes))] if processes else None
