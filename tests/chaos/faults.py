"""The faults of a run: three decks, shuffled and dealt repeatedly and concurrently."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.chaos.proxy import DELETES, RECEIVES, S3, SENDS, Act, Proxy, Trouble
from tests.chaos.service import Service
from tests.chaos.world import World
from tests.support.line import Line

KINDS = ("fetch", "resize", "upload", "notify", "ingest", "sweep")


@dataclass(frozen=True)
class Fault:
    """A fault. It is active for `seconds` while the context manager returned by `begin` is entered."""

    name: str
    seconds: float
    begin: Callable[[], AbstractContextManager[Any]]


def endpoint_faults(proxy: Proxy) -> list[Fault]:
    """Return the faults of SQS and S3."""
    sqs = SENDS | DELETES | RECEIVES | {"ChangeMessageVisibilityBatch", "GetQueueUrl"}

    def fault(name: str, seconds: float, *troubles: Trouble) -> Fault:
        return Fault(name, seconds, partial(proxy.trouble, *troubles))

    resets = (Trouble(Act.CUT_BEFORE, chance=0.15), Trouble(Act.CUT_MIDWAY, chance=0.15))
    return [
        Fault("SQS and S3 unreachable", 10, proxy.unreachable),
        fault("SQS and S3 slow", 5, Trouble(Act.DELAY, seconds=1.5)),
        fault("connections reset", 4, *resets),
        fault("SQS and S3 answer 503", 4, Trouble(Act.UNAVAILABLE, chance=0.7)),
        fault("SQS and S3 throttle", 4, Trouble(Act.THROTTLE, chance=0.7)),
        fault("credentials expired", 3, Trouble(Act.EXPIRED, sqs)),
        fault("only SendMessage fails", 5, Trouble(Act.UNAVAILABLE, SENDS)),
        fault("only DeleteMessage fails", 5, Trouble(Act.UNAVAILABLE, DELETES)),
        fault("only S3 fails", 5, Trouble(Act.UNAVAILABLE, S3)),
        fault("sends applied, answers lost", 4, Trouble(Act.LOSE_ANSWER, SENDS, chance=0.5)),
        fault("receives applied, answers lost", 2, Trouble(Act.LOSE_ANSWER, RECEIVES, chance=0.3)),
        fault("batches refused in part", 4, Trouble(Act.REFUSE_ENTRIES, SENDS | DELETES)),
        fault("messages delivered twice", 5, Trouble(Act.REPEAT, RECEIVES, chance=0.5)),
        fault("messages delivered five times", 5, Trouble(Act.REPEAT, RECEIVES, chance=0.3, copies=4)),
        fault("messages reordered", 5, Trouble(Act.REORDER, RECEIVES)),
    ]


def process_faults(service: Service, rng: random.Random, over: threading.Event) -> list[Fault]:
    """Return the faults of the processes, each during its work."""

    def send(kind: str, signum: int, *, group: bool = False) -> list[int]:
        deadline = time.monotonic() + 3
        while not service.is_busy(kind) and time.monotonic() < deadline:
            over.wait(0.02)
        return service.signal(kind, signum, rng, group=group)

    def sent(kind: str, signum: int, *, group: bool = False) -> AbstractContextManager[None]:
        send(kind, signum, group=group)
        return nullcontext()

    @contextmanager
    def stopped(kind: str) -> Iterator[None]:
        pids = send(kind, signal.SIGSTOP)
        try:
            yield
        finally:
            service.proceed(pids)

    faults = [
        Fault("kill -9 of a process with its workers", 1, partial(sent, rng.choice(KINDS), signal.SIGKILL, group=True))
    ]
    for kind in KINDS:
        faults += [
            Fault(f"{kind}: kill -9 of a worker", 1, partial(sent, kind, signal.SIGKILL)),
            Fault(f"{kind}: SIGTERM", 1, partial(sent, kind, signal.SIGTERM)),
            Fault(f"{kind}: stopped and continued", rng.uniform(3, 9), partial(stopped, kind)),
        ]
    return faults


def outside_faults(world: World, line: Line) -> list[Fault]:
    """Return the faults of sources, postback receivers and MongoDB."""
    moods = [Fault(f"receivers: {mood}", 4, partial(world.receivers, mood)) for mood in ("500", "302", "hangs")]
    moods += [Fault(f"receivers: {mood}", 5, partial(world.receivers, mood)) for mood in ("hangs up", "slow")]
    moods += [Fault(f"sources: {mood}", 4, partial(world.sources, mood)) for mood in ("503", "hang", "drip")]
    return [*moods, Fault("MongoDB down", 6, line.down)]


class Decks:
    """Deals each deck in a thread of its own, for `seconds` and at least once through.

    With a `scale` below 1, all faults and the pauses between them are that much shorter.
    """

    def __init__(
        self, decks: list[list[Fault]], seed: int, seconds: float, over: threading.Event, scale: float = 1.0
    ) -> None:
        self.thrown: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self._seconds = seconds
        self._scale = scale
        self._over = over
        self._threads = [
            threading.Thread(target=self._deal, args=[deck, random.Random(f"{seed} {place}")], daemon=True)
            for place, deck in enumerate(decks)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def are_dealt(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _deal(self, deck: list[Fault], rng: random.Random) -> None:
        began, first = time.monotonic(), True
        try:
            while first or time.monotonic() - began < self._seconds:
                rng.shuffle(deck)
                for fault in deck:
                    if self._over.is_set() or not (first or time.monotonic() - began < self._seconds):
                        return
                    with fault.begin():
                        self.thrown[fault.name] += 1
                        self._over.wait(fault.seconds * self._scale)
                    self._over.wait(rng.uniform(0, 2) * self._scale)
                first = False
        except BaseException as error:
            self.errors.append(error)


def least_duration(deck: list[Fault]) -> float:
    """Estimate the seconds it takes to deal a deck once."""
    return sum(fault.seconds + 1 for fault in deck)
