"""Asks what /livez and /readyz would answer, and compares it with what is true."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pipeline.monitoring.health import ANSWER_WITHIN
from tests.simulation.threads import LONG, Thread

if TYPE_CHECKING:
    from tests.simulation.processes import Process
    from tests.simulation.world import World

#: Seconds between two looks. A thread that was not due for longer is looked at just before it goes on, when it is
#: latest: so each process is live at every second.
INTERVAL = LONG

#: Seconds without trouble after which a process has to be ready.
CALM = 2 * ANSWER_WITHIN

#: Seconds by which a hanging process may be found late.
MARGIN = 1.0


class Watch:
    """Looks at the health of all processes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._later, self._clock = world.scheduler.later, world.clock

    def watch(self, process: Process) -> None:
        """Look at a process now and then until it ends."""
        self._world.ledger.hanging.discard(process.name)
        self._later(INTERVAL, partial(self._look_again, process))

    def before(self, thread: Thread) -> None:
        """Look at a process before a thread of it goes on that has waited for long."""
        if thread.since:
            self._look(self._world.by_group[thread.group])

    def hangs(self, process: Process, within: float) -> None:
        """Expect that a process is not live within some seconds. An orchestrator may kill it then."""
        self._world.ledger.hanging.add(process.name)
        self._later(within + MARGIN, partial(self._find, process))

    def _find(self, process: Process) -> None:
        if self._world.processes.get(process.name) is process and not process.client.stopping:
            if process.health and not list(process.health.not_live()):
                self._world.ledger.fail("{} hangs and is live.", process.name)
            if self._world.random.random() < 0.5:  # not every service has an orchestrator that asks
                process.client.die()
                self._world.bury(process)

    def _look_again(self, process: Process) -> None:
        if self._world.processes.get(process.name) is process:
            self._look(process)
            self._later(INTERVAL, partial(self._look_again, process))

    def _look(self, process: Process) -> None:
        client, now = process.client, self._clock.now
        if process.health is None or client.stopping or client.is_hanging:
            return
        if problems := list(process.health.not_live()):
            self._world.ledger.fail("{} is not live: {}", process.name, problems)
        troubled = max(client.troubled_at.values(), default=client.started_at)
        if now - max(troubled, client.started_at) > CALM and (problems := list(process.health.not_ready())):
            self._world.ledger.fail("{} is not ready: {}", process.name, problems)
