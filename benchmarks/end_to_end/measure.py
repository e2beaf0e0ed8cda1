"""One contender at work: started, warmed up, and measured in phases."""

from __future__ import annotations

import random
import re
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
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

#: Seconds until the processes are ready, until the jobs of a phase have ended, and after a phase's last postback until
#: its deletes are made.
READY, TIMEOUT, SETTLE = 90.0, 600.0, 1.5

#: Seconds between two single jobs: a random part, so that none falls into step with polls.
PAUSE = 1.0

#: Of the images a second that a burst showed, what a contender is given when it is measured under load.
LOAD = 0.8

_TURN = re.compile(r"stage=(\w+) job=(\S+) outcome=done seconds=([\d.]+)")


@dataclass
class Burst:
    """Many jobs at once; of each image, unless said otherwise."""

    jobs: int
    rate: float  #: images a second, from the first message sent to the last postback
    cpu: dict[str, float]  #: milliseconds, by process type
    system: dict[str, float]  #: of these in the kernel
    emulator: float  #: milliseconds of the emulator's
    requests: dict[str, float]  #: by kind
    memory: int  #: bytes at the peak, all processes together


@dataclass
class Waits:
    """Seconds from message to postback, of single jobs."""

    seconds: list[float]
    own: list[float] = field(default_factory=list)  #: the stages' own times of each, together


class Contender:
    """A contender's processes, ready for work."""

    def __init__(self, entrant: Entrant, stack: Stack, world: World, send: Send) -> None:
        self.entrant = entrant
        self._stack = stack
        self._world = world
        self._send = send
        self.last_lines: deque[str] = deque(maxlen=60)
        self._ready: defaultdict[str, int] = defaultdict(int)
        self._turns: list[tuple[str, float]] = []
        commands = parse_procfile(entrant.procfile.read_text(encoding="utf-8")).processes
        self._awaited = {f"{name}.1": ready_lines(command) for name, command in commands.items()}
        self.supervisor = Supervisor(entrant.procfile, self._on_line, environ=entrant.environ(stack.environ))

    def _on_line(self, name: str, text: str) -> None:
        self.last_lines.append(f"{name}: {text}")
        line, _ = self._awaited[name]
        self._ready[name] += bool(line) and line in text
        if turn := _TURN.search(text):
            self._turns.append((turn[2], float(turn[3])))

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY
        while any(self._ready[name] < count for name, (_, count) in self._awaited.items()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.entrant.title} was not ready within {READY:g} s")
            time.sleep(0.05)

    def groups(self) -> dict[int, str]:
        """The process groups, and the type of each."""
        pids = {self.supervisor.pid(name): name.partition(".")[0] for name in self.supervisor.names}
        return {pid: name for pid, name in pids.items() if pid}

    def warm_up(self, side: int, count: int) -> None:
        """Do `count` jobs at once that nobody measures.

        Every process opens its connections and loads its libraries, and memory and page cache come to what a burst of
        so many needs: as they are where a worker has run for hours.
        """
        self._at_once(side, count)
        time.sleep(SETTLE)

    def _at_once(self, side: int, count: int) -> list[float]:
        jobs = self._world.payloads(side, count)
        self._send(jobs.values())
        return self._world.wait_for(jobs, TIMEOUT)

    def burst(self, side: int, count: int) -> Burst:
        """`count` jobs at once."""
        groups = self.groups()
        cpu, (emulator, requests) = cpu_seconds(groups), self._stack.counted()
        with watching(lambda: groups) as peak:
            since = time.monotonic()
            last = max(self._at_once(side, count))
            time.sleep(SETTLE)
        used, (emulator_used, counted) = cpu_seconds(groups), self._stack.counted()
        if self.groups() != groups:
            raise RuntimeError(f"a process of {self.entrant.title} died")
        by_type: defaultdict[str, float] = defaultdict(float)
        system: defaultdict[str, float] = defaultdict(float)
        for group, name in groups.items():
            by_type[name] += 1000 * (used[group].total - cpu[group].total) / count
            system[name] += 1000 * (used[group].system - cpu[group].system) / count
        return Burst(
            jobs=count,
            rate=count / (last - since),
            cpu=dict(by_type),
            system=dict(system),
            emulator=1000 * (emulator_used - emulator) / count,
            requests={kind: (counted - requests)[kind] / count for kind in sorted(counted - requests)},
            memory=peak.bytes,
        )

    def idle(self, side: int, count: int) -> Waits:
        """`count` single jobs, each after a pause."""
        self._turns.clear()
        waits = []
        for _ in range(count):
            time.sleep(random.uniform(0.1, PAUSE))  # noqa: S311 - no secret is drawn
            jobs = self._world.payloads(side, 1)
            since = time.monotonic()
            self._send(jobs.values())
            [ended] = self._world.wait_for(jobs, TIMEOUT)
            waits.append(ended - since)
        time.sleep(SETTLE)
        own: defaultdict[str, list[float]] = defaultdict(list)
        for job, seconds in self._turns:
            own[job].append(seconds)
        whole = (turns for turns in own.values() if len(turns) == len(STAGES))  # not what is left of an earlier job
        return Waits(waits, list(map(sum, whole)))

    def under_load(self, side: int, count: int, rate: float) -> Waits:
        """`count` jobs at chance moments, `rate` a second."""
        chance = random.Random(count)  # noqa: S311 - the same moments for all
        sent = {}
        due = time.monotonic()
        for job, payload in self._world.payloads(side, count).items():
            due += chance.expovariate(rate)
            time.sleep(max(0.0, due - time.monotonic()))
            sent[job] = time.monotonic()
            self._send([payload])
        ended = self._world.wait_for(sent, TIMEOUT)
        time.sleep(SETTLE)
        return Waits([end - since for end, since in zip(ended, sent.values(), strict=True)])


@contextmanager
def running(entrant: Entrant, folder: Path, world: World) -> Iterator[Contender]:
    """A contender on a stack of its own, with all of its processes ready."""
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


@dataclass(frozen=True)
class Plan:
    """How much is measured of each contender and side in a round."""

    jobs: int
    idle: int
    load_seconds: float


def measure(entrant: Entrant, folder: Path, world: World, sides: list[int], plan: Plan) -> Iterator[dict[str, Any]]:
    """One round of one contender: for each side a burst, for the largest also single jobs and a steady load."""
    with running(entrant, folder, world) as contender:
        jobs = max(10, plan.jobs // entrant.slowness)
        for side in sides:
            contender.warm_up(side, jobs)
            burst = contender.burst(side, jobs)
            found: dict[str, Any] = {"side": side, "burst": asdict(burst)}
            if side < max(sides):  # waiting is measured on the largest
                yield found
                continue
            if plan.idle:
                found["idle"] = asdict(contender.idle(side, plan.idle))
            if plan.load_seconds:
                rate = LOAD * burst.rate
                count = max(10, round(rate * plan.load_seconds))
                found["load"] = asdict(contender.under_load(side, count, rate))
            yield found
