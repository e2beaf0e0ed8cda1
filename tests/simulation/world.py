"""One history: processes, jobs and faults on an in-memory SQS, all decided by a seed."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from random import Random

from pipeline.worker import registry
from tests.simulation import threads
from tests.simulation.client import SimulatedClient
from tests.simulation.clock import VirtualClock
from tests.simulation.faults import Faults
from tests.simulation.happenings import GRACE, HOUR, Happenings
from tests.simulation.invariants import check
from tests.simulation.kinds import BY_NAME, SNOOZE
from tests.simulation.ledger import JobRecord, Ledger, Violation
from tests.simulation.memory_sqs import MemorySQS
from tests.simulation.processes import (
    IngestProcess,
    Process,
    WorkerProcess,
    create_queues,
)
from tests.simulation.producer import first_message
from tests.simulation.replaced import replaced
from tests.simulation.themes import THEMES, Theme, theme_of
from tests.simulation.threads import Scheduler, Thread
from tests.simulation.trace import Trace
from tests.simulation.watch import Watch

#: Seconds from the last fault until everything must have ended: a snooze, and seven receives of a poison message.
DRAIN = SNOOZE + 1800.0

#: Seconds that a process may take to end after its last message.
CLOSING = 5.0

#: The probability that a process runs from the beginning. Without need for it, a process of quarantine only polls.
STARTS = {"worker 2": 0.6, "quarantine": 0.4}

#: The probability that all processes are stopped in the end, which takes a tenth of a history's time.
STOPPED = 0.5

#: Seconds that a supervisor takes to start a process again.
RESTART = (0.5, 5.0)


class World:
    """A history of one theme and seed. The same two always give the same history."""

    def __init__(self, theme: Theme, seed: int) -> None:
        self.theme, self.seed = theme, seed
        self.random = Random(f"{theme.name} {seed}")
        self.clock = VirtualClock()
        self.trace = Trace(self.clock)
        self.sqs = MemorySQS(self.clock, self.random, theme.mischief)
        self.ledger = Ledger(self.sqs, self.trace, self._alarm, self._need_quarantine)
        self.faults = Faults(self.random, theme)
        self.scheduler = Scheduler(self.clock, self.random)
        self.scheduler.after = self._after
        self.happenings = Happenings(self)
        self.watch = Watch(self)
        self.scheduler.before = self.watch.before
        self.processes: dict[str, Process] = {}
        self._started: set[str] = set()
        self.paused, self.paused_at = "", -math.inf  # the queue, and when a pause last began or ended
        self._is_ending = False
        self.by_group: dict[threads.Group, Process] = {}

    def run(self) -> None:
        """Let the history happen, and check it.

        Raises:
            Violation: An invariant does not hold. It ends with the whole history.
        """
        threads.use(self.scheduler)
        try:
            self._happen()
            check(self.ledger, self.sqs)
        except AssertionError as violation:
            repeat = f"Repeat it: make simulate SEEDS={self.seed} ARGS='--theme {self.theme.name}'"
            raise Violation(f"{violation}\n{repeat}\n{self.trace}") from violation
        finally:
            for process in self.by_group.values():
                process.client.group.alive = False
                self.scheduler.end(process.client.group)
            threads.use()
            registry._ours.clear()

    def _happen(self) -> None:
        draw, chaos = self.random.uniform, self.theme.chaos
        create_queues(self.sqs, self.theme.input_queue)
        for name in self.theme.processes:
            if self.random.random() < STARTS.get(name, 1.0):
                self._start(name)
        for number in range(1, self.random.randint(1, self.theme.jobs) + 1):
            self.scheduler.later(draw(0, self.theme.arrivals), partial(self._arrive, number))
        for _ in range(self.random.randint(0, self.theme.events)):
            self.scheduler.later(draw(0, self.theme.arrivals * 2), self.happenings.happen)
        self.scheduler.later(chaos, self._heal)
        self.scheduler.run(until=self.clock.now + chaos)
        self._drained = [queue for name, queue in self.sqs.queues.items() if not name.endswith("_dlq")]
        self.scheduler.run(until=chaos + DRAIN + HOUR * self.ledger.jumps, is_over=self._is_drained)
        if self.random.random() < STOPPED:
            self._stop_all()

    def _stop_all(self) -> None:
        """End every process that is left. Nothing keeps any of them from ending in time."""
        self._is_ending = True
        for name in sorted(self.processes):
            self.stop(self.processes[name], GRACE)
        self.scheduler.run(until=self.clock.now + GRACE + 1.0, is_over=lambda: not self.processes)

    # Jobs.

    def _arrive(self, number: int) -> None:
        kind = BY_NAME[self.random.choice(self.theme.kinds)]
        if self.theme.input_queue and kind.body == "payload" and kind.queue == "fetch":
            kind = replace(kind, messages=kind.messages + 1)
        job = self.ledger.jobs[number] = JobRecord(number, kind, arrived=self.clock.time())
        queue, entry = first_message(job, self.clock, self.theme.input_queue)
        sent = self.sqs.send_message(QueueUrl=self.sqs.queues[queue].url, **entry)
        message = self.ledger.accepted(queue, sent["MessageId"], entry)
        self.trace.add("producer", "job {} ({}) arrives as message {}", number, kind.name, message.number)

    def _is_drained(self) -> bool:
        if any(queue.messages for queue in self._drained):
            return False
        # A thread whose message another worker has settled may still be about to send.
        return not any(each.is_busy or each.client.delayed.total() for each in self.processes.values())

    # Processes.

    def _start(self, name: str) -> None:
        if self._is_ending:
            return
        self._started.add(name)
        client = SimulatedClient(self.scheduler, self.sqs, self.faults, self.ledger, name)
        self.trace.add(name, "starts")
        process: Process = (IngestProcess if name == "ingest" else WorkerProcess)(name, self, client)
        client.on_hang = partial(self.watch.hangs, process)
        self.processes[name] = self.by_group[client.group] = process
        self.watch.watch(process)

    def _need_quarantine(self) -> None:
        """Start the process of quarantine if it has not run yet, now that a message waits for it."""
        for name in {"quarantine"}.intersection(self.theme.processes) - self._started:
            self._started.add(name)
            self.scheduler.later(self.random.uniform(*RESTART), partial(self._start, name))

    def pause(self, queue: str) -> None:
        """Pause a stage in all processes, or none."""
        self.paused, self.paused_at = queue, self.clock.now
        for name in sorted(self.processes):
            self.processes[name].pause([queue] if queue else [])

    def _alarm(self) -> None:
        self.scheduler.is_alarmed = True

    def _after(self, thread: Thread) -> None:
        """Take a process away that died or ended in a step."""
        self.ledger.check()
        if self.scheduler.errors:
            error = self.scheduler.errors[0]
            raise Violation(f"An error ended a thread of {thread.name}: {error!r}") from error
        process = self.by_group[thread.group]
        if process.client.group.alive:
            self.trace.add(process.name, "has stopped")
            if not process.client.stopping:
                self.ledger.fail("{} ended although nobody told it to.", process.name)
            process.client.group.alive = False
            client = process.client
            self.ledger.stopped(process.name, refused=client.was_refused, delayed=client.delayed)
        self.bury(process)

    def bury(self, process: Process) -> None:
        """Remove a dead process, and start it again later, as a supervisor does."""
        if self.processes.get(process.name) is process:
            del self.processes[process.name], self.by_group[process.client.group]
            for url, until in process.client.polling.values():
                self._abandon(process, url, until)
            self.scheduler.end(process.client.group)
            self.scheduler.later(self.random.uniform(*RESTART), partial(self._start, process.name))

    def _abandon(self, process: Process, url: str, until: float) -> None:
        """Let SQS answer a poll whose process has ended: the next message is hidden, and no one has it."""
        queue = self.sqs.queue(url)
        if queue is None or self.clock.now >= until:
            return

        def wake(when: float) -> None:
            if when < until:
                self.scheduler.later(max(0.0, when - self.clock.now), look)

        def look() -> None:
            if wake in queue.waiting and queue.visible(self.clock.now):
                queue.waiting.remove(wake)
                self.ledger.abandoned(process.name, self.sqs.receive_message(QueueUrl=url, VisibilityTimeout=45))

        queue.waiting.append(wake)
        wake(queue.next_visible(self.clock.now))
        self.scheduler.later(until - self.clock.now, lambda: wake in queue.waiting and queue.waiting.remove(wake))

    def stop(self, process: Process, grace: float) -> None:
        """Stop a process, and kill it if it does not end in time."""
        if not process.client.stopping:
            self.trace.add(process.name, "is told to stop")
            process.client.stopping = True
            process.stop()
            self.scheduler.later(grace, partial(self._end, process, grace))

    def _end(self, process: Process, grace: float) -> None:
        """Kill a process that has not stopped in time. With enough of it, and no trouble, it has to."""
        if self.processes.get(process.name) is process:
            client = process.client
            has_just_ended = self.clock.now - client.ended_at < CLOSING
            if grace == GRACE and not (process.is_busy or has_just_ended or client.was_refused):
                self.ledger.did_not_stop(process.name)
            process.client.die()
            self.bury(process)

    def _heal(self) -> None:
        self.trace.add("world", "no more faults")
        self.faults.heal()
        for name in sorted(self.processes):
            if self.processes[name].client.is_hanging:  # an operator restarts it
                self.processes[name].client.die()
                self.bury(self.processes[name])
        if self.paused:
            self.pause("")  # else nothing may wake a thread that should have been woken before
        self.ledger.newer_at = self.clock.now
        self.scheduler.is_deployed = True


def history(seed: int, theme: str = "") -> str:
    """Return the history of a seed, in its own theme or in another."""
    world = World(THEMES[theme or theme_of(seed)], seed)
    with quietly():
        world.run()
    return str(world.trace)


def histories(seeds: Iterable[int], theme: str = "") -> list[str]:
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
                    World(THEMES[theme or theme_of(seed)], seed).run()
                except Violation as violation:
                    violations.append(str(violation))
                gc.collect(0)
    finally:
        gc.enable()
        gc.unfreeze()
    return violations


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out the logs of the product: the history has more details, in order. Simulate its time and threads."""
    logging.disable(logging.CRITICAL)
    try:
        with replaced():
            yield
    finally:
        logging.disable(logging.NOTSET)
