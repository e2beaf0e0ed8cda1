"""Asks what /livez and /readyz would answer, and compares it with what is true."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from pipeline.monitoring.health import ANSWER_WITHIN
from pipeline.sqs.leases import LAST_BACKOFF
from tests.simulation.faults import SLOW
from tests.simulation.threads import LONG, Thread

if TYPE_CHECKING:
    from tests.simulation.processes import Process
    from tests.simulation.world import World

#: Seconds between two looks. A thread that was not due for longer is looked at just before it goes on, when it is
#: latest: so each process is live at every second.
INTERVAL = LONG

#: Seconds without trouble after which a process has to be ready.
CALM = ANSWER_WITHIN

#: Seconds after its last answer from SQS after which an idle process may not be ready. It asks again within a backoff,
#: and the first request without an answer may take long.
NOTICED = ANSWER_WITHIN + LAST_BACKOFF + SLOW[1] + 2.0

#: Seconds after a pause within which the threads have asked again.
RESUMED = 1.0

#: Seconds between two looks at readiness while SQS cannot be reached.
SHORT_INTERVAL = 10.0

#: Seconds by which a hanging process may be found late.
MARGIN = 1.0


class Watch:
    """Looks at the health of all processes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._later, self._clock = world.scheduler.later, world.clock
        self._unreachable_since = math.inf

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

    def outage(self) -> None:
        """Expect that no idle process is ready as long as SQS cannot be reached. It is called before an outage."""
        if not self._world.faults.is_unreachable:
            self._unreachable_since = self._clock.now
            self._later(SHORT_INTERVAL, self._look_in_outage)

    def _look_in_outage(self) -> None:
        if not self._world.faults.is_unreachable:
            return
        for process in self._world.processes.values():
            client = process.client
            began = max(self._unreachable_since, client.answered_at, client.ended_at)
            is_asked = process.health and not (client.stopping or client.is_hanging or self._world.paused)
            is_late = self._clock.now - began > NOTICED and not process.is_busy
            if is_asked and is_late and not list(process.health.not_ready()):
                self._world.ledger.fail("{} is ready and has not reached SQS since {:.0f}.", process.name, began)
        self._later(SHORT_INTERVAL, self._look_in_outage)

    def _find(self, process: Process) -> None:
        if self._world.processes.get(process.name) is process and not process.client.stopping:
            if process.health and not list(process.health.not_live()):
                self._world.ledger.fail("{} hangs and is live.", process.name)
            # Not every service has an orchestrator that asks. In the end an operator does.
            if self._world.random.random() < 0.5 or self._world.faults.are_over:
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
        troubled = max(client.started_at, self._world.paused_at + RESUMED - CALM, *client.troubled_at.values())
        if process.name.endswith("quarantine"):  # its other queue waits while it has a message
            troubled = max(troubled, client.ended_at)
        if now - troubled > CALM and (problems := list(process.health.not_ready())):
            self._world.ledger.fail("{} is not ready: {}", process.name, problems)
