"""One history: processes, jobs and faults on an in-memory SQS, all decided by a seed."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from random import Random

from tests.simulation.client import Faults, SimulatedClient
from tests.simulation.clock import VirtualClock
from tests.simulation.invariants import check
from tests.simulation.kinds import BY_NAME, SNOOZE
from tests.simulation.ledger import JobRecord, Ledger, Violation
from tests.simulation.memory_sqs import MemorySQS
from tests.simulation.processes import (
    QUARANTINE,
    IngestProcess,
    Process,
    WorkerProcess,
    create_queues,
    sent_by_producer,
)
from tests.simulation.scheduler import Scheduler
from tests.simulation.themes import THEMES, Theme
from tests.simulation.trace import Trace

#: Seconds from the last fault until everything must have ended: a snooze, and seven receives of a poison message.
DRAIN = SNOOZE + 1800.0

#: Seconds that a process gets to stop before it is killed, and that its supervisor takes to start it again.
STOP_TIMEOUT = 10.0
RESTART = (0.5, 5.0)


class World:
    """A history of one theme and seed. The same two always give the same history."""

    def __init__(self, theme: Theme, seed: int) -> None:
        self.theme, self.seed = theme, seed
        self.random = Random(f"{theme.name} {seed}")
        self.clock = VirtualClock()
        self.trace = Trace(self.clock)
        self.sqs = MemorySQS(self.clock, self.random, theme.mischief)
        self.ledger = Ledger(self.sqs)
        self.faults = Faults(
            self.random,
            refuse=theme.refuse,
            lose=theme.lose,
            omit=theme.omit,
            crash=theme.crash,
            interrupt=theme.interrupt,
        )
        self.scheduler = Scheduler(self.clock, self.random)
        self.processes: dict[str, Process] = {}

    def run(self) -> None:
        """Let the history happen, and check it.

        Raises:
            Violation: An invariant does not hold. It ends with the whole history.
        """
        try:
            self._happen()
            check(self.ledger, self.sqs)
        except AssertionError as violation:
            repeat = f"Repeat it: make simulate SEEDS={self.seed} ARGS='--theme {self.theme.name}'"
            raise Violation(f"{violation}\n{repeat}\n{self.trace}") from violation

    def _happen(self) -> None:
        draw, chaos = self.random.uniform, self.theme.chaos
        create_queues(self.sqs, self.theme.input_queue)
        for name in self.theme.processes:
            self._start(name)
        for number in range(1, self.random.randint(1, self.theme.jobs) + 1):
            self._later(draw(0, self.theme.arrivals), partial(self._arrive, number))
        for _ in range(self.random.randint(0, self.theme.events)):
            self._later(draw(0, self.theme.arrivals * 2), self._cause_an_event)
        self._later(chaos, self._heal)
        self.scheduler.run(until=chaos)
        self.scheduler.run(until=chaos + DRAIN, is_over=self._is_drained)

    # Jobs.

    def _arrive(self, number: int) -> None:
        kind = BY_NAME[self.random.choice(self.theme.kinds)]
        if self.theme.input_queue and kind.body == "payload":
            kind = replace(kind, messages=kind.messages + 1)
        job = self.ledger.jobs[number] = JobRecord(number, kind, arrived=self.clock.now)
        queue, entry = sent_by_producer(job, self)
        sent = self.sqs.send_message(QueueUrl=self.sqs.queues[queue].url, **entry)
        message = self.ledger.accepted(queue, sent["MessageId"], entry)
        self.trace.add("producer", "job {} ({}) arrives as message {}", number, kind.name, message.number)

    def _is_drained(self) -> bool:
        return not any(queue.messages for name, queue in self.sqs.queues.items() if not name.endswith("_dlq"))

    # Processes.

    def _start(self, name: str) -> None:
        client = SimulatedClient(self.sqs, self.faults, self.ledger, self.trace, name)
        self.trace.add(name, "starts")
        if name == "ingest":
            self.processes[name] = IngestProcess(name, self, client)
        elif name == "quarantine":
            self.processes[name] = WorkerProcess(name, self, client, queues=[*QUARANTINE.values()], threads=1)
        else:
            self.processes[name] = WorkerProcess(name, self, client, queues=[*QUARANTINE], threads=2)

    def after_step(self, process: Process) -> None:
        """Take a process away that died or ended in a step."""
        self.ledger.check()
        if not process.client.alive:
            self._bury(process)
        elif process.client.stopping and process.is_over:
            self.trace.add(process.name, "has stopped")
            process.client.alive = False
            self.ledger.stopped(process.name)
            self._bury(process)

    def _bury(self, process: Process) -> None:
        """Remove a dead process, and start it again later, as a supervisor does."""
        if self.processes.get(process.name) is process:
            del self.processes[process.name]
            self.scheduler.remove(process.tasks)
            self._later(self.random.uniform(*RESTART), partial(self._start, process.name))

    # Faults.

    def _cause_an_event(self) -> None:
        event = self.random.choice(self.theme.happenings)
        if event == "outage":
            operation = self.random.choice(self.theme.operations)
            seconds = min(self.random.uniform(1, self.theme.outage), self.theme.chaos - self.clock.now)
            self.ledger.outages[operation] += math.ceil(seconds)
            self.trace.add("SQS", "refuses to {} for {:.0f} s", operation, seconds)
            self.faults.outages.add(operation)
            self._later(seconds, partial(self._end_outage, operation))
        elif self.processes:
            process = self.processes[self.random.choice(sorted(self.processes))]
            if event == "crash":
                process.client.die()
                self._bury(process)
            else:
                self._stop(process)

    def _end_outage(self, operation: str) -> None:
        if operation in self.faults.outages:
            self.trace.add("SQS", "accepts to {} again", operation)
            self.faults.outages.discard(operation)

    def _stop(self, process: Process) -> None:
        """Stop a process, and kill it if it does not end in time."""
        if not process.client.stopping:
            self.trace.add(process.name, "is told to stop")
            process.client.stopping = True
            process.stop()
            self._later(STOP_TIMEOUT, partial(self._end, process))

    def _end(self, process: Process) -> None:
        if process.client.alive and self.processes.get(process.name) is process:
            if not (process.is_busy or process.client.was_refused):
                self.ledger.did_not_stop(process.name)
            process.client.die()
            self._bury(process)

    def _heal(self) -> None:
        self.trace.add("world", "no more faults")
        self.faults.heal()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        def once() -> None:
            self.scheduler.remove([task])
            action()

        task = self.scheduler.add("world", once, after=seconds)


def history(theme: str, seed: int) -> str:
    """Return the history of a seed."""
    world = World(THEMES[theme], seed)
    with quietly():
        world.run()
    return str(world.trace)


def histories(theme: str, seeds: Iterable[int]) -> list[str]:
    """Let one history happen for each seed; returns the violations, each with its history.

    The garbage collector rests during a history, which saves a quarter of the time. Worlds are full of cycles, so it
    looks at each as soon as it has ended, while its objects are in the caches of the CPU, and at nothing else.
    """
    violations = []
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with quietly():
            for seed in seeds:
                try:
                    World(THEMES[theme], seed).run()
                except Violation as violation:
                    violations.append(str(violation))
                gc.collect(0)
    finally:
        gc.enable()
        gc.unfreeze()
    return violations


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out the logs of the product: the history has more details, in order."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
