"""Runs one contender: start, warm-up, and the measured phases."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from entrants import Entrant, Send, ready_lines
from honcho.environ import parse_procfile
from stack import Stack
from stack import running as running_stack
from usage import cpu_seconds, watching
from world import World

from pipeline.local.supervisor import Supervisor
from pipeline.stages import STAGES

#: Timeouts in seconds: for the processes to become ready, for the jobs of a phase to end, and for the deletes after a
#: phase's last postback.
READY, TIMEOUT, SETTLE = 90.0, 600.0, 1.5

#: The phases: all jobs at once; fixed rates in jobs per second, the same for all contenders, with their duration in
#: seconds; and this share of the contender's own throughput.
SATURATION = "saturation"
RATES = {2: 15.0, 10: 10.0, 20: 8.0}
LOAD, LOAD_SECONDS = 0.8, 8.0

#: How many jobs of a burst are sent at a time. In a longer pause the system may take back the memory that the warm-up
#: left, at least in a virtual machine.
SENDERS = 16

#: A contender skips rates above this multiple of its throughput: it cannot keep up, and the jobs would only queue.
HOPELESS = 1.2

#: The times at which each job was sent and at which its postback arrived.
Times = tuple[list[float], list[float]]

_ATTEMPT = re.compile(r"stage=(\w+) job=(\S+) outcome=done seconds=([\d.]+)")


def at(rate: float) -> str:
    """Return the name of the phase with that rate."""
    return f"{rate:g}/s"


#: The name of the phase with its share of the contender's own throughput.
LOADED = f"{100 * LOAD:.0f} %"


@dataclass
class Phase:
    """The measurements of some jobs; figures are per job unless stated otherwise."""

    jobs: int
    rate: float  #: jobs per second, from the first one sent to the last postback
    sent: list[float]  #: seconds from the first job, for each job; in a burst, all are sent when the contender begins
    waits: list[float]  #: seconds from before it is sent until its postback, for each job
    own: list[float]  #: logged seconds of work in all stages, for each job whose log is complete
    cpu: dict[str, float]  #: milliseconds, by process type
    requests: dict[str, float]  #: by kind
    memory: int = 0  #: peak of all processes together in bytes; only for bursts


def moments(rate: float, seconds: float) -> list[float]:
    """Draw random moments, `rate` per second, within this many seconds: the same for all contenders."""
    chance = random.Random(rate)  # noqa: S311 - not a secret
    return sorted(chance.uniform(0, seconds) for _ in range(max(10, round(rate * seconds))))


class Contender:
    """A contender's running processes."""

    def __init__(self, entrant: Entrant, stack: Stack, world: World, send: Send) -> None:
        self.entrant = entrant
        self._stack = stack
        self._world = world
        self._send = send
        self.last_lines: deque[str] = deque(maxlen=60)
        self._ready: defaultdict[str, int] = defaultdict(int)
        self._attempts: list[tuple[str, float]] = []
        commands = parse_procfile(entrant.procfile.read_text(encoding="utf-8")).processes
        self._awaited = {f"{name}.1": ready_lines(command) for name, command in commands.items()}
        self.supervisor = Supervisor(entrant.procfile, self._on_line, environ=entrant.environ(stack.environ))

    def _on_line(self, name: str, text: str) -> None:
        self.last_lines.append(f"{name}: {text}")
        line, _ = self._awaited[name]
        self._ready[name] += bool(line) and line in text
        if attempt := _ATTEMPT.search(text):
            self._attempts.append((attempt[2], float(attempt[3])))

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY
        while any(self._ready[name] < count for name, (_, count) in self._awaited.items()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.entrant.title} was not ready within {READY:g} s")
            time.sleep(0.05)

    def groups(self) -> dict[int, str]:
        """Return the process groups with the type of each."""
        pids = {self.supervisor.pid(name): name.partition(".")[0] for name in self.supervisor.names}
        return {pid: name for pid, name in pids.items() if pid}

    def warm_up(self, side: int, count: int) -> None:
        """Do `count` jobs at once without measuring them.

        Every process opens its connections and loads its libraries. Memory and page cache grow to the needs of the
        burst, as in workers that have run for hours.
        """
        self._at_once(side, count)
        time.sleep(SETTLE)

    def burst(self, side: int, count: int) -> Phase:
        """Measure `count` jobs that all wait in the first queue when the contender begins."""
        groups = self.groups()
        with watching(lambda: groups) as peak:
            phase = self._phase(lambda: self._at_once(side, count))
        return replace(phase, memory=peak.bytes)

    def steady(self, side: int, due: Sequence[float]) -> Phase:
        """Measure jobs that are sent at these moments."""
        return self._phase(lambda: self._spread(side, due))

    def _at_once(self, side: int, count: int) -> Times:
        """Send all jobs while the contender is stopped: otherwise a slow producer would limit a fast contender."""
        jobs = self._world.payloads(side, count)
        groups = self.groups()
        for group in groups:
            os.killpg(group, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(SENDERS) as pool:
                list(pool.map(self._send, jobs.values()))
        finally:
            for group in groups:
                os.killpg(group, signal.SIGCONT)
        released = time.monotonic()
        return [released] * count, self._world.wait_for(jobs, TIMEOUT)

    def _spread(self, side: int, due: Sequence[float]) -> Times:
        began, sent = time.monotonic(), {}
        for moment, (job, payload) in zip(due, self._world.payloads(side, len(due)).items(), strict=True):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            sent[job] = time.monotonic()
            self._send(payload)
        return list(sent.values()), self._world.wait_for(sent, TIMEOUT)

    def _phase(self, do: Callable[[], Times]) -> Phase:
        groups = self.groups()
        self._attempts.clear()
        cpu, (_, requests) = cpu_seconds(groups), self._stack.counted()
        sent, ended = do()
        time.sleep(SETTLE)
        used, (_, counted) = cpu_seconds(groups), self._stack.counted()
        count, began = len(sent), min(sent)
        if self.groups() != groups:
            raise RuntimeError(f"a process of {self.entrant.title} died")
        by_type: defaultdict[str, float] = defaultdict(float)
        for group, name in groups.items():
            by_type[name] += 1000 * (used[group] - cpu[group]) / count
        own: defaultdict[str, list[float]] = defaultdict(list)
        for job, seconds in self._attempts:
            own[job].append(seconds)
        return Phase(
            jobs=count,
            rate=count / (max(ended) - began),
            sent=[each - began for each in sent],
            waits=[end - since for since, end in zip(sent, ended, strict=True)],
            own=[sum(attempts) for attempts in own.values() if len(attempts) == len(STAGES)],
            cpu=dict(by_type),
            requests={kind: (counted - requests)[kind] / count for kind in sorted(counted - requests)},
        )


@contextmanager
def running(entrant: Entrant, folder: Path, world: World) -> Iterator[Contender]:
    """Run a contender on a stack of its own; yields when all of its processes are ready."""
    with running_stack(folder, entrant.staging) as stack, entrant.sending(stack.environ) as send:
        contender = Contender(entrant, stack, world, send)
        with contender.supervisor:
            contender.supervisor.start()
            try:
                contender.wait_until_ready()
                yield contender
            except (TimeoutError, RuntimeError) as error:
                print(*contender.last_lines, sep="\n", file=sys.stderr)  # noqa: T201
                raise SystemExit(f"{entrant.title}: {error}") from None


def measure(entrant: Entrant, folder: Path, world: World, sides: list[int], jobs: int, *, quick: bool) -> Iterator[Any]:
    """Measure one round of one contender: a burst for each side, and the rates for the smallest side unless `quick`.

    Yields:
        For each side the phases by name.
    """
    jobs = max(10, jobs // entrant.slowness)
    with running(entrant, folder, world) as contender:
        contender.warm_up(max(sides), jobs)
        for side in sorted(sides, reverse=True):
            burst = contender.burst(side, jobs)
            phases = {SATURATION: burst}
            if side == min(sides) and not quick:
                for rate, seconds in RATES.items():
                    if rate < HOPELESS * burst.rate:
                        phases[at(rate)] = contender.steady(side, moments(rate, seconds))
                phases[LOADED] = contender.steady(side, moments(LOAD * burst.rate, LOAD_SECONDS))
            yield {"side": side, "phases": {name: asdict(phase) for name, phase in phases.items()}}
